// SPDX-License-Identifier: GPL-2.0

//! Which SPI may be given out, case by case; the property `spi` compares that
//! with a model.

use crate::common::{v4, v6};
use module::{
    spi::{
        candidates::Candidates,
        cases::CASES,
        policy::{
            Rule,
            Scope::{self, Destination, Direction, Namespace},
        },
    },
    xfrm::uapi::*,
};
use std::collections::HashSet;

const IN: u8 = SA_DIR_IN;
const OUT: u8 = SA_DIR_OUT;
const NONE: u8 = 0;

fn id(daddr: Address, family: u16, proto: u8, spi: u32) -> Id {
    Id {
        daddr,
        spi: spi.to_be_bytes(),
        family,
        proto,
        pad: 0,
    }
}

fn esp(last: u8) -> Id {
    id(v4(last), AF_INET, IPPROTO_ESP, 0x100)
}

/// What a request for 10.0.0.1, ESP, 0x100 is told in the three scopes.
fn verdicts(dir: Option<u8>, sa: Id, sa_dir: u8) -> [bool; 3] {
    [Destination, Direction, Namespace].map(|scope| scope.rule(dir).forbids(&esp(1), &sa, sa_dir))
}

#[test]
fn cases() {
    const REQUESTS: [Option<u8>; 3] = [None, Some(OUT), Some(IN)];
    for sa_dir in [NONE, OUT, IN] {
        for request in REQUESTS {
            // The same destination, SPI and protocol: never.
            assert_eq!(verdicts(request, esp(1), sa_dir), [true; 3]);
            // Another SPI, or another protocol: always.
            let other_spi = id(v4(1), AF_INET, IPPROTO_ESP, 0x101);
            assert_eq!(verdicts(request, other_spi, sa_dir), [false; 3]);
            for proto in [IPPROTO_AH, IPPROTO_COMP, 4] {
                let other = id(v4(1), AF_INET, proto, 0x100);
                assert_eq!(verdicts(request, other, sa_dir), [false; 3]);
            }
        }
    }
    // Another destination: as the scope says.
    for other in [esp(2), id(v6(1), AF_INET6, IPPROTO_ESP, 0x100)] {
        for case in &CASES {
            assert_eq!(verdicts(case.request, other, case.sa), case.refused);
        }
    }
}

#[test]
fn families_are_told_apart() {
    // The same first four bytes.
    let six = id(v4(1), AF_INET6, IPPROTO_ESP, 0x100);
    assert!(!Rule::Destination.forbids(&esp(1), &six, NONE));
    assert!(Rule::Namespace.forbids(&esp(1), &six, NONE));
}

#[test]
fn what_lies_beyond_an_address_does_not_count() {
    let mut other = esp(1);
    other.daddr.0[4..].fill(0xff);
    assert!(Rule::Destination.forbids(&esp(1), &other, NONE));
}

#[test]
fn values() {
    assert_eq!(
        [0, 1, 2].map(Scope::new),
        [Destination, Direction, Namespace]
    );
    assert_eq!(Scope::new(Scope::DEFAULT), Direction);
    assert_eq!([Scope::MIN, Scope::MAX], [0, 2]);
}

/// Miri takes a thousand times as long.
const MANY: usize = if cfg!(miri) { 300 } else { 100_000 };

#[test]
fn ranges_that_have_none_end() {
    assert_eq!(Candidates::new(0..=0, 7).next(), None);
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = 9..=8;
    assert_eq!(Candidates::new(reversed, 7).next(), None);
}

#[test]
fn ranges_at_the_ends() {
    for random in [0, 1, u64::MAX / 2, u64::MAX] {
        let all = |range| Candidates::new(range, random).collect::<Vec<_>>();
        assert_eq!(all(0..=1), [1]);
        assert_eq!(all(5..=5), [5]);
        assert_eq!(all(u32::MAX..=u32::MAX), [u32::MAX]);
        let first: Vec<_> = Candidates::new(0..=u32::MAX, random).take(MANY).collect();
        assert!(!first.contains(&0));
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), first.len());
    }
    assert_eq!(Candidates::new(0..=u32::MAX, 0).next(), Some(1));
    assert_eq!(
        Candidates::new(0..=u32::MAX, u64::MAX).next(),
        Some(u32::MAX)
    );
}

/// Each start is as likely as another: random numbers that are spread evenly
/// start evenly.
#[test]
fn starts_are_spread() {
    const SPIS: u64 = if cfg!(miri) { 10 } else { 100 };
    let mut starts = [0; SPIS as usize];
    for n in 0..100 * SPIS {
        let random = n * (u64::MAX / (100 * SPIS)) + 1;
        let first = Candidates::new(1000..=999 + SPIS as u32, random)
            .next()
            .unwrap();
        starts[first as usize - 1000] += 1;
    }
    assert!(starts.iter().all(|n| (99..=101).contains(n)), "{starts:?}");
}

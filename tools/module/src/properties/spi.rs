// SPDX-License-Identifier: GPL-2.0

//! Each SPI of a range comes once, and the first free one is found.

use crate::{
    spi::{candidates::Candidates, policy::Scope},
    xfrm::uapi::*,
};
use arbitrary::{Result, Unstructured};

#[derive(Debug)]
struct Sa {
    id: Id,
    dir: u8,
}

/// SAs and requests that meet often.
fn sa(u: &mut Unstructured<'_>) -> Result<Sa> {
    let mut daddr = Address::default();
    daddr.0[3] = u.int_in_range(1..=3)?;
    Ok(Sa {
        id: Id {
            daddr,
            spi: u.int_in_range(1u32..=23)?.to_be_bytes(),
            family: *u.choose(&[AF_INET, AF_INET6])?,
            proto: *u.choose(&[IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP])?,
            pad: 0,
        },
        dir: *u.choose(&[0, SA_DIR_IN, SA_DIR_OUT])?,
    })
}

/// The rules once more, as docs/spi-scope.md puts them.
fn free(scope: i32, wanted: &Sa, spi: u32, sas: &[Sa]) -> bool {
    let same_spi = |sa: &&Sa| sa.id.spi == spi.to_be_bytes() && sa.id.proto == wanted.id.proto;
    let elsewhere = |sa: &Sa| (sa.id.family, sa.id.daddr) != (wanted.id.family, wanted.id.daddr);
    let mut taken = sas.iter().filter(same_spi);
    if scope == 2 {
        taken.next().is_none()
    } else if scope == 1 && wanted.dir == SA_DIR_IN {
        taken.all(|sa| sa.dir == SA_DIR_OUT && elsewhere(sa))
    } else {
        taken.all(elsewhere)
    }
}

pub fn holds(u: &mut Unstructured<'_>) -> Result<()> {
    let (low, count, random): (u32, u8, u64) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary()?);
    let high = low.saturating_add(count.into());
    let mut all: Vec<_> = Candidates::new(low..=high, random).collect();
    all.sort_unstable();
    assert!(
        all.iter().copied().eq(low.max(1)..=high),
        "{low} to {high}, from {random}: {all:?}"
    );

    let scope = u.int_in_range(0..=2)?;
    let low = u.int_in_range(0..=23)?;
    let high = low + u.int_in_range(0..=23)?;
    let wanted = sa(u)?;
    let mut sas = Vec::new();
    while !u.is_empty() {
        sas.push(sa(u)?);
    }
    let rule = Scope::new(scope).rule((wanted.dir != 0).then_some(wanted.dir));
    let found = Candidates::new(low..=high, random).find(|spi| {
        let wanted = Id {
            spi: spi.to_be_bytes(),
            ..wanted.id
        };
        !sas.iter().any(|sa| rule.forbids(&wanted, &sa.id, sa.dir))
    });
    let all: Vec<_> = (low.max(1)..=high)
        .filter(|&spi| free(scope, &wanted, spi, &sas))
        .collect();
    assert_eq!(
        found.is_some(),
        !all.is_empty(),
        "in scope {scope}, {wanted:?} of {low} to {high}, beside {sas:?}"
    );
    assert!(
        found.is_none_or(|spi| all.contains(&spi)),
        "{found:?} of {all:?}"
    );
    Ok(())
}

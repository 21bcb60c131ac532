// SPDX-License-Identifier: GPL-2.0

//! Random SAs, and random requests about them.

mod request;
mod state;

pub use request::plain;

use crate::case::{Case, Step};
use crate::message::Message;
use crate::sa::{self, attr, Sa};
use fastrand::Rng;
use module::xfrm::uapi::{Address, Encap, Mark, Offload, SaInfo, AF_INET, AF_INET6};
use request::after;
use state::{limits, used, FLAG_ESN, SOON};
use zerocopy::{transmute, IntoBytes};

/// What the namespaces have.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// A device that can offload ESP, the same number in both.
    pub device: i32,
}

const FAMILIES: [u16; 2] = [AF_INET, AF_INET6];
const LO: i32 = 1;
const DIR_IN: u8 = 1;
const DIR_OUT: u8 = 2;
/// SAs that others occupy have this address.
const OCCUPIED: u8 = 9;

/// 192.0.2.N or 2001:db8::N.
pub fn address(family: u16, last: u8) -> Address {
    let mut bytes = [0; 16];
    match family {
        AF_INET => bytes[..4].copy_from_slice(&[192, 0, 2, last]),
        _ => {
            bytes[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
            bytes[15] = last;
        }
    }
    Address(bytes)
}

/// Whether lo has this address.
pub fn is_ours(found: &Address, family: u16) -> bool {
    (1..=OCCUPIED).any(|last| address(family, last) == found.trimmed(family))
}

/// The case with this number of the run that `seed` stands for.
pub fn case(seed: u64, number: u64, world: World) -> Case {
    let mut random = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
    Generator {
        random: &mut random,
        world,
    }
    .case()
}

struct Generator<'a> {
    random: &'a mut Rng,
    world: World,
}

impl Generator<'_> {
    fn percent(&mut self, chance: u8) -> bool {
        self.random.u8(..100) < chance
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.usize(..of.len())]
    }

    fn udp(&mut self) -> Encap {
        Encap {
            encap_type: 2,
            sport: self.random.u16(1..).to_be_bytes(),
            dport: self.random.u16(1..).to_be_bytes(),
            pad: [0; 2],
            oa: address(AF_INET, 66),
        }
    }

    fn case(&mut self) -> Case {
        let with_packets = self.percent(8);
        let target = loop {
            let sa = self.sa();
            if !with_packets {
                break sa;
            }
            if sa::carries_packets(&sa) {
                break self.near_its_limits(sa);
            }
        };
        let mut sas = vec![target.clone()];
        if self.percent(40) {
            self.neighbours(&target, &mut sas);
        }
        let mut steps = Vec::new();
        let mut now = target;
        for _ in 0..self.random.usize(2..=5) {
            if with_packets {
                steps.push(Step::Packets(self.random.u32(1..=3)));
            }
            let request = self.request(&now, &sas);
            // As if it were done: the next one is about what would be then.
            if let Some(next) = after(&now, &request).filter(|_| self.random.u8(..4) != 0) {
                now = next;
            }
            steps.push(Step::Migrate(request));
        }
        if with_packets {
            steps.push(Step::Packets(self.random.u32(1..=3)));
        }
        Case {
            sas,
            steps,
            heard: !self.percent(10),
        }
    }

    /// Some packets, and a soft limit is told, or the window refuses them.
    fn near_its_limits(&mut self, mut sa: Message) -> Message {
        let mut info = sa.info();
        if self.percent(40) {
            info.lft = transmute!(limits(SOON));
            put(&mut sa, attr::LTIME_VAL, &used(0));
        }
        if sa.dir() == 0 && self.percent(30) {
            info.replay_window = 32;
            info.flags &= !FLAG_ESN;
            sa = sa.without(&[attr::REPLAY_ESN_VAL]);
            // Numbers to be sent that are received as old ones.
            put(&mut sa, attr::REPLAY_VAL, &[1u32, 100, u32::MAX]);
        }
        sa.set_info(&info);
        sa
    }

    /// Others that are in the way of a migration.
    fn neighbours(&mut self, target: &Message, sas: &mut Vec<Message>) {
        let info = target.info();
        let keys: Vec<_> = [
            attr::ALG_AEAD,
            attr::ALG_AUTH,
            attr::ALG_AUTH_TRUNC,
            attr::ALG_CRYPT,
            attr::ALG_COMP,
        ]
        .into();
        let plain = |info: &SaInfo| {
            let mut sa = sa::newsa(info);
            let known = target.attrs.iter().filter(|(kind, _)| keys.contains(kind));
            sa.attrs.extend(known.cloned());
            sa
        };
        let family = self.one(&FAMILIES);
        let spi = u32::from_be_bytes(info.spi);
        let mut there = sa::plain(
            address(family, OCCUPIED),
            address(family, OCCUPIED),
            family,
            spi,
        );
        there.proto = info.proto;
        let mut occupant = plain(&there);
        if self.percent(30) {
            occupant = occupant.with(attr::MARK, &Mark { v: 5, m: 0xff });
        }
        sas.push(occupant);
        if target.mark().m != 0 {
            let other = SaInfo {
                mode: sa::TRANSPORT,
                ..sa::plain(info.saddr, info.daddr, info.family, spi)
            };
            let mark = Mark {
                v: target.mark().v ^ 0x10,
                m: target.mark().m,
            };
            let other = SaInfo {
                proto: info.proto,
                ..other
            };
            // Without a mark it takes the target's, too.
            sas.push(match self.percent(10) {
                true => plain(&other),
                false => plain(&other).with(attr::MARK, &mark),
            });
        }
    }
}

fn offload(ifindex: i32, flags: u8) -> Offload {
    Offload {
        ifindex,
        flags,
        pad: [0; 3],
    }
}

fn put<T: IntoBytes + zerocopy::Immutable>(request: &mut Message, kind: u16, value: &T) {
    request.attrs.retain(|(known, _)| *known != kind);
    request.attrs.push((kind, value.as_bytes().to_vec()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::kind;

    const WORLD: World = World { device: 2 };

    #[test]
    fn a_seed_says_all() {
        for number in 0..50 {
            assert_eq!(case(7, number, WORLD), case(7, number, WORLD));
        }
        assert_ne!(case(7, 1, WORLD), case(7, 2, WORLD));
        assert_ne!(case(7, 1, WORLD), case(8, 1, WORLD));
    }

    #[test]
    fn requests_of_all_kinds() {
        let cases: Vec<_> = (0..2000).map(|number| case(1, number, WORLD)).collect();
        let attrs = |kind| {
            let steps = cases.iter().flat_map(|case| &case.steps);
            steps
                .filter(|step| matches!(step, Step::Migrate(r) if r.attr(kind).is_some()))
                .count()
        };
        for kind in (1..42).filter(|kind| *kind != 0) {
            assert!(attrs(kind) > 0, "no request has attribute {kind}");
        }
        let with = |kind| {
            cases
                .iter()
                .filter(|case| case.sas[0].attr(kind).is_some())
                .count()
        };
        for kind in [
            1, 2, 3, 4, 9, 10, 11, 12, 14, 18, 20, 21, 22, 23, 24, 28, 29, 30, 31, 32,
        ]
        .into_iter()
        .chain([33, 34, 35, 36, 41])
        {
            assert!(with(kind) > 5, "hardly any SA has attribute {kind}");
        }
        assert!(cases.iter().any(|case| case.sas[0].kind == kind::ALLOCSPI));
    }

    #[test]
    fn what_changes_nothing_is_what_it_is_after() {
        for number in 0..200 {
            let sa = case(3, number, WORLD).sas.remove(0);
            let next = after(&sa, &plain(&sa)).unwrap();
            assert_eq!(plain(&next), plain(&sa));
        }
    }
}

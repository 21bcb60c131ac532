// SPDX-License-Identifier: GPL-2.0

//! Makes a failing case smaller and plainer, for as long as it still fails.

use crate::case::{Case, Step};
use crate::explain::HEADER;
use crate::generate;
use crate::message::Message;
use crate::sa::{attr, newsa, Sa};
use module::xfrm::uapi::{MigrateState, SaInfo};
use std::mem::offset_of;

/// Applies what makes `case` simpler while `fails` says that it fails as before.
pub fn minimise(mut case: Case, mut fails: impl FnMut(&Case) -> bool) -> Case {
    while let Some(simpler) = simpler(&case).into_iter().find(&mut fails) {
        case = simpler;
    }
    case
}

/// Cases that are one step simpler, those that leave out most first.
fn simpler(case: &Case) -> Vec<Case> {
    let mut found = Vec::new();
    let mut change = |change: &dyn Fn(&mut Case)| {
        let mut simpler = case.clone();
        change(&mut simpler);
        if simpler != *case {
            found.push(simpler);
        }
    };
    for at in (0..case.steps.len()).rev() {
        change(&|case| {
            case.steps.remove(at);
        });
    }
    for at in (0..case.sas.len()).rev() {
        change(&|case| {
            case.sas.remove(at);
        });
    }
    change(&|case| case.heard = true);
    for (at, step) in case.steps.iter().enumerate() {
        let Step::Migrate(request) = step else {
            continue;
        };
        for simpler in requests(request, case.sas.first()) {
            change(&|case| case.steps[at] = Step::Migrate(simpler.clone()));
        }
    }
    for (at, sa) in case.sas.iter().enumerate() {
        for simpler in sas(sa) {
            change(&|case| case.sas[at] = simpler.clone());
        }
    }
    found
}

/// Parts of a request, which are reset one at a time.
const REQUEST: [usize; 10] = [
    offset_of!(MigrateState, id),
    offset_of!(MigrateState, new_daddr),
    offset_of!(MigrateState, new_saddr),
    offset_of!(MigrateState, old_mark),
    offset_of!(MigrateState, new_sel),
    offset_of!(MigrateState, new_reqid),
    offset_of!(MigrateState, flags),
    offset_of!(MigrateState, new_family),
    offset_of!(MigrateState, reserved),
    HEADER,
];

fn requests(request: &Message, sa: Option<&Message>) -> Vec<Message> {
    let mut found = Vec::new();
    let Some(plain) = sa.map(generate::plain) else {
        return found;
    };
    // Attributes that are only bytes so far.
    let split = request.whole().split(HEADER);
    if split.payload() == request.payload() {
        found.push(split);
    }
    if request.body.len() != HEADER {
        found.push(Message {
            body: plain.body.clone(),
            ..request.clone()
        });
    }
    found.push(Message {
        port: plain.port,
        ..request.clone()
    });
    found.extend(fewer_attributes(request));
    if request.body.len() >= HEADER {
        for part in REQUEST.windows(2) {
            let mut simpler = request.clone();
            simpler.body[part[0]..part[1]].copy_from_slice(&plain.body[part[0]..part[1]]);
            found.push(simpler);
        }
    }
    found
}

/// Parts of an SA that have a plain value. What names it is needed by the requests.
const SA: [(usize, usize); 8] = [
    (offset_of!(SaInfo, sel), 56),
    (offset_of!(SaInfo, lft), 64),
    (offset_of!(SaInfo, seq), 4),
    (offset_of!(SaInfo, reqid), 4),
    (offset_of!(SaInfo, mode), 1),
    (offset_of!(SaInfo, replay_window), 1),
    (offset_of!(SaInfo, flags), 1),
    (offset_of!(SaInfo, saddr), 16),
];

fn sas(sa: &Message) -> Vec<Message> {
    let info = sa.info();
    let spi = u32::from_be_bytes(info.spi);
    let plain = newsa(&SaInfo {
        proto: info.proto,
        ..crate::sa::plain(
            generate::address(info.family, 1),
            info.daddr,
            info.family,
            spi,
        )
    });
    let mut found = fewer_attributes(sa);
    for (at, length) in SA {
        let mut simpler = sa.clone();
        simpler.body[at..at + length].copy_from_slice(&plain.body[at..at + length]);
        found.push(simpler);
    }
    // Another cipher is no attribute less.
    let gcm = crate::sa::algorithm("rfc4106(gcm(aes))", Some(128), 20);
    let ciphers = [
        attr::ALG_AEAD,
        attr::ALG_CRYPT,
        attr::ALG_AUTH,
        attr::ALG_AUTH_TRUNC,
    ];
    if info.proto == crate::sa::ESP && !sa.is_larval() {
        let mut simpler = sa.without(&ciphers).with(attr::ALG_AEAD, &gcm[..]);
        simpler.attrs.sort();
        let mut sorted = sa.clone();
        sorted.attrs.sort();
        if simpler != sorted {
            found.push(simpler);
        }
    }
    found
}

fn fewer_attributes(message: &Message) -> Vec<Message> {
    let without = |at| {
        let mut simpler = message.clone();
        simpler.attrs.remove(at);
        simpler
    };
    (0..message.attrs.len()).map(without).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{case, World};

    const WORLD: World = World { device: 2 };

    fn has(case: &Case, wanted: u16) -> bool {
        let wants = |step: &Step| matches!(step, Step::Migrate(r) if r.attr(wanted).is_some());
        case.steps.iter().any(wants)
    }

    #[test]
    fn only_what_is_needed_stays() {
        let failing = (0..).map(|number| case(1, number, WORLD));
        for failing in failing.filter(|case| has(case, attr::MARK)).take(50) {
            let small = minimise(failing, |case| {
                has(case, attr::MARK) && !case.sas.is_empty()
            });
            assert_eq!((small.sas.len(), small.steps.len()), (1, 1));
            let Step::Migrate(request) = &small.steps[0] else {
                panic!("{small:?}")
            };
            assert_eq!(request.attrs.len(), 1);
            assert_eq!(request.body, generate::plain(&small.sas[0]).body);
        }
    }

    #[test]
    fn it_ends_whatever_fails() {
        for number in 0..50 {
            minimise(case(2, number, WORLD), |_| true);
            let whole = case(2, number, WORLD);
            assert_eq!(minimise(whole.clone(), |_| false), whole);
        }
    }
}

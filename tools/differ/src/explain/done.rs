// SPDX-License-Identifier: GPL-2.0

//! Changes of what a migration that was done has left.

use super::View;
use crate::case::Outcome;
use crate::message::{read, Message};
use crate::sa::{attr, Sa};
use module::xfrm::uapi::{MigrateState, SaInfo, Selector, AF_UNSPEC};
use zerocopy::IntoBytes;

/// A migration that was done: changes of its SA, and of what was told about it; then of
/// the SA that the kernel made for it.
pub(super) fn done(
    view: &View<'_>,
    c: &Outcome,
    mut change: impl FnMut(&mut Message, Option<&mut Message>),
) -> Option<Outcome> {
    if c.ack.errno != 0 {
        return None;
    }
    let mut changed = c.clone();
    let told = changed.told.first_mut().map(|(_, message)| message);
    let (new, others) = changed.sas.split_first_mut()?;
    change(new, told);
    for sa in others {
        if sa.is_hidden() && !view.before.contains(sa) {
            change(sa, None);
        }
    }
    (changed != *c).then_some(changed)
}

/// The attributes of a notification, in their order.
const TOLD: [u16; 8] = [
    attr::ENCAP,
    attr::OFFLOAD_DEV,
    attr::MARK,
    attr::SET_MARK,
    attr::SET_MARK_MASK,
    attr::MTIMER_THRESH,
    attr::NAT_KEEPALIVE_INTERVAL,
    attr::SA_DIR,
];

pub(super) fn tell(told: &mut Message, kind: u16, value: &[u8]) {
    let place = |kind: u16| TOLD.iter().position(|known| *known == kind);
    told.attrs.retain(|(known, _)| *known != kind);
    let after = told
        .attrs
        .iter()
        .position(|(known, _)| place(*known) > place(kind));
    let at = after.unwrap_or(told.attrs.len());
    told.attrs.insert(at, (kind, value.to_vec()));
}

pub(super) fn drop_attr(message: &mut Message, kind: u16) {
    message.attrs.retain(|(known, _)| *known != kind);
}

pub(super) fn with_info(sa: &mut Message, change: impl FnOnce(&mut SaInfo)) {
    let mut info = sa.info();
    change(&mut info);
    sa.set_info(&info);
}

pub(super) fn with_header(told: &mut Message, change: impl FnOnce(&mut MigrateState)) {
    let mut header: MigrateState = read(&told.body).expect("a notification has its fixed part");
    change(&mut header);
    told.body = header.as_bytes().to_vec();
}

pub(super) fn trim(selector: &mut Selector) {
    if selector.family != AF_UNSPEC {
        *selector = selector.trimmed();
    }
}

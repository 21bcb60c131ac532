// SPDX-License-Identifier: GPL-2.0

//! Telling listeners what has become of the SA.

use crate::{
    net::{Message, Namespace},
    xfrm::{
        messages,
        migrate::snapshot::Changes,
        uapi::{self, attr, MigrateState, Offload},
        State,
    },
};
use kernel::prelude::*;

/// Room for each attribute that a notification can have, with its header and
/// padding.
const ATTRIBUTES: usize = {
    use crate::net::message::attribute_size as space;

    space(size_of::<uapi::Encap>())
        + space(size_of::<uapi::Offload>())
        + space(size_of::<uapi::Mark>())
        + 4 * space(size_of::<u32>())
        + space(size_of::<u8>())
};

/// Announces the new SA to those who listen; if nobody does, nothing happens.
///
/// `header` is the request's, `changes` is what came of it, `portid` and `seq` are
/// its sender's. Fails if somebody who listens didn't get it. Mirrors
/// `xfrm_send_migrate_state()`.
pub fn announce(
    net: &Namespace,
    new: &State,
    header: &MigrateState,
    changes: &Changes,
    portid: u32,
    seq: u32,
) -> Result {
    if !messages::has_listeners(net, uapi::GROUP_MIGRATE) {
        return Ok(());
    }
    let fixed = MigrateState {
        new_sel: changes.selector,
        ..*header
    };
    let mut message = Message::new(portid, seq, uapi::MSG_MIGRATE_STATE, &fixed, ATTRIBUTES)?;
    put_attributes(&mut message, changes, new.offload(), new.dir())?;
    match messages::multicast(net, message, uapi::GROUP_MIGRATE) {
        // The last listener has just left.
        Err(e) if e == ESRCH => Ok(()),
        result => result,
    }
}

fn put_attributes(
    message: &mut Message,
    sa: &Changes,
    offload: Option<Offload>,
    dir: u8,
) -> Result {
    if let Some(encap) = &sa.encap {
        message.put(attr::ENCAP, encap)?;
    }
    if let Some(offload) = &offload {
        message.put(attr::OFFLOAD_DEV, offload)?;
    }
    if sa.mark.is_set() {
        message.put(attr::MARK, &sa.mark)?;
    }
    if sa.output_mark.is_set() {
        message.put(attr::SET_MARK, &sa.output_mark.v)?;
        message.put(attr::SET_MARK_MASK, &sa.output_mark.m)?;
    }
    if sa.mapping_maxage != 0 {
        message.put(attr::MTIMER_THRESH, &sa.mapping_maxage)?;
    }
    if sa.nat_keepalive != 0 {
        message.put(attr::NAT_KEEPALIVE_INTERVAL, &sa.nat_keepalive)?;
    }
    if dir != 0 {
        message.put(attr::SA_DIR, &dir)?;
    }
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! What the bond and its slaves do of ESP.
//!
//! The bond's features are the administrator's wish. When it does more than
//! before, the slaves are asked for the same, and if one can't, all is as it was.
//! When a slave does less than the bond, so does the bond.
//!
//! Changing features causes events, which come back here: so what the bond does is
//! noted before anything is changed, and nothing is done about what is known.

use super::{lag::Lag, verdict};
use crate::{
    net::{device::Esp, warn_ratelimited, Device, Rtnl},
    xfrm::offload::{lower, replica::MAX_LOWERS, upper::Upper},
};
use kernel::{prelude::*, sync::aref::ARef};

/// Follows the features of a bond.
pub fn of_bond(rtnl: &Rtnl, bond: &Upper<Lag>) {
    let device = bond.device();
    let now = verdict::shared_esp(device);
    let unfit = now.segmentation();
    if !unfit.is_none() {
        let name = device.name(rtnl);
        warn_ratelimited!(
            "{name}: no tx-esp-segmentation, its slaves may differ in what they segment\n"
        );
        // This comes back here.
        return device.want_esp(rtnl, Esp::NONE, unfit);
    }
    let before = core::mem::replace(&mut bond.lock().data().esp, now);
    if before.contains(now) {
        return;
    }
    let (enabled, failed) = enable_all(rtnl, device, now);
    if let Some(slave) = failed {
        // First the bond: its slaves' events, with their locks held, would find it
        // doing more than is noted, and ask them for that.
        bond.lock().data().esp = before;
        device.want_esp(rtnl, Esp::NONE, now - before);
        for (slave, borrowed) in enabled {
            disable(rtnl, &slave, borrowed);
        }
        bond.lock().data().esp = verdict::shared_esp(device);
        let name = device.name(rtnl);
        match slave {
            Some(slave) => {
                warn_ratelimited!("{name}: no ESP offload, {} can't do it\n", slave.name(rtnl));
            }
            None => warn_ratelimited!("{name}: no ESP offload, there is no memory\n"),
        }
        return;
    }
    let mut lag = bond.lock();
    for (slave, borrowed) in enabled {
        lag.data().borrow(&slave, borrowed);
    }
}

/// Follows the features of a slave.
pub fn of_slave(rtnl: &Rtnl, bond: &Upper<Lag>, slave: &Device) {
    let lost = {
        let mut lag = bond.lock();
        let lag = lag.data();
        // One that is still joining is its own judge.
        if !lag.slaves().any(|other| other.is(slave)) {
            return;
        }
        let esp = lag.esp;
        let missing = esp - slave.esp();
        let left = if missing.offloads() {
            // Without the ciphers the rest is of no use.
            Esp::NONE
        } else {
            esp - missing
        };
        lag.esp = left;
        esp - left
    };
    if !lost.is_none() {
        let (name, slave) = (bond.device().name(rtnl), slave.name(rtnl));
        warn_ratelimited!("{name}: no ESP offload any more, {slave} has stopped it\n");
        bond.device().want_esp(rtnl, Esp::NONE, lost);
    }
}

/// What has been asked of slaves.
type Enabled = KVec<(ARef<Device>, Esp)>;

/// Asks all slaves for what the bond does. Returns what they have been asked for, and if one
/// can't that slave, or nothing for want of memory.
fn enable_all(rtnl: &Rtnl, bond: &Device, esp: Esp) -> (Enabled, Option<Option<ARef<Device>>>) {
    let mut enabled = KVec::new();
    for (n, slave) in rtnl.lowers(bond).enumerate() {
        if enabled.reserve(1, GFP_KERNEL).is_err() {
            return (enabled, Some(None));
        }
        let borrowed = enable(rtnl, slave, esp);
        let _ = enabled.push_within_capacity((slave.into(), borrowed));
        if n >= MAX_LOWERS || !lower::is_possible(slave) || !slave.esp().contains(esp) {
            return (enabled, Some(Some(slave.into())));
        }
    }
    (enabled, None)
}

/// Asks a slave for what it lacks of `esp`, if it could do that. Returns what it
/// does more than before.
pub fn enable(rtnl: &Rtnl, slave: &Device, esp: Esp) -> Esp {
    let before = slave.esp();
    let missing = esp - before;
    if missing.is_none() || !slave.possible_esp(rtnl).contains(missing) {
        return Esp::NONE;
    }
    slave.want_esp(rtnl, missing, Esp::NONE);
    slave.esp() - before
}

/// Takes back what a slave has been asked for.
pub fn disable(rtnl: &Rtnl, slave: &Device, borrowed: Esp) {
    if !borrowed.is_none() {
        slave.want_esp(rtnl, Esp::NONE, borrowed);
    }
}

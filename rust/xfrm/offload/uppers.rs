// SPDX-License-Identifier: GPL-2.0

//! Taking a device over from its driver, and giving it back.
//!
//! C header: `include/linux/netdevice.h` (`struct xfrmdev_ops`)

use super::{
    upper::{Ops, Upper},
    upper_calls::{drop_later, Callbacks, Exit},
};
use crate::{
    net::{bonding::Bond, not_supported, Device, Rtnl},
    raw,
};
use core::{mem::ManuallyDrop, ptr};
use kernel::{
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc,
    },
    time::{delay::fsleep, Delta},
};

/// That the SAs of a device are ours; dropping it gives them back to its driver,
/// without those there are.
///
/// # Examples
///
/// ```ignore
/// fn take(exit: &Arc<Exit<Lag>>, rtnl: &Rtnl, bond: Bond<'_>) -> Result<Takeover<Lag>> {
///     let mut lag = Lag::new();
///     rtnl.lowers(bond.device()).try_for_each(|slave| lag.note(slave))?;
///     Takeover::new(exit, bond, lag, rtnl)
/// }
///
/// /// Returns it again while it has an SA that can't be flushed yet.
/// fn give_back(rtnl: &Rtnl, taken: Takeover<Lag>) -> Option<Takeover<Lag>> {
///     taken.give_back(rtnl).err()
/// }
/// ```
pub struct Takeover<T: Ops> {
    upper: Arc<Upper<T>>,
    // Dropped afterwards: it waits for those who are in our operations.
    exit: Arc<Exit<T>>,
}

impl<T: Ops> Takeover<T> {
    /// Takes a bond over, unless its driver has no operations, or knows of lower devices
    /// itself. May sleep. SAs that are there stay the driver's. `data` are for
    /// [`Locked::data`](super::upper::Locked::data).
    ///
    /// Fails with `EOPNOTSUPP` or `ENOMEM`.
    pub fn new(exit: &Arc<Exit<T>>, bond: Bond<'_>, data: T, _rtnl: &Rtnl) -> Result<Self> {
        let device = bond.device();
        // SAFETY: The device is valid, and who else exchanges its operations
        // takes RTNL.
        let original = unsafe { (*device.as_ptr()).xfrmdev_ops };
        // SAFETY: Null, or what the driver has set: it stays as the device does.
        let theirs = unsafe { original.as_ref() }
            .filter(|ops| {
                ops.xdo_dev_state_add.is_some() && ops.xdo_dev_state_lower_handle.is_none()
            })
            .ok_or_else(not_supported)?;
        let upper = Upper::new(device, Callbacks::<T>::table(theirs), original, data)?;
        set_ops(device, Arc::as_ptr(&upper).cast());
        Ok(Self {
            upper,
            exit: exit.clone(),
        })
    }

    /// Returns what has been taken over.
    pub fn upper(&self) -> &Arc<Upper<T>> {
        &self.upper
    }

    /// Takes no more SAs, flushes if there are any and, if none is left, gives the
    /// device back. Sleeps. A reference to the device is given up later.
    ///
    /// Otherwise an SA is on its way to where it can be flushed, or to its end:
    /// try again after a while.
    pub fn give_back(self, rtnl: &Rtnl) -> Result<(), Self> {
        let upper = &self.upper;
        // Not if there are only some of the driver's.
        if upper.close() {
            upper.flush(rtnl);
        }
        if !upper.end(|| set_ops(upper.device(), upper.original)) {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        // SAFETY: Each is taken once, as there is no drop.
        let (upper, _exit) = unsafe { (ptr::read(&this.upper), ptr::read(&this.exit)) };
        drop_later(upper);
        Ok(())
    }
}

impl<T: Ops> Drop for Takeover<T> {
    /// Takes RTNL, and waits.
    fn drop(&mut self) {
        let mut this = Self {
            upper: self.upper.clone(),
            exit: self.exit.clone(),
        };
        loop {
            match this.give_back(&Rtnl::lock()) {
                Ok(()) => return,
                Err(busy) => this = busy,
            }
            fsleep(Delta::from_millis(10));
        }
    }
}

/// The caller holds RTNL. Who reads the pointer finds the table complete.
fn set_ops(device: &Device, ops: *const raw::xfrmdev_ops) {
    // SAFETY: The device is valid; whoever reads the field without RTNL reads it
    // at once.
    let place = unsafe { Atomic::from_ptr((&raw mut (*device.as_ptr()).xfrmdev_ops).cast()) };
    place.store(ops.cast_mut(), ordering::Release);
}

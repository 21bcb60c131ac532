// SPDX-License-Identifier: GPL-2.0

//! The operations of an [`Upper`], as the kernel calls them.
//!
//! Each is the SA's: ours if something is behind its `upper_priv`, else that of
//! the device's own driver, which is called instead. One of ours that has been freed meanwhile
//! is dead by then: the driver isn't called for it, since it would look for the device, which the
//! SA has no more. [`super::upper`] says in which
//! contexts they are called.

use super::{
    lower::{call, Operation, Sa},
    replica::Replica,
    upper::{upper_priv, Ops, Upper},
    uppers::{find, original, Sleeper, Uppers},
};
use crate::{
    net::{rcu::Held, Device, ExtAck, TextBarrier},
    raw,
};
use core::marker::PhantomData;
use kernel::{
    error::from_result,
    ffi::{c_int, c_ulong},
    prelude::*,
    sync::{rcu, Arc},
};

/// Makes what devices can be taken over by, all with the same `T`. May sleep. Fails with `EBUSY` if
/// there is one, or `ENOMEM`.
pub fn uppers<T: Ops>(text: Arc<TextBarrier>) -> Result<Arc<Uppers<T>>> {
    Uppers::new(Callbacks::<T>::table, text)
}

/// The functions that the kernel calls.
struct Callbacks<T: Ops>(PhantomData<T>);

impl<T: Ops> Callbacks<T> {
    const TABLE: raw::xfrmdev_ops = raw::xfrmdev_ops {
        xdo_dev_state_add: Some(Self::add),
        xdo_dev_state_delete: Some(Self::delete),
        xdo_dev_state_free: Some(Self::free),
        xdo_dev_offload_ok: Some(Self::offload_ok),
        xdo_dev_state_advance_esn: Some(Self::advance_esn),
        xdo_dev_state_update_stats: Some(Self::update_stats),
        xdo_dev_policy_add: None,
        xdo_dev_policy_delete: None,
        xdo_dev_policy_free: None,
        xdo_dev_state_lower_handle: Some(Self::lower_handle),
        #[cfg(XFRM_NEXT_LAG_STATS)]
        xdo_dev_state_lower_stats: Some(Self::lower_stats),
        flags: 0,
    };

    /// Returns ours, but for policies.
    fn table(theirs: &raw::xfrmdev_ops) -> raw::xfrmdev_ops {
        raw::xfrmdev_ops {
            xdo_dev_policy_add: theirs.xdo_dev_policy_add,
            xdo_dev_policy_delete: theirs.xdo_dev_policy_delete,
            xdo_dev_policy_free: theirs.xdo_dev_policy_free,
            ..Self::TABLE
        }
    }

    /// # Safety
    ///
    /// For the kernel, as the header says.
    unsafe extern "C" fn add(
        dev: *mut raw::net_device,
        x: *mut raw::xfrm_state,
        extack: *mut raw::netlink_ext_ack,
    ) -> c_int {
        let sleeper = Sleeper::new();
        // SAFETY: The kernel's arguments are valid during the call.
        let (device, sa, mut ack) = unsafe {
            (
                Device::from_raw(dev),
                Sa::from_raw(x),
                ExtAck::from_raw(extack),
            )
        };
        from_result(|| {
            // SAFETY: This is one of our operations.
            let (this, theirs) = unsafe { (find(device, &sleeper), original::<T>(device)) };
            let ours = this.map_or(Ok(false), |this: Arc<Upper<T>>| this.add(sa, &mut ack))?;
            Ok(match theirs.xdo_dev_state_add {
                // SAFETY: As we are called.
                Some(add) if !ours => unsafe { add(dev, x, extack) },
                _ => 0,
            })
        })
    }

    /// # Safety
    ///
    /// For the kernel, as the header says.
    unsafe extern "C" fn delete(dev: *mut raw::net_device, x: *mut raw::xfrm_state) {
        // SAFETY: The kernel's arguments are valid during the call.
        let (device, sa) = unsafe { (Device::from_raw(dev), Sa::from_raw(x)) };

        if let Some(replica) = upper_priv(sa).read(&rcu::read_lock()) {
            return replica.delete();
        }
        // SAFETY: This is one of our operations, and as it is called.
        unsafe {
            if let Some(delete) = original::<T>(device).xdo_dev_state_delete {
                delete(dev, x);
            }
        }
    }

    /// # Safety
    ///
    /// For the kernel, as the header says.
    unsafe extern "C" fn free(dev: *mut raw::net_device, x: *mut raw::xfrm_state) {
        let sleeper = Sleeper::new();
        // SAFETY: The kernel's arguments are valid during the call.
        let (device, sa) = unsafe { (Device::from_raw(dev), Sa::from_raw(x)) };

        // SAFETY: This is one of our operations, and as it is called.
        unsafe {
            if !upper_priv(sa).is_empty() {
                // A device isn't given back before its SAs.
                if let Some(this) = find::<T>(device, &sleeper) {
                    this.release(sa);
                }
            } else if let Some(free) = original::<T>(device).xdo_dev_state_free {
                free(dev, x);
            }
        }
    }

    /// # Safety
    ///
    /// For the kernel, as the header says.
    unsafe extern "C" fn offload_ok(skb: *mut raw::sk_buff, x: *mut raw::xfrm_state) -> bool {
        // SAFETY: The kernel's arguments are valid during the call.
        let Some((device, sa)) = (unsafe { offloaded(x) }) else {
            return false;
        };
        if !upper_priv(sa).is_empty() {
            return T::may_offload(device);
        }
        if sa.is_dead() {
            return false;
        }
        // SAFETY: This is one of our operations, and as it is called.
        unsafe {
            let ok = original::<T>(device).xdo_dev_offload_ok;
            ok.is_none_or(|ok| ok(skb, x))
        }
    }

    /// # Safety
    ///
    /// For the kernel, as the header says.
    unsafe extern "C" fn advance_esn(
        #[cfg(XFRM_NEXT_LAG_DEV)] _dev: *mut raw::net_device,
        x: *mut raw::xfrm_state,
    ) {
        // SAFETY: As we are called. The kernel has locked the SA for a packet, which has a
        // reference.
        unsafe {
            Self::tell(
                x,
                |replica| replica.advance_esn(),
                |ops| ops.xdo_dev_state_advance_esn,
            )
        }
    }

    /// # Safety
    ///
    /// For the kernel, as the header says.
    unsafe extern "C" fn update_stats(
        #[cfg(XFRM_NEXT_LAG_DEV)] _dev: *mut raw::net_device,
        x: *mut raw::xfrm_state,
    ) {
        // SAFETY: As we are called.
        unsafe {
            Self::tell(
                x,
                |replica| replica.update_stats(),
                |ops| ops.xdo_dev_state_update_stats,
            )
        }
    }

    /// Calls `ours` if the SA is ours, else the operation of the device's own driver that
    /// `theirs` returns, if there is one and the SA isn't dead.
    ///
    /// # Safety
    ///
    /// For one of our operations, with its argument, where both may be called.
    unsafe fn tell(
        x: *mut raw::xfrm_state,
        ours: impl FnOnce(&Replica),
        theirs: impl FnOnce(&raw::xfrmdev_ops) -> Option<Operation>,
    ) {
        // Who asks for the statistics of one SA holds no lock that keeps the device.
        let rcu = rcu::read_lock();
        // SAFETY: The kernel's arguments are valid during the call.
        let Some((device, sa)) = (unsafe { offloaded(x) }) else {
            return;
        };
        if let Some(replica) = upper_priv(sa).read(&rcu) {
            return ours(replica);
        }
        // SAFETY: This is one of our operations.
        let theirs = theirs(unsafe { original::<T>(device) });
        if let (Some(theirs), false) = (theirs, sa.is_dead()) {
            // SAFETY: As the caller promises.
            unsafe { call(theirs, device, sa) }
        }
    }

    /// # Safety
    ///
    /// For the kernel, as the header says.
    unsafe extern "C" fn lower_handle(
        _dev: *mut raw::net_device,
        x: *mut raw::xfrm_state,
        lower: *mut raw::net_device,
    ) -> c_ulong {
        // SAFETY: The kernel's arguments are valid during the call, which is
        // under RCU.
        let (sa, lower, rcu) =
            unsafe { (Sa::from_raw(x), Device::from_raw(lower), Held::assume()) };

        let replica = upper_priv(sa).read(rcu);
        replica.map_or(0, |replica| replica.handle(lower, rcu)) as c_ulong
    }

    /// # Safety
    ///
    /// For the kernel, as the header says.
    #[cfg(XFRM_NEXT_LAG_STATS)]
    unsafe extern "C" fn lower_stats(
        _dev: *mut raw::net_device,
        x: *mut raw::xfrm_state,
        lower: *mut raw::net_device,
        packets: u64,
        bytes: u64,
    ) {
        // SAFETY: The kernel's arguments are valid during the call, which is
        // under RCU.
        let (sa, lower, rcu) =
            unsafe { (Sa::from_raw(x), Device::from_raw(lower), Held::assume()) };

        if let Some(replica) = upper_priv(sa).read(rcu) {
            replica.count(lower, packets, bytes, rcu);
        }
    }
}

/// Returns the device of an SA and the SA, unless the device has just gone.
///
/// # Safety
///
/// `x` is valid, and under RCU or a lock that keeps bottom halves off.
unsafe fn offloaded<'a>(x: *mut raw::xfrm_state) -> Option<(&'a Device, &'a Sa)> {
    // SAFETY: The caller promises it. The kernel frees a device a grace period after it has told
    // of its end, when it takes it from its SAs; its own readers rely on that, too.
    unsafe {
        let dev = (&raw const (*x).xso.dev).read_volatile();
        (!dev.is_null()).then(|| (Device::from_raw(dev), Sa::from_raw(x)))
    }
}

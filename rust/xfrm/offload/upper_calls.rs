// SPDX-License-Identifier: GPL-2.0

//! The operations of an [`Upper`], as the kernel calls them.
//!
//! Each is the SA's: ours if something is behind its `upper_priv`, else that of
//! the device's own driver, which is called instead. [`super::upper`] says in which
//! contexts they are called.

use super::{
    lower::Sa,
    upper::{upper_priv, Ops, Upper},
};
use crate::{
    net::{rcu::Held, Device, ExtAck, TextBarrier},
    raw,
};
use core::{marker::PhantomData, mem};
use kernel::{
    error::from_result,
    ffi::{c_int, c_ulong},
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        rcu, Arc,
    },
    time::{delay::fsleep, Delta},
    workqueue,
};

/// Devices can be taken over while this is there, all with the same `T`. Waits, when it is
/// dropped, until nobody is in our operations any more; whoever has taken a device over has
/// given it back by then. Then, after the [`TextBarrier`], the text may go.
pub struct Exit<T: Ops> {
    _text: Arc<TextBarrier>,
    _ops: PhantomData<T>,
}

/// Whether there is an [`Exit`].
static TAKEN: Atomic<i32> = Atomic::new(0);

impl<T: Ops> Exit<T> {
    /// Makes one. May sleep. Fails with `EBUSY` if there is one, or `ENOMEM`.
    pub fn new(text: Arc<TextBarrier>) -> Result<Arc<Self>> {
        if TAKEN.xchg(1, ordering::Full) != 0 {
            return Err(EBUSY);
        }
        let this = Self {
            _text: text,
            _ops: PhantomData,
        };
        Ok(Arc::new(this, GFP_KERNEL)?)
    }
}

impl<T: Ops> Drop for Exit<T> {
    fn drop(&mut self) {
        // Who has read the operations before they were exchanged, or doesn't
        // sleep in them, is done; or sleeps there, and is counted.
        drop(TextBarrier);
        while SLEEPERS.load(ordering::Acquire) != 0 {
            fsleep(Delta::from_millis(1));
        }
        TAKEN.store(0, ordering::Release);
    }
}

/// How many calls there are of operations that may sleep.
static SLEEPERS: Atomic<i32> = Atomic::new(0);

struct Sleeper;

impl Sleeper {
    fn new() -> Self {
        SLEEPERS.add(1, ordering::Relaxed);
        Self
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        SLEEPERS.fetch_sub(1, ordering::Release);
    }
}

/// Gives a reference up when whoever has found it by operations that aren't the device's
/// any more is done: under RCU, or as a task that doesn't sleep between reading the
/// operations and calling. May sleep, but doesn't wait if there is memory to do it later.
pub(super) fn drop_later<T: Send + Sync + 'static>(this: Arc<T>) {
    let wait = || {
        // SAFETY: Both may be called wherever one may sleep.
        unsafe {
            raw::xfrm_next_synchronize_rcu();
            raw::xfrm_next_synchronize_rcu_tasks();
        }
    };
    let (same, sleeper) = (this.clone(), Sleeper::new());
    let later = workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
        wait();
        drop(same);
        drop(sleeper);
    });
    if later.is_err() {
        wait();
    }
    drop(this);
}

/// Returns what has been taken over, if the device's operations are ours.
fn find<'a, T: Ops>(device: &Device, rcu: &'a rcu::Guard) -> Option<&'a Upper<T>> {
    upper(current(device), rcu)
}

/// Returns what these operations are the first field of, if they are ours.
fn upper<T: Ops>(ops: *const raw::xfrmdev_ops, _rcu: &rcu::Guard) -> Option<&Upper<T>> {
    // SAFETY: Null, or operations that stay while we are under RCU. Ours are the
    // only ones that know of lower devices (`Takeover::new`), and have one `T` (`Exit`).
    unsafe {
        ops.as_ref()?.xdo_dev_state_lower_handle?;
        ops.cast::<Upper<T>>().as_ref()
    }
}

fn current(device: &Device) -> *const raw::xfrmdev_ops {
    // SAFETY: The device is valid, and the pointer is written at once.
    unsafe { (&raw const (*device.as_ptr()).xfrmdev_ops).read_volatile() }
}

/// Returns the operations of the device's own driver.
fn original<T: Ops>(device: &Device) -> &raw::xfrmdev_ops {
    let rcu = rcu::read_lock();
    let ops = current(device);
    let ops = upper::<T>(ops, &rcu).map_or(ops, |this| this.original);
    // SAFETY: What the driver has set stays as long as the device does; there are
    // operations, since we have been called.
    unsafe { &*ops }
}

/// The functions that the kernel calls.
pub(super) struct Callbacks<T: Ops>(PhantomData<T>);

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
        flags: 0,
    };

    /// Returns ours, but for policies.
    pub(super) fn table(theirs: &raw::xfrmdev_ops) -> raw::xfrmdev_ops {
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
        let _sleeper = Sleeper::new();
        // SAFETY: The kernel's arguments are valid during the call.
        let (device, sa, mut ack) = unsafe {
            (
                Device::from_raw(dev),
                Sa::from_raw(x),
                ExtAck::from_raw(extack),
            )
        };
        // SAFETY: By its type invariant it is in an `Arc` that has a reference as
        // long as we are under RCU.
        let this = find::<T>(device, &rcu::read_lock()).map(|this| unsafe { arc(this) });

        from_result(|| {
            let ours = this.map_or(Ok(false), |this| this.add(sa, &mut ack))?;
            let theirs = original::<T>(device).xdo_dev_state_add;
            Ok(match theirs {
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
        if let Some(delete) = original::<T>(device).xdo_dev_state_delete {
            // SAFETY: As we are called.
            unsafe { delete(dev, x) }
        }
    }

    /// # Safety
    ///
    /// For the kernel, as the header says.
    unsafe extern "C" fn free(dev: *mut raw::net_device, x: *mut raw::xfrm_state) {
        let _sleeper = Sleeper::new();
        // SAFETY: The kernel's arguments are valid during the call.
        let (device, sa) = unsafe { (Device::from_raw(dev), Sa::from_raw(x)) };

        if !upper_priv(sa).is_empty() {
            // SAFETY: As in `add`. A device isn't given back before its SAs.
            let this = find::<T>(device, &rcu::read_lock()).map(|this| unsafe { arc(this) });
            if let Some(this) = this {
                this.release(sa);
            }
        } else if let Some(free) = original::<T>(device).xdo_dev_state_free {
            // SAFETY: As we are called.
            unsafe { free(dev, x) }
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
        // As in `is_theirs`, which would look at the place again.
        if sa.is_dead() {
            return false;
        }
        match original::<T>(device).xdo_dev_offload_ok {
            // SAFETY: As we are called.
            Some(ok) => unsafe { ok(skb, x) },
            None => true,
        }
    }

    /// # Safety
    ///
    /// For the kernel, as the header says.
    unsafe extern "C" fn advance_esn(x: *mut raw::xfrm_state) {
        // SAFETY: The kernel's arguments are valid during the call.
        if let Some((device, sa)) = unsafe { offloaded(x) } {
            let theirs = original::<T>(device).xdo_dev_state_advance_esn;
            // None of ours has such numbers.
            if let (Some(advance), true) = (theirs, is_theirs(sa)) {
                // SAFETY: As we are called.
                unsafe { advance(x) }
            }
        }
    }

    /// # Safety
    ///
    /// For the kernel, as the header says.
    unsafe extern "C" fn update_stats(x: *mut raw::xfrm_state) {
        // Who asks for one SA holds no lock that keeps the device.
        let _rcu = rcu::read_lock();
        // SAFETY: The kernel's arguments are valid during the call.
        if let Some((device, sa)) = unsafe { offloaded(x) } {
            let theirs = original::<T>(device).xdo_dev_state_update_stats;
            // Packets of ours are counted by the kernel.
            if let (Some(update), true) = (theirs, is_theirs(sa)) {
                // SAFETY: As we are called.
                unsafe { update(x) }
            }
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
}

/// Whether the SA is the driver's. One of ours that has been freed meanwhile is
/// dead by then: its driver would look for the device, which it has no more.
fn is_theirs(sa: &Sa) -> bool {
    upper_priv(sa).is_empty() && !sa.is_dead()
}

/// Returns the device of an SA and the SA, unless the device has just gone.
///
/// # Safety
///
/// `x` is valid, and under RCU or a lock that keeps bottom halves off.
unsafe fn offloaded<'a>(x: *mut raw::xfrm_state) -> Option<(&'a Device, &'a Sa)> {
    // SAFETY: The caller promises it: a device is freed after a grace period.
    unsafe {
        let dev = (&raw const (*x).xso.dev).read_volatile();
        (!dev.is_null()).then(|| (Device::from_raw(dev), Sa::from_raw(x)))
    }
}

/// Takes a reference.
///
/// # Safety
///
/// `this` must be in an `Arc` that has a reference.
unsafe fn arc<T: Ops>(this: &Upper<T>) -> Arc<Upper<T>> {
    // SAFETY: The caller promises it; the borrowed reference isn't given up.
    let borrowed = mem::ManuallyDrop::new(unsafe { Arc::from_raw(this) });
    Arc::clone(&borrowed)
}

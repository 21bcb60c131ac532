// SPDX-License-Identifier: GPL-2.0

//! Being the one who offloads the SAs of an upper device, in place of its own
//! driver.
//!
//! The device's operations are exchanged for ours. Each SA is either ours, which
//! is to say that we have put something behind its `upper_priv`, or the driver's,
//! as those are that were there before: what concerns one of the driver's is
//! passed on to it.
//!
//! What the kernel guarantees where it calls us:
//!
//! | operation | context |
//! |---|---|
//! | add | may sleep; `xfrm_cfg_mutex`; nobody can find the SA yet |
//! | delete | bottom halves off and the SA's lock held, mostly |
//! | free | may sleep; RTNL, or the worker that collects SAs; also without delete |
//! | offload_ok, lower_handle | RCU |
//! | advance_esn | the SA's lock |
//! | update_stats | the SA's lock, `xfrm_state_lock`, or neither (`XFRM_MSG_GETSA`) |
//!
//! When the worker frees an SA, nobody holds a reference, and its keys are gone.
//!
//! Locks, outermost first: `xfrm_cfg_mutex`, or RTNL and then the lock of the
//! collector -> that of [`Upper`] -> what [`Ops`] takes -> the drivers'. Nobody
//! takes one of the first three under that of [`Upper`].
//!
//! C headers: `include/linux/netdevice.h` (`struct xfrmdev_ops`),
//! `include/net/xfrm.h`

use super::{
    lower::Sa,
    upper_calls::{drop_later, upper_priv, Callbacks},
};
use crate::{
    net::{
        not_supported,
        rcu::{Held, Room},
        Device, ExtAck, Rtnl,
    },
    raw,
};
use core::{mem, ptr};
use kernel::{
    new_mutex,
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
    sync::{
        aref::ARef,
        atomic::{ordering, Atomic},
        lock::mutex::MutexGuard,
        Arc, Mutex,
    },
    time::{delay::fsleep, Delta},
};

/// What an upper device does with the SAs that are offloaded to it.
///
/// An SA is asked about by [`takes`](Self::takes); if it is taken,
/// [`private`](Self::private) and [`install`](Self::install) follow, under one hold of
/// the lock of [`Upper`]. Its end is [`free`](Self::free), with or without a
/// [`delete`](Self::delete) before; until then, and also while it is installed,
/// [`lower_handle`](Self::lower_handle) may come at any time.
///
/// `rust/lag_offload/lag.rs` is an implementation.
pub trait Ops: Send + Unpin + Sized + 'static {
    /// What is kept for each SA.
    type Private: Send + Sync + 'static;

    /// Makes it for a new one. May sleep.
    fn private() -> impl PinInit<Self::Private, Error>;

    /// Whether it takes an SA; if not, the device's own driver is asked.
    ///
    /// An error is the answer: with `EOPNOTSUPP` the SA is done in software, with
    /// any other it is refused.
    fn takes(&self, upper: &Device, sa: &Sa, extack: &mut ExtAck<'_>) -> Result<bool>;

    /// Puts a new SA on the lower devices. May sleep; the lock of [`Upper`] is held.
    /// When it fails, [`Ops::free`] is called, to undo what has been done so far.
    fn install(
        &mut self,
        upper: &Device,
        sa: &Sa,
        private: &Self::Private,
        extack: &mut ExtAck<'_>,
    ) -> Result;

    /// Tells the lower devices not to use the SA any more. Doesn't sleep.
    fn delete(sa: &Sa, private: &Self::Private);

    /// Takes the SA from the lower devices, whether it has been deleted or not.
    /// May sleep; the lock of [`Upper`] is held.
    fn free(sa: &Sa, private: &Self::Private);

    /// Whether packets of the SA may be left to the device. Doesn't sleep.
    fn may_offload(upper: &Device) -> bool;

    /// Returns the handle of the SA on that device, 0 if there is none. Doesn't
    /// sleep, nor take a lock that is held around calls of drivers. Comes with each
    /// packet.
    fn lower_handle(private: &Self::Private, lower: &Device, rcu: Held<'_>) -> usize;
}

/// A device whose SAs are offloaded by us.
///
/// # Invariants
///
/// `ops` calls us, `original` is what the device's driver has set. It is in an
/// [`Arc`]; while the device's operations are `ops`, there is a reference. It is
/// given up when all who found them have called, or have left their critical
/// section of RCU: [`Takeover::give_back`] waits for both after it has exchanged
/// them again.
#[repr(C)]
#[pin_data]
pub struct Upper<T: Ops> {
    ops: raw::xfrmdev_ops,
    pub(in crate::xfrm) original: *const raw::xfrmdev_ops,
    device: ARef<Device>,
    #[pin]
    pub(in crate::xfrm) inner: Mutex<Inner<T>>,
}

// SAFETY: The tables of operations are only read.
unsafe impl<T: Ops> Send for Upper<T> {}
// SAFETY: As above; the rest is `Sync`.
unsafe impl<T: Ops> Sync for Upper<T> {}

/// What the lock protects.
pub(in crate::xfrm) struct Inner<T: Ops> {
    /// No more SAs are taken.
    closed: bool,
    /// The SAs that are ours, by address: none is freed before it has left.
    sas: RBTree<usize, Arc<T::Private>>,
    data: T,
}

impl<T: Ops> Inner<T> {
    /// Ends that an SA is ours.
    pub(in crate::xfrm) fn release(&mut self, sa: &Sa) {
        if let Some(node) = self.sas.remove_node(&key(sa)) {
            let (_, private) = node.to_key_value();
            T::free(sa, &private);
        }
        upper_priv::<T>(sa).clear();
    }
}

fn key(sa: &Sa) -> usize {
    sa.as_ptr().expose_provenance()
}

/// An [`Upper`] that is locked: neither its SAs nor its data change.
pub struct Locked<'a, T: Ops>(MutexGuard<'a, Inner<T>>);

impl<T: Ops> Locked<'_, T> {
    /// Whether no SA is ours.
    pub fn is_empty(&self) -> bool {
        self.0.sas.is_empty()
    }

    /// Returns the data: what [`Takeover::new`] was given.
    pub fn data(&mut self) -> &mut T {
        &mut self.0.data
    }

    /// Returns the SAs that are ours.
    pub fn sas(&self) -> impl Iterator<Item = (&Sa, &T::Private)> {
        self.0.sas.iter().map(|(&address, private)| {
            // SAFETY: It leaves the tree, under the lock, before it is freed.
            let sa = unsafe { Sa::from_raw(ptr::with_exposed_provenance_mut(address)) };
            (sa, &**private)
        })
    }
}

impl<T: Ops> Upper<T> {
    /// Returns the device. Any context.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Locks it. Sleeps. Under this lock, neither RTNL nor `xfrm_cfg_mutex` may
    /// be taken, nor features changed or SAs flushed.
    pub fn lock(&self) -> Locked<'_, T> {
        Locked(self.inner.lock())
    }

    /// Deletes all SAs that are offloaded to the device, as the kernel does when
    /// it goes down. Sleeps; [`Self::lock`] must not be held.
    pub fn flush(&self, _rtnl: &Rtnl) {
        let dev = self.device.as_ptr();
        // SAFETY: The device is valid, and RTNL held. That there are none, or
        // that the security module wants to keep them, is no failure.
        unsafe { raw::xfrm_dev_state_flush(self.device.net().as_ptr(), dev, true) };
    }

    /// Adds an SA, or says that it is the driver's.
    pub(in crate::xfrm) fn add(&self, sa: &Sa, extack: &mut ExtAck<'_>) -> Result<bool> {
        let mut inner = self.inner.lock();
        if inner.closed || !inner.data.takes(&self.device, sa, extack)? {
            return Ok(false);
        }
        let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let room = Room::new()?;
        let private = Arc::pin_init(T::private(), GFP_KERNEL)?;

        // Drivers ask for their handles as soon as they have the SA.
        upper_priv::<T>(sa).set(room, private.clone());
        inner.sas.insert(node.into_node(key(sa), private.clone()));
        let result = inner.data.install(&self.device, sa, &private, extack);
        if result.is_err() {
            inner.release(sa);
        }
        result.map(|()| true)
    }
}

/// That the SAs of a device are ours; dropping it gives them back to its driver,
/// without those there are.
///
/// # Examples
///
/// ```ignore
/// fn take(rtnl: &Rtnl, bond: &Device) -> Result<Takeover<Lag>> {
///     let mut lag = Lag::new();
///     rtnl.lowers(bond).try_for_each(|slave| lag.note(slave))?;
///     Takeover::new(bond, lag, rtnl)
/// }
///
/// /// Returns it again while it has an SA that can't be flushed yet.
/// fn give_back(rtnl: &Rtnl, taken: Takeover<Lag>) -> Option<Takeover<Lag>> {
///     taken.give_back(rtnl).err()
/// }
/// ```
pub struct Takeover<T: Ops>(Arc<Upper<T>>);

impl<T: Ops> Takeover<T> {
    /// Takes over, unless the device's driver has no operations, or knows of
    /// lower devices itself. May sleep. SAs that are there stay the driver's. `data`
    /// are for [`Locked::data`].
    ///
    /// Fails with `EOPNOTSUPP` or `ENOMEM`.
    pub fn new(device: &Device, data: T, _rtnl: &Rtnl) -> Result<Self> {
        // SAFETY: The device is valid, and who else exchanges its operations
        // takes RTNL.
        let original = unsafe { (*device.as_ptr()).xfrmdev_ops };
        // SAFETY: Null, or what the driver has set: it stays as the device does.
        let theirs = unsafe { original.as_ref() }
            .filter(|ops| {
                ops.xdo_dev_state_add.is_some() && ops.xdo_dev_state_lower_handle.is_none()
            })
            .ok_or_else(not_supported)?;
        let inner = Inner {
            closed: false,
            sas: RBTree::new(),
            data,
        };
        // INVARIANT: As below.
        let this = Arc::pin_init(
            pin_init!(Upper {
                ops: Callbacks::<T>::table(theirs),
                original,
                device: ARef::from(device),
                inner <- new_mutex!(inner, "xfrm_next_upper"),
            }),
            GFP_KERNEL,
        )?;
        set_ops(device, Arc::as_ptr(&this).cast());
        Ok(Self(this))
    }

    /// Returns what has been taken over.
    pub fn upper(&self) -> &Arc<Upper<T>> {
        &self.0
    }

    /// Takes no more SAs, flushes if there are any and, if none is left, gives the
    /// device back. Sleeps. A reference to the device is given up later.
    ///
    /// Otherwise an SA is on its way to where it can be flushed, or to its end:
    /// try again after a while.
    pub fn give_back(self, rtnl: &Rtnl) -> Result<(), Self> {
        let has_sas = {
            let mut inner = self.0.inner.lock();
            inner.closed = true;
            !inner.sas.is_empty()
        };
        // Not if there are only some of the driver's.
        if has_sas {
            self.0.flush(rtnl);
        }
        {
            let inner = self.0.inner.lock();
            if !inner.sas.is_empty() {
                drop(inner);
                return Err(self);
            }
            set_ops(self.0.device(), self.0.original);
        }
        // SAFETY: `self` is forgotten, so it is dropped once.
        let this = unsafe { ptr::read(&self.0) };
        mem::forget(self);
        drop_later(this);
        Ok(())
    }
}

impl<T: Ops> Drop for Takeover<T> {
    /// Takes RTNL, and waits.
    fn drop(&mut self) {
        let mut this = Self(self.0.clone());
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

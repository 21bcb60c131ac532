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
//! | update_stats | the SA's lock, `xfrm_state_lock`, or `xfrm_cfg_mutex` (`XFRM_MSG_GETSA`) |
//! | lower_stats | RCU; in update_stats of a lower device |
//!
//! When the worker frees an SA, nobody holds a reference, and its keys are gone.
//!
//! Locks, outermost first: `xfrm_cfg_mutex`, or RTNL and then the lock of the
//! collector -> that of [`Upper`] -> the SA's -> that of its [`Replica`] -> the drivers'. Nobody
//! takes one of the first three under that of [`Upper`].
//!
//! C headers: `include/linux/netdevice.h` (`struct xfrmdev_ops`),
//! `include/net/xfrm.h`

use super::{
    lower::Sa,
    replica::{Replica, Replicated},
};
use crate::{
    net::{
        rcu::{Room, Shared},
        Device, ExtAck, Rtnl,
    },
    raw,
};
use core::ptr;
use kernel::{
    new_mutex,
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
    sync::{aref::ARef, lock::mutex::MutexGuard, Arc, Mutex},
};

/// What an upper device does with the SAs that are offloaded to it.
///
/// An SA is asked about by [`takes`](Self::takes); if it is taken, [`install`](Self::install)
/// follows, under one hold of the lock of [`Upper`]. From then on the lower devices that it
/// is on are told of its end.
///
/// `rust/lag_offload/lag.rs` is an implementation.
pub trait Ops: Send + Unpin + Sized + 'static {
    /// Whether it takes an SA; if not, the device's own driver is asked.
    ///
    /// An error is the answer: with `EOPNOTSUPP` the SA is done in software, with
    /// any other it is refused.
    fn takes(&self, upper: &Device, sa: &Sa, extack: &mut ExtAck<'_>) -> Result<bool>;

    /// Puts a new SA on the lower devices. May sleep; the lock of [`Upper`] is held.
    /// When it fails, the SA is taken from those that have it.
    fn install(
        &mut self,
        upper: &Device,
        sa: &mut Replicated<'_>,
        extack: &mut ExtAck<'_>,
    ) -> Result;

    /// The device is given back, with no SAs: gives up what refers to lower devices.
    fn end(&mut self);

    /// Whether packets of the SA may be left to the device. Doesn't sleep.
    fn may_offload(upper: &Device) -> bool;
}

/// A device whose SAs are offloaded by us.
///
/// # Invariants
///
/// The SAs that are ours aren't freed before they have left it.
#[pin_data]
pub struct Upper<T: Ops> {
    device: ARef<Device>,
    #[pin]
    inner: Mutex<Inner<T>>,
}

/// What the lock protects.
struct Inner<T> {
    /// No more SAs are taken.
    closed: bool,
    /// The SAs that are ours, by address: none is freed before it has left.
    sas: RBTree<usize, Arc<Replica>>,
    data: T,
}

impl<T> Inner<T> {
    /// Ends that an SA is ours.
    fn release(&mut self, sa: &Sa) {
        if let Some(node) = self.sas.remove_node(&key(sa)) {
            node.to_key_value().1.free();
        }
        upper_priv(sa).clear();
    }
}

fn key(sa: &Sa) -> usize {
    sa.as_ptr().expose_provenance()
}

/// What is behind `upper_priv` of an SA whose device is an [`Upper`].
pub(super) fn upper_priv(sa: &Sa) -> &Shared<Arc<Replica>> {
    // SAFETY: The SA is valid. The field is a pointer that nobody else writes but
    // null, when it is null already.
    unsafe { &*(&raw const (*sa.as_ptr()).xso.upper_priv).cast() }
}

/// An [`Upper`] that is locked: neither its SAs nor its data change.
pub struct Locked<'a, T: Ops>(MutexGuard<'a, Inner<T>>);

impl<T: Ops> Locked<'_, T> {
    /// Whether no SA is ours.
    pub fn is_empty(&self) -> bool {
        self.0.sas.is_empty()
    }

    /// Returns the data: what [`Uppers::take`](super::uppers::Uppers::take) was given.
    pub fn data(&mut self) -> &mut T {
        &mut self.0.data
    }

    /// Returns the SAs that are ours.
    pub fn sas(&mut self) -> impl Iterator<Item = Replicated<'_>> {
        self.0.sas.iter().map(|(&address, replica)| {
            // SAFETY: Under the lock, which is ours as long as this is borrowed, the SA leaves
            // the tree before it is freed, and each is returned once.
            unsafe {
                let sa = Sa::from_raw(ptr::with_exposed_provenance_mut(address));
                Replicated::new(sa, replica)
            }
        })
    }
}

impl<T: Ops> Upper<T> {
    /// Makes one, for [`Uppers`](super::uppers::Uppers). May sleep. Fails with `ENOMEM`.
    pub(super) fn new(device: &Device, data: T) -> Result<Arc<Self>> {
        let inner = Inner {
            closed: false,
            sas: RBTree::new(),
            data,
        };
        let this = pin_init!(Self {
            device: ARef::from(device),
            inner <- new_mutex!(inner, "xfrm_next_upper"),
        });
        Arc::pin_init(this, GFP_KERNEL_ACCOUNT)
    }

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
    pub fn flush(&self, rtnl: &Rtnl) {
        let dev = self.device.as_ptr();
        // SAFETY: The device is valid, and RTNL held. That there are none, or
        // that the security module wants to keep them, is no failure.
        unsafe { raw::xfrm_dev_state_flush(self.device.net(rtnl).as_ptr(), dev, true) };
    }

    /// Takes no more SAs; whether it has some.
    pub(super) fn close(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.closed = true;
        !inner.sas.is_empty()
    }

    /// Lets `f` end that the kernel calls us, unless there are SAs; whether it has.
    pub(super) fn end(&self, f: impl FnOnce()) -> bool {
        let mut inner = self.inner.lock();
        let ends = inner.sas.is_empty();
        if ends {
            f();
            inner.data.end();
        }
        ends
    }

    /// Adds an SA, or says that it is the driver's.
    pub(super) fn add(&self, sa: &Sa, extack: &mut ExtAck<'_>) -> Result<bool> {
        let mut inner = self.inner.lock();
        if inner.closed || !inner.data.takes(&self.device, sa, extack)? {
            return Ok(false);
        }
        let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let room = Room::new()?;
        let replica = Arc::pin_init(Replica::new(), GFP_KERNEL)?;

        // Drivers ask for their handles as soon as they have the SA.
        upper_priv(sa).set(room, replica.clone());
        inner.sas.insert(node.into_node(key(sa), replica.clone()));
        // SAFETY: The lock is held; `release` frees the replica.
        let mut replicated = unsafe { Replicated::new(sa, &replica) };
        let result = inner.data.install(&self.device, &mut replicated, extack);
        if result.is_err() {
            inner.release(sa);
        }
        result.map(|()| true)
    }

    /// Ends that an SA is ours. May sleep.
    pub(super) fn release(&self, sa: &Sa) {
        self.inner.lock().release(sa);
    }
}

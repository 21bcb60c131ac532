// SPDX-License-Identifier: GPL-2.0

//! Taking devices over from their driver, and giving them back.
//!
//! C header: `include/linux/netdevice.h` (`struct xfrmdev_ops`)

use super::upper::{Ops, Upper};
use crate::{
    net::{bonding::Bond, device::Identity, not_supported, Device, Rtnl, TextBarrier},
    raw,
};
use core::{convert::Infallible, ptr};
use kernel::{
    new_mutex,
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
    sync::{
        atomic::{ordering, Atomic},
        Arc, Mutex,
    },
    time::{delay::fsleep, Delta},
};

/// All devices that have been taken over. Dropping it gives them back, takes RTNL, and waits
/// until nobody is in our operations any more. Then, after the [`TextBarrier`], the text may go.
///
/// There is one at most. [`upper_calls::uppers`](super::upper_calls::uppers) makes it.
///
/// # Examples
///
/// ```ignore
/// fn take(
///     uppers: &Uppers<Lag>,
///     members: &Arc<Members>,
///     rtnl: &Rtnl,
///     bond: Bond<'_>,
/// ) -> Result {
///     let device = bond.device();
///     let lag = || {
///         let mut lag = Lag::new(members);
///         rtnl.lowers(device).try_for_each(|slave| lag.note(device, slave))?;
///         Ok(lag)
///     };
///     uppers.take(bond, lag, rtnl)
/// }
///
/// /// Whether it has no SA that can't be flushed yet.
/// fn give_back(uppers: &Uppers<Lag>, rtnl: &Rtnl, bond: &Device) -> bool {
///     uppers.give_back(bond, rtnl)
/// }
/// ```
#[pin_data(PinnedDrop)]
pub struct Uppers<T: Ops> {
    /// Makes our operations of those of the driver.
    ours: fn(&raw::xfrmdev_ops) -> raw::xfrmdev_ops,
    /// Nothing else is locked meanwhile.
    #[pin]
    devices: Mutex<Devices<T>>,
    _text: Arc<TextBarrier>,
}

struct Devices<T: Ops> {
    /// No more are taken over.
    closed: bool,
    uppers: RBTree<Identity, Arc<Upper<T>>>,
    /// One for each driver, or as often as it has been loaded. They stay as long as this: who
    /// has read a device's operations before they were exchanged may still call.
    tables: KVec<KBox<Table<T>>>,
}

/// The operations of devices that have been taken over from one driver.
///
/// # Invariants
///
/// It is in the [`Uppers`] that it names, whose drop waits for those who are in its
/// operations. `original` is what the driver has set: it stays as long as its devices.
#[repr(C)]
struct Table<T: Ops> {
    ops: raw::xfrmdev_ops,
    original: *const raw::xfrmdev_ops,
    uppers: *const Uppers<T>,
}

// SAFETY: It is only read.
unsafe impl<T: Ops> Send for Table<T> {}

/// How many devices something is done to with the RTNL held once.
const AT_ONCE: usize = 16;

/// Whether there is an [`Uppers`].
static TAKEN: Atomic<i32> = Atomic::new(0);

/// How many calls there are of operations that may sleep.
static SLEEPERS: Atomic<i32> = Atomic::new(0);

/// One of those calls: what it has read of a device's operations stays meanwhile.
pub(super) struct Sleeper;

impl Sleeper {
    pub(super) fn new() -> Self {
        SLEEPERS.add(1, ordering::Relaxed);
        Self
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        SLEEPERS.fetch_sub(1, ordering::Release);
    }
}

/// Returns the table that operations of a device are the first field of, if they are ours.
///
/// # Safety
///
/// They are [`current`], and the caller is in one of our operations, and has not slept since it was called, or is
/// a [`Sleeper`], during `'a`; or has the `Uppers`, all for `T`.
unsafe fn table<'a, T: Ops>(ops: *const raw::xfrmdev_ops) -> Option<&'a Table<T>> {
    // SAFETY: Null, or operations that stay, as the caller promises. Ours are the
    // only ones that know of lower devices (`take`), and have one `T` (`TAKEN`).
    unsafe {
        ops.as_ref()?.xdo_dev_state_lower_handle?;
        ops.cast::<Table<T>>().as_ref()
    }
}

fn current(device: &Device) -> *const raw::xfrmdev_ops {
    // SAFETY: The device is valid, and the pointer is written at once.
    unsafe { (&raw const (*device.as_ptr()).xfrmdev_ops).read_volatile() }
}

/// The caller holds RTNL. Who reads the pointer finds the table complete.
fn set_ops(device: &Device, ops: *const raw::xfrmdev_ops) {
    // SAFETY: The device is valid; whoever reads the field without RTNL reads it
    // at once.
    let place = unsafe { Atomic::from_ptr((&raw mut (*device.as_ptr()).xfrmdev_ops).cast()) };
    place.store(ops.cast_mut(), ordering::Release);
}

/// Returns the operations of the device's own driver.
///
/// # Safety
///
/// The caller is in one of our operations, which are for `T`, and has not slept since it was
/// called, or is a [`Sleeper`].
pub(super) unsafe fn original<T: Ops>(device: &Device) -> &raw::xfrmdev_ops {
    let ops = current(device);
    // SAFETY: The caller promises it.
    let ops = unsafe { table::<T>(ops) }.map_or(ops, |table| table.original);
    // SAFETY: What the driver has set stays as long as the device does; there are
    // operations, since we have been called.
    unsafe { &*ops }
}

/// Returns what has been taken over, if the device has been.
///
/// # Safety
///
/// The caller is in one of our operations, which are for `T`.
pub(super) unsafe fn find<T: Ops>(device: &Device, _sleeper: &Sleeper) -> Option<Arc<Upper<T>>> {
    // SAFETY: The caller promises it. By the type invariant the `Uppers` stay.
    unsafe { (*table::<T>(current(device))?.uppers).find(device.identity()) }
}

impl<T: Ops> Uppers<T> {
    /// Makes one. May sleep. Fails with `EBUSY` if there is one, or `ENOMEM`.
    pub(super) fn new(
        ours: fn(&raw::xfrmdev_ops) -> raw::xfrmdev_ops,
        text: Arc<TextBarrier>,
    ) -> Result<Arc<Self>> {
        if TAKEN.xchg(1, ordering::Full) != 0 {
            return Err(EBUSY);
        }
        let devices = Devices {
            closed: false,
            uppers: RBTree::new(),
            tables: KVec::new(),
        };
        let this = pin_init!(Self {
            ours,
            devices <- new_mutex!(devices, "xfrm_next_uppers"),
            _text: text,
        });
        Arc::pin_init(this, GFP_KERNEL).inspect_err(|_| TAKEN.store(0, ordering::Release))
    }

    /// Returns what has been taken over, if the device has been. Sleeps.
    pub fn find(&self, device: Identity) -> Option<Arc<Upper<T>>> {
        self.devices.lock().uppers.get(&device).cloned()
    }

    /// Calls `f` with each of them, as long as it succeeds. Takes RTNL, for some at a time: what
    /// comes or goes in between may be left out.
    pub fn each<E>(&self, mut f: impl FnMut(&Upper<T>, &Rtnl) -> Result<(), E>) -> Result<(), E> {
        let mut from = Identity::FIRST;
        loop {
            let rtnl = Rtnl::lock();
            for _ in 0..AT_ONCE {
                match self.next(&mut from) {
                    Some(upper) => f(&upper, &rtnl)?,
                    None => return Ok(()),
                }
            }
        }
    }

    /// Returns the next one in the order of identities.
    fn next(&self, from: &mut Identity) -> Option<Arc<Upper<T>>> {
        let devices = self.devices.lock();
        let cursor = devices.uppers.cursor_lower_bound(from)?;
        let (this, upper) = cursor.current();
        *from = this.next();
        Some(upper.clone())
    }

    /// Takes a bond over, unless it has been, none are taken any more, its driver has no
    /// operations, or it knows of lower devices itself. May sleep. SAs that are there stay the
    /// driver's. `data` are for [`Locked::data`](super::upper::Locked::data).
    ///
    /// Fails with `EOPNOTSUPP` or `ENOMEM`.
    pub fn take(&self, bond: Bond<'_>, data: impl FnOnce() -> Result<T>, _rtnl: &Rtnl) -> Result {
        let device = bond.device();
        if self.find(device.identity()).is_some() {
            return Ok(());
        }
        let upper = Upper::new(device, data()?)?;
        let room = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;

        let mut devices = self.devices.lock();
        if devices.closed {
            return Ok(());
        }
        let table = self.table_for(&mut devices.tables, current(device))?;
        devices
            .uppers
            .insert(room.into_node(device.identity(), upper));
        set_ops(device, table);
        Ok(())
    }

    /// Returns our operations in place of some, which are what a driver has set for its device,
    /// or null.
    fn table_for(
        &self,
        tables: &mut KVec<KBox<Table<T>>>,
        original: *const raw::xfrmdev_ops,
    ) -> Result<*const raw::xfrmdev_ops> {
        if let Some(table) = tables.iter().find(|table| table.original == original) {
            return Ok(ptr::from_ref(&**table).cast());
        }
        // SAFETY: Null, or what the driver has set: it stays as the device does.
        let theirs = unsafe { original.as_ref() }
            .filter(|ops| {
                ops.xdo_dev_state_add.is_some() && ops.xdo_dev_state_lower_handle.is_none()
            })
            .ok_or_else(not_supported)?;
        // INVARIANT: It goes with us, and nobody has called yet.
        let table = Table {
            ops: (self.ours)(theirs),
            original,
            uppers: self,
        };
        let table = KBox::new(table, GFP_KERNEL)?;
        let ops = ptr::from_ref(&*table).cast();
        tables.push(table, GFP_KERNEL)?;
        Ok(ops)
    }

    /// Takes no more SAs, flushes if there are any and, if none is left, gives the device
    /// back; whether that has been done, or it isn't ours. Sleeps. No reference to the device
    /// is left but of calls that are under way, whose callers have one.
    ///
    /// Otherwise an SA is on its way to where it can be flushed, or to its end:
    /// try again after a while.
    pub fn give_back(&self, device: &Device, rtnl: &Rtnl) -> bool {
        let Some(upper) = self.find(device.identity()) else {
            return true;
        };
        // Not if there are only some of the driver's.
        if upper.close() {
            upper.flush(rtnl);
        }
        let ended = upper.end(|| {
            // SAFETY: We are there.
            if let Some(table) = unsafe { table::<T>(current(device)) } {
                set_ops(device, table.original);
            }
        });
        if ended {
            let node = self.devices.lock().uppers.remove_node(&device.identity());
            drop(node);
        }
        ended
    }

    /// Gives all devices back, and takes none any more. Takes RTNL, for some at a time.
    pub fn close(&self) {
        self.devices.lock().closed = true;
        while !self.devices.lock().uppers.is_empty() {
            let Ok(()) = self.each(|upper, rtnl| {
                self.give_back(upper.device(), rtnl);
                Ok::<_, Infallible>(())
            });
            // Of those that are left, an SA is on its way to where it can be flushed.
            fsleep(Delta::from_millis(1));
        }
    }
}

#[pinned_drop]
impl<T: Ops> PinnedDrop for Uppers<T> {
    fn drop(self: Pin<&mut Self>) {
        self.close();
        // Who has read the operations before they were exchanged, or doesn't
        // sleep in them, is done; or sleeps there, and is counted.
        drop(TextBarrier);
        while SLEEPERS.load(ordering::Acquire) != 0 {
            fsleep(Delta::from_millis(1));
        }
        TAKEN.store(0, ordering::Release);
    }
}

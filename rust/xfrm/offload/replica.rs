// SPDX-License-Identifier: GPL-2.0

//! One SA on several lower devices.
//!
//! Drivers ask under RCU for their handles of an SA: for each packet, and while they are
//! told to delete or to free it. So a device's place with the handle is there before the
//! SA is deleted there, and goes after it has been freed.

use super::lower::{self, Installed, Sa};
use crate::net::{
    bh, not_supported,
    rcu::{Held, Room, Shared},
    Device, ExtAck,
};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{ordering, Atomic},
        rcu, SpinLock,
    },
};

/// On how many lower devices an SA can be.
pub const MAX_LOWERS: usize = 16;
// Else `nth_place` leaves some out.
const _: () = assert!(MAX_LOWERS.is_power_of_two());

// What an SA takes is in docs/lag-offload.md: this, and for each device as much as fits into
// 64 bytes with what RCU adds.
const _: () = assert!(size_of::<Replica>() <= 1024 && size_of::<Place>() <= 40);

/// An SA that is ours, and the lower devices that it is on: they don't change but by this.
///
/// # Invariants
///
/// `replica` is the SA's. The lock of its [`Upper`](super::upper::Upper) is held, which frees
/// it before the SA goes; there is no other one for the SA.
///
/// # Examples
///
/// ```ignore
/// /// Moves the SA to another device, unless that refuses it.
/// fn go(sa: &mut Replicated<'_>, from: &Device, to: &Device, extack: &mut ExtAck<'_>) -> Result {
///     sa.install(to, extack)?;
///     sa.remove(from);
///     Ok(())
/// }
/// ```
pub struct Replicated<'a> {
    sa: &'a Sa,
    replica: &'a Replica,
}

impl<'a> Replicated<'a> {
    /// # Safety
    ///
    /// The type invariant has to hold.
    pub(super) unsafe fn new(sa: &'a Sa, replica: &'a Replica) -> Self {
        // INVARIANT: As the caller promises.
        Self { sa, replica }
    }

    /// Returns the SA. Any context.
    pub fn sa(&self) -> &'a Sa {
        self.sa
    }

    /// Puts the SA on a device, unless it is about to be freed. May sleep.
    ///
    /// Fails with what the driver says, `EOPNOTSUPP` if it isn't prepared or the SA is on
    /// [`MAX_LOWERS`] devices, `EEXIST` if it is on this one, or `ENOMEM`.
    pub fn install(&mut self, lower: &Device, extack: &mut ExtAck<'_>) -> Result {
        // Without a reference it has no keys any more, and needs no device.
        let Some(held) = self.sa.hold() else {
            return Ok(());
        };
        let replica = self.replica;
        if replica.place_of(lower).is_some() {
            return Err(EEXIST);
        }
        let mut places = (0..MAX_LOWERS).map(|n| nth_place(lower, n));
        let empty = places.find(|&place| replica.places[place].is_empty());
        let place = empty.ok_or_else(not_supported)?;
        let room = Room::new()?;
        // SAFETY: By the type invariant it is freed before the SA goes; nobody else adds
        // the SA to a device meanwhile.
        let (mut installed, handle) = unsafe { Installed::add(lower, self.sa, extack) }?;

        let lower = lower.into();
        replica.locked(|told| {
            let counted = Counted::new();
            let there = Place {
                lower,
                handle,
                counted,
            };
            replica.places[place].set(room, there);
            if told.deleted {
                installed.delete();
            }
            told.installed[place] = Some(installed);
        });
        if self.sa.has_esn() {
            // They may have moved on since the driver looked.
            let _locked = held.lock();
            // SAFETY: It is locked, and has a reference.
            replica.at(place, |installed| unsafe { installed.advance_esn() });
        }
        Ok(())
    }

    /// Takes the SA from a device, if it is there, after that has been asked for its
    /// statistics. May sleep.
    pub fn remove(&mut self, lower: &Device) {
        let Some(place) = self.replica.place_of(lower) else {
            return;
        };
        if let Some(held) = self.sa.hold() {
            let _locked = held.lock();
            self.replica.at(place, |installed| {
                // SAFETY: It is locked.
                unsafe { installed.update_stats() };
                installed.delete();
            });
        }
        self.replica.clear(place);
    }

    /// Asks all devices for the statistics of the SA.
    pub fn update_stats(&self) {
        if let Some(held) = self.sa.hold() {
            let _locked = held.lock();
            // SAFETY: It is locked.
            unsafe { self.replica.update_stats() };
        }
    }

    /// Calls `f` with what is known of each device that the SA is on, as long as it
    /// succeeds.
    pub fn each<E>(&self, mut f: impl FnMut(&Use<'_>) -> Result<(), E>) -> Result<(), E> {
        (0..MAX_LOWERS).try_for_each(|place| {
            let (lower, handle, counted) = {
                let rcu = rcu::read_lock();
                let Some(there) = self.replica.places[place].read(&rcu) else {
                    return Ok(());
                };
                (there.lower.clone(), there.handle, there.counted.get())
            };
            let upper_half = self.replica.at(place, |installed| installed.upper_half());
            f(&Use {
                lower: &lower,
                handle,
                counted: lower::counts(&lower).then_some(counted),
                upper_half: upper_half.filter(|_| self.sa.has_esn()),
            })
        })
    }
}

/// What is known of an SA on one of its devices.
pub struct Use<'a> {
    /// The device.
    pub lower: &'a Device,
    /// What its driver knows the SA by.
    pub handle: usize,
    /// How many packets and bytes the device has counted, if it does.
    pub counted: Option<(u64, u64)>,
    /// The upper half of extended sequence numbers that the driver was told last.
    pub upper_half: Option<u32>,
}

/// Where an SA is installed.
///
/// It is put on devices and taken from them under the lock of the upper one; deletion
/// comes at any time.
#[pin_data]
pub(super) struct Replica {
    /// Taken with bottom halves off; drivers are called under it.
    #[pin]
    told: SpinLock<Told>,
    places: [Shared<Place>; MAX_LOWERS],
}

/// Which devices are still to be told not to use the SA any more.
struct Told {
    /// All have been, and those are that get it from now on: it has been deleted.
    deleted: bool,
    installed: [Option<Installed>; MAX_LOWERS],
}

/// What packets need to know of a device.
struct Place {
    lower: ARef<Device>,
    handle: usize,
    counted: Counted,
}

/// What a device says that it has counted.
struct Counted {
    packets: Atomic<i64>,
    bytes: Atomic<i64>,
}

impl Counted {
    fn new() -> Self {
        Self {
            packets: Atomic::new(0),
            bytes: Atomic::new(0),
        }
    }

    fn get(&self) -> (u64, u64) {
        let [packets, bytes] = [&self.packets, &self.bytes].map(|n| n.load(ordering::Relaxed));
        (packets as u64, bytes as u64)
    }
}

/// The places for a device, in the order of `n`: where it is in the first one, as
/// mostly, a look is enough to find it.
fn nth_place(lower: &Device, n: usize) -> usize {
    (lower.ifindex() as usize ^ n) % MAX_LOWERS
}

impl Replica {
    /// Makes one for an SA that is on no device.
    pub(super) fn new() -> impl PinInit<Self, Error> {
        let told = Told {
            deleted: false,
            installed: [const { None }; MAX_LOWERS],
        };
        try_pin_init!(Self {
            told <- new_spinlock!(told, "xfrm_next_replica"),
            places: [const { Shared::empty() }; MAX_LOWERS],
        })
    }

    fn locked<R>(&self, f: impl FnOnce(&mut Told) -> R) -> R {
        let _off = bh::off();
        let mut told = self.told.lock();
        f(&mut told)
    }

    /// Tells all devices not to use the SA any more. Any context but hard
    /// interrupts.
    pub(super) fn delete(&self) {
        self.locked(|told| {
            told.deleted = true;
            let installed = told.installed.iter_mut().flatten();
            installed.for_each(Installed::delete);
        });
    }

    /// Tells all devices that the sequence numbers of the SA have moved on.
    ///
    /// # Safety
    ///
    /// It has a reference, and is locked.
    pub(super) unsafe fn advance_esn(&self) {
        self.locked(|told| {
            let installed = told.installed.iter_mut().flatten();
            // SAFETY: The caller promises it.
            installed.for_each(|installed| unsafe { installed.advance_esn() });
        });
    }

    /// Lets all devices bring the SA's statistics up to date. Drivers are called one after
    /// the other, so that none undoes what another one adds.
    ///
    /// # Safety
    ///
    /// The SA is locked, or `xfrm_state_lock` or `xfrm_cfg_mutex` held.
    pub(super) unsafe fn update_stats(&self) {
        self.locked(|told| {
            let installed = told.installed.iter().flatten();
            // SAFETY: The caller promises it.
            installed.for_each(|installed| unsafe { installed.update_stats() });
        });
    }

    /// Calls `f` with what is installed in a place, if there is something. Any context but
    /// hard interrupts.
    fn at<R>(&self, place: usize, f: impl FnOnce(&mut Installed) -> R) -> Option<R> {
        self.locked(|told| told.installed[place].as_mut().map(f))
    }

    /// Takes the SA from all devices. May sleep; the lock of the upper device is held.
    pub(super) fn free(&self) {
        (0..MAX_LOWERS)
            .filter(|&place| !self.places[place].is_empty())
            .for_each(|place| self.clear(place));
    }

    /// Takes the SA from the device in this place. As for `free`.
    fn clear(&self, place: usize) {
        let installed = self.locked(|told| {
            let mut installed = told.installed[place].take();
            // Whoever deletes the SA from now on doesn't wait for this device.
            installed.iter_mut().for_each(Installed::delete);
            installed
        });
        if let Some(installed) = installed {
            installed.free();
            self.places[place].clear();
        }
    }

    /// Returns the handle on a device, 0 if there is none. Any context.
    #[inline]
    pub(super) fn handle(&self, lower: &Device, rcu: Held<'_>) -> usize {
        self.find(lower, rcu).map_or(0, |there| there.handle)
    }

    /// Notes what a device has counted since the last time. Any context.
    #[cfg(XFRM_NEXT_LAG_STATS)]
    pub(super) fn count(&self, lower: &Device, packets: u64, bytes: u64, rcu: Held<'_>) {
        if let Some(there) = self.find(lower, rcu) {
            there.counted.packets.add(packets as i64, ordering::Relaxed);
            there.counted.bytes.add(bytes as i64, ordering::Relaxed);
        }
    }

    #[inline]
    fn find<'a>(&'a self, lower: &Device, rcu: Held<'a>) -> Option<&'a Place> {
        match self.places[nth_place(lower, 0)].read(rcu) {
            Some(there) if there.lower.is(lower) => Some(there),
            _ => self.find_elsewhere(lower, rcu),
        }
    }

    #[cold]
    fn find_elsewhere<'a>(&'a self, lower: &Device, rcu: Held<'a>) -> Option<&'a Place> {
        (1..MAX_LOWERS)
            .filter_map(|n| self.places[nth_place(lower, n)].read(rcu))
            .find(|there| there.lower.is(lower))
    }

    /// In which place a device is. It stays there under the lock of the upper one.
    fn place_of(&self, lower: &Device) -> Option<usize> {
        let rcu = rcu::read_lock();
        let is_there = |place: &Shared<Place>| {
            let place = place.read(&rcu);
            place.is_some_and(|there| there.lower.is(lower))
        };
        self.places.iter().position(is_there)
    }
}

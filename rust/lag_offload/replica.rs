// SPDX-License-Identifier: GPL-2.0

//! One SA on all slaves of a bond.

use crate::{
    net::{
        bh,
        device::Esp,
        not_supported,
        rcu::{Held, Room, Shared},
        Device, ExtAck,
    },
    xfrm::offload::lower::{Installed, Sa},
};
use core::fmt;
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{rcu, SpinLock},
};

/// How many slaves a bond can have that offloads.
pub const MAX_SLAVES: usize = 16;
// Else `nth_place` leaves some out.
const _: () = assert!(MAX_SLAVES.is_power_of_two());

/// Where an SA is installed.
///
/// The places are filled and emptied under the lock of the bond, and read under
/// RCU. [`Told`] orders that with the SA's deletion, which comes at any time.
#[pin_data]
pub struct Replica {
    /// Taken with bottom halves off; drivers are called under it.
    #[pin]
    told: SpinLock<Told>,
    places: [Shared<Installed>; MAX_SLAVES],
}

/// Which slaves have been told not to use the SA any more. Each is told once:
/// who is to tell them does so, and notes it, under the lock.
struct Told {
    /// All of them, and those that get the SA from now on: it has been deleted.
    all: bool,
    /// Those in these places, a bit for each.
    places: u32,
}

impl Told {
    /// Notes that the slave in this place is told; whether it has to be.
    fn tell(&mut self, place: usize) -> bool {
        let before = self.places;
        self.places |= 1 << place;
        !self.all && before != self.places
    }
}

/// Why an SA can't be on a slave, in addition to what its driver says.
pub enum Misfit {
    /// Its driver isn't prepared for it.
    Driver,
    /// It doesn't do all of ESP that the bond does.
    Features,
    /// There are too many slaves.
    TooMany,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Driver => f.write_str("its driver can't share SAs"),
            Self::Features => f.write_str("it can't do all of ESP that the bond does"),
            Self::TooMany => write!(f, "there are more than {MAX_SLAVES} slaves"),
        }
    }
}

/// The places for a slave, in the order of `n`: where it is in the first one, as
/// mostly, a look is enough to find it.
fn nth_place(slave: &Device, n: usize) -> usize {
    (slave.ifindex() as usize ^ n) % MAX_SLAVES
}

impl Replica {
    /// Makes one that is nowhere.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            told <- new_spinlock!(Told { all: false, places: 0 }, "xfrm_next_replica"),
            places: [const { Shared::empty() }; MAX_SLAVES],
        })
    }

    /// Puts the SA on a slave that does what the bond does of ESP. May sleep; the
    /// lock of the bond is held, and the SA has a reference.
    ///
    /// Fails with what the driver says, or `EOPNOTSUPP` if the slave can't.
    pub fn install(&self, slave: &Device, sa: &Sa, esp: Esp, extack: &mut ExtAck<'_>) -> Result {
        if !slave.esp().contains(esp) {
            return Err(not_supported());
        }
        let mut places = (0..MAX_SLAVES).map(|n| nth_place(slave, n));
        let empty = places.find(|&place| self.places[place].is_empty());
        let place = empty.ok_or_else(not_supported)?;
        let room = Room::new()?;
        let installed = Installed::add(slave, sa, extack)?;

        let _off = bh::off();
        let mut told = self.told.lock();
        told.places &= !(1 << place);
        self.places[place].set(room, installed.clone());
        if told.all {
            installed.delete(sa);
        }
        Ok(())
    }

    /// Takes the SA from a slave, if it is there. May sleep; the lock of the bond
    /// is held.
    pub fn remove(&self, slave: &Device, sa: &Sa) {
        let mut installed = self.installed();
        if let Some((place, installed)) = installed.find(|(_, there)| there.lower().is(slave)) {
            {
                let _off = bh::off();
                let mut told = self.told.lock();
                if told.tell(place) {
                    installed.delete(sa);
                }
            }
            installed.free(sa);
            self.places[place].clear();
        }
    }

    /// Tells all slaves not to use the SA any more. Any context but hard
    /// interrupts.
    pub fn delete(&self, sa: &Sa) {
        let _off = bh::off();
        let mut told = self.told.lock();
        for (place, installed) in self.installed() {
            if told.tell(place) {
                installed.delete(sa);
            }
        }
        told.all = true;
    }

    /// Takes the SA from all slaves. May sleep; the lock of the bond is held.
    pub fn free(&self, sa: &Sa) {
        self.delete(sa);
        for (place, installed) in self.installed() {
            installed.free(sa);
            self.places[place].clear();
        }
    }

    /// Returns the handle on a slave, 0 if there is none. Any context.
    #[inline]
    pub fn handle(&self, slave: &Device, rcu: Held<'_>) -> usize {
        match self.places[nth_place(slave, 0)].read(rcu) {
            Some(there) if there.lower().is(slave) => there.handle(),
            _ => self.handle_elsewhere(slave, rcu),
        }
    }

    #[cold]
    fn handle_elsewhere(&self, slave: &Device, rcu: Held<'_>) -> usize {
        (1..MAX_SLAVES)
            .filter_map(|n| self.places[nth_place(slave, n)].read(rcu))
            .find(|there| there.lower().is(slave))
            .map_or(0, Installed::handle)
    }

    /// Where the SA is. They stay what they are under the lock of the bond.
    fn installed(&self) -> impl Iterator<Item = (usize, Installed)> + '_ {
        self.places
            .iter()
            .enumerate()
            .filter_map(|(place, shared)| {
                let installed = shared.read(&rcu::read_lock()).cloned();
                installed.map(|installed| (place, installed))
            })
    }

    /// Calls `f` with each slave that the SA is on, and the handle there, as long
    /// as it succeeds. The lock of the bond is held.
    pub fn each<E>(&self, mut f: impl FnMut(&Device, usize) -> Result<(), E>) -> Result<(), E> {
        self.installed()
            .try_for_each(|(_, installed)| f(installed.lower(), installed.handle()))
    }
}

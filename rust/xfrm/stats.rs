// SPDX-License-Identifier: GPL-2.0

//! How often the module did what in a network namespace: `/proc/net/xfrm_next_stat`, in the form
//! of `/proc/net/xfrm_stat`.
//!
//! Nothing of it is on the way of a packet whose SA hasn't been replaced.

use crate::net::proc::List;
use core::array;
use kernel::{
    seq_file::SeqFile,
    seq_print,
    sync::atomic::{ordering, Atomic},
};

/// What is counted. docs/uapi.md has the names that users see.
#[derive(Clone, Copy)]
pub enum Counter {
    /// SAs that were migrated.
    Migrated,
    /// Requests to migrate that were refused with `EINVAL`.
    Invalid,
    /// With `ESRCH`.
    NotFound,
    /// With `EEXIST`.
    Occupied,
    /// With another errno.
    Failed,
    /// Packets that the newest SA of a line handled for a replaced one.
    InFlight,
    /// Packets that found a replaced SA at the address that it had.
    OldAddress,
    /// Replaced SAs that are kept now.
    Kept,
    /// The most that were at one time.
    KeptMost,
    /// SPIs that were given.
    SpiGiven,
    /// Requests for an SPI when none of the range was free.
    SpiTaken,
    /// Those that ended in another way, after an SA was found or made.
    SpiFailed,
}

/// In the order of [`Counter`].
const NAMES: [&str; 12] = [
    "XfrmMigrateState",
    "XfrmMigrateStateInvalid",
    "XfrmMigrateStateNotFound",
    "XfrmMigrateStateOccupied",
    "XfrmMigrateStateError",
    "XfrmReplacedInFlight",
    "XfrmReplacedOldAddress",
    "XfrmReplacedKept",
    "XfrmReplacedKeptMost",
    "XfrmAllocSpi",
    "XfrmAllocSpiTaken",
    "XfrmAllocSpiError",
];
const _: () = assert!(Counter::SpiFailed as usize == NAMES.len() - 1);

/// The counters of a namespace. Any context.
pub struct Stats([Atomic<u64>; NAMES.len()]);

impl Stats {
    pub(in crate::xfrm) fn new() -> Self {
        Self(array::from_fn(|_| Atomic::new(0)))
    }

    fn of(&self, counter: Counter) -> &Atomic<u64> {
        &self.0[counter as usize]
    }

    /// Counts one.
    pub fn count(&self, counter: Counter) {
        self.of(counter).add(1, ordering::Relaxed);
    }

    /// A replaced SA is kept from now on.
    pub(in crate::xfrm) fn keep(&self) {
        let now = self.of(Counter::Kept).fetch_add(1, ordering::Relaxed) + 1;
        let most = self.of(Counter::KeptMost);
        let mut seen = most.load(ordering::Relaxed);
        while seen < now {
            match most.cmpxchg(seen, now, ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    /// One isn't any more.
    pub(in crate::xfrm) fn let_go(&self) {
        self.of(Counter::Kept).fetch_sub(1, ordering::Relaxed);
    }
}

impl List for Stats {
    const FOR_ADMIN: bool = false;

    type Item = (usize, u64);

    fn after(&self, last: Option<&Self::Item>) -> Option<Self::Item> {
        let at = last.map_or(0, |(at, _)| at + 1);
        self.0
            .get(at)
            .map(|counter| (at, counter.load(ordering::Relaxed)))
    }

    fn show(&(at, value): &Self::Item, file: &SeqFile) {
        if let Some(name) = NAMES.get(at) {
            seq_print!(file, "{name:<24}\t{value}\n");
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Ending replaced SAs when nobody needs them any more: a worker for each namespace looks
//! at all of its lineages now and then.

use super::{
    kept::Queue,
    lineage::{end, end_idle, Fate, Lineage},
};
use crate::net::{
    bh,
    work::{yield_cpu, Work},
    GracePeriod,
};
use core::mem;
use kernel::{
    list::{List, ListArc},
    new_spinlock,
    prelude::*,
    sync::SpinLock,
    time::{msecs_to_jiffies, Msecs},
};

/// How many replaced SAs of a line are kept for packets that take longer than a grace period.
/// Who needs an older one finds it dead, as any SA that has been deleted.
const IN_FLIGHT: usize = 16;

/// How long a replaced SA is kept at most. Whoever still refers to it then sleeps, or
/// keeps it with a route for later: that is looked up anew when it is used.
const PATIENCE: Msecs = 1000;

/// How long it is until those that are kept for packets are looked at again.
const AGAIN: Msecs = 200;

/// The lineages of a namespace. Dropping it ends all SAs that are kept; may sleep.
#[pin_data(PinnedDrop)]
pub(super) struct Deferred {
    /// Tasks alone take it.
    #[pin]
    lineages: SpinLock<List<Lineage>>,
}

impl Deferred {
    pub(super) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            lineages <- new_spinlock!(List::new(), "xfrm_next_deferred"),
        })
    }

    /// Takes a lineage that begins. Returns whether the work is to be asked for, which it has
    /// been if there are others. Doesn't sleep.
    pub(super) fn add(&self, lineage: ListArc<Lineage>) -> bool {
        let mut lineages = self.lineages.lock();
        let first = lineages.is_empty();
        lineages.push_back(lineage);
        first
    }

    fn take(&self) -> List<Lineage> {
        mem::replace(&mut *self.lineages.lock(), List::new())
    }
}

impl Work for Deferred {
    /// As long as a grace period may take: not much more memory waits for it than what the
    /// kernel's collector has waiting for its own.
    const DELAY: Msecs = 20;

    /// Ends what is due.
    fn run(&self) -> bool {
        let (mut lineages, mut left) = (self.take(), List::new());
        let mut waits = false;

        while let Some(lineage) = lineages.pop_front() {
            yield_cpu();
            if lineage.is_due() {
                match look_at(&lineage) {
                    Some(in_vain) => waits |= in_vain,
                    None => continue,
                }
            }
            left.push_back(lineage);
        }
        if waits {
            GracePeriod::start();
        }
        let mut lineages = self.lineages.lock();
        lineages.push_all_back(&mut left);
        !lineages.is_empty()
    }
}

#[pinned_drop]
impl PinnedDrop for Deferred {
    fn drop(self: Pin<&mut Self>) {
        let mut lineages = self.take();
        while let Some(lineage) = lineages.pop_front() {
            let mut kept = take_kept(&lineage);
            while let Some(one) = kept.pop_front() {
                end(one);
            }
            finish(&lineage);
            yield_cpu();
        }
    }
}

fn take_kept(lineage: &Lineage) -> Queue {
    let _off = bh::off();
    lineage.take_kept()
}

fn finish(lineage: &Lineage) -> bool {
    let _off = bh::off();
    lineage.end()
}

/// Ends what is due of a lineage. Returns `None` if that ends, too, else whether some wait
/// for a grace period.
fn look_at(lineage: &Lineage) -> Option<bool> {
    // A move that comes meanwhile makes it earlier.
    lineage.look_in(msecs_to_jiffies(AGAIN));
    let (mut kept, mut left) = (take_kept(lineage), Queue::new());
    let (mut waits, mut in_flight) = (false, 0);

    while let Some(one) = kept.pop_front() {
        yield_cpu();
        match end_idle(one) {
            Fate::Ended => {}
            Fate::Found(one) => {
                waits = true;
                left.push_back(one);
            }
            Fate::InFlight(one) if one.age() >= msecs_to_jiffies(PATIENCE) => end(one),
            Fate::InFlight(one) => {
                in_flight += 1;
                left.push_back(one);
            }
        }
        if in_flight > IN_FLIGHT {
            if let Some(oldest) = left.pop_front() {
                end(oldest);
            }
            in_flight -= 1;
        }
    }
    if waits {
        lineage.look_in(0);
    }
    if left.is_empty() && finish(lineage) {
        return None;
    }
    let _off = bh::off();
    lineage.put_back(left);
    Some(waits)
}

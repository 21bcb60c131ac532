// SPDX-License-Identifier: GPL-2.0

//! Ending replaced SAs when nobody needs them any more: a worker for each namespace looks
//! at its lineages now and then.

use super::{
    kept::{Kept, Queue},
    lineage::{self, end_idle, Fate, Lineage},
    old_address::{Expected, Kind, OldAddresses},
};
use crate::{
    net::{
        bh,
        namespace::Setup,
        proc, sysctl,
        work::{yield_cpu, Work},
        GracePeriod,
    },
    xfrm::{stats::Stats, State},
};
use core::{mem, ptr};
use kernel::{
    list::{List, ListArc},
    new_spinlock,
    prelude::*,
    sync::{atomic::ordering, SpinLock},
    time::{msecs_to_jiffies, Jiffies, Msecs},
};

/// How many replaced SAs of a line are kept for packets that take longer than a grace period,
/// and how many others are found at their old addresses. Who needs an older one finds it dead, or
/// none, as any SA that has been deleted.
pub(super) const AT_MOST: usize = 16;

/// How long a replaced SA is kept at most. Whoever still refers to it then sleeps, or
/// keeps it with a route for later: that is looked up anew when it is used.
const PATIENCE: Msecs = 1000;

/// How long it is until those that are kept for packets are looked at again.
const AGAIN: Msecs = 200;

/// How long it is until a lineage is looked at again whose replaced SAs are kept only to be found
/// at their old addresses: half of the time for which they are by default. They aren't found for
/// longer than they may be; but their memory may stay for so long after that, or after the
/// newest has been deleted.
const REST: Msecs = 2500;

/// How many of these are taken at a time.
const AT_ONCE: usize = 64;

/// What users see of it.
pub(super) struct Files {
    /// For how many milliseconds SAs are found at the addresses that they had.
    pub(super) grace: sysctl::Definition,
    /// Which are.
    pub(super) moved: &'static CStr,
    /// What has been counted.
    pub(super) stat: &'static CStr,
}

/// The lineages of a namespace. Dropping it ends all SAs that are kept; may sleep.
#[pin_data(PinnedDrop)]
pub(in crate::xfrm) struct Deferred<'net> {
    /// Inside of the locks of SAs.
    #[pin]
    lines: SpinLock<Lines>,
    #[pin]
    old_addresses: proc::File<'net, OldAddresses<'net>>,
    #[pin]
    stats: proc::File<'net, Stats>,
}

/// # Invariants
///
/// Those in `resting`, and no others, have [`Lineage::rests`] set.
struct Lines {
    /// Have to be looked at soon.
    busy: List<Lineage>,
    /// Have to be looked at after [`REST`], that which rests for longest first.
    resting: List<Lineage>,
}

impl Lines {
    /// Lets a lineage rest that is in no list.
    fn rest(&mut self, lineage: ListArc<Lineage>) {
        lineage.rests.store(1, ordering::Relaxed);
        self.resting.push_back(lineage);
    }
}

impl<'net> Deferred<'net> {
    pub(super) fn new(net: Setup<'net>, files: &'static Files) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            lines <- new_spinlock!(Lines {
                busy: List::new(),
                resting: List::new(),
            }, "xfrm_next_deferred"),
            old_addresses <- proc::File::new(net, files.moved, OldAddresses::new(net, &files.grace)),
            stats <- proc::File::new(net, files.stat, Ok(Stats::new())),
        })
    }

    /// Returns who is found at old addresses.
    pub(super) fn old_addresses(&self) -> &OldAddresses<'net> {
        &self.old_addresses
    }

    /// Returns what is counted.
    pub(in crate::xfrm) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Whether they are at all. Any context.
    pub(in crate::xfrm) fn finds(&self) -> bool {
        self.old_addresses.finds()
    }

    /// Returns for how long they are. Any context.
    fn grace(&self) -> Jiffies {
        self.old_addresses.grace()
    }

    /// Has packets look for an SA at old addresses until what is returned is dropped, also if it
    /// isn't there yet. Any context.
    pub(in crate::xfrm) fn expect<'a>(&'a self, state: &'a State) -> Expected<'a> {
        self.old_addresses.expect(state)
    }

    /// Lets the SA be found no more that was where `new` is now, unless that has replaced it
    /// just now.
    pub(in crate::xfrm) fn give_up(&self, new: &State, replaced: &State) {
        if self.old_addresses.may_have(|| Kind::of(&new.id())) {
            let other = |old: &State| !ptr::eq(old, replaced);
            self.old_addresses.give_up(&new.id(), new.mark(), other);
        }
    }

    /// Takes a lineage that begins. Returns whether the work is to be asked for anew, which it
    /// has been if there are others to be looked at soon. Bottom halves must be off.
    pub(super) fn add(&self, lineage: ListArc<Lineage>) -> bool {
        let mut lines = self.lines.lock();
        let first = lines.busy.is_empty();
        lines.busy.push_back(lineage);
        first
    }

    /// Sees to a lineage again that has begun, if it rests: returns as [`Self::add`].
    ///
    /// # Safety
    ///
    /// It is one of ours. Bottom halves are off.
    pub(super) unsafe fn wake(&self, lineage: &Lineage) -> bool {
        let mut lines = self.lines.lock();
        if lineage.rests.load(ordering::Relaxed) == 0 {
            return false;
        }
        lineage.rests.store(0, ordering::Relaxed);
        let first = lines.busy.is_empty();
        // SAFETY: It is in no other list, by the type invariant and what the caller promises.
        if let Some(lineage) = unsafe { lines.resting.remove(lineage) } {
            lines.busy.push_back(lineage);
        }
        first
    }

    /// Takes a lineage that begins and may rest; returns as [`Self::add`].
    pub(super) fn add_resting(&self, lineage: ListArc<Lineage>) -> bool {
        let mut lines = self.lines.lock();
        let first = lines.busy.is_empty() && lines.resting.is_empty();
        lineage.look_in(msecs_to_jiffies(REST));
        lines.rest(lineage);
        first
    }

    /// Takes those that have to be looked at soon.
    fn take_busy(&self) -> List<Lineage> {
        let _off = bh::off();
        let mut lines = self.lines.lock();
        mem::replace(&mut lines.busy, List::new())
    }

    /// Takes some of those that rest, and have to be looked at now, or of `all`.
    fn take_resting(&self, all: bool) -> List<Lineage> {
        let _off = bh::off();
        let (mut lines, mut taken) = (self.lines.lock(), List::new());
        for _ in 0..AT_ONCE {
            match lines.resting.pop_front() {
                Some(lineage) if all || lineage.is_due() => {
                    lineage.rests.store(0, ordering::Relaxed);
                    taken.push_back(lineage);
                }
                Some(lineage) => {
                    lines.resting.push_front(lineage);
                    break;
                }
                None => break,
            }
        }
        taken
    }

    /// Puts one back that may rest, unless there has been a move.
    fn rest(&self, lineage: ListArc<Lineage>) {
        let _off = bh::off();
        let mut lines = self.lines.lock();
        if lineage.is_due() {
            lines.busy.push_back(lineage);
        } else {
            lines.rest(lineage);
        }
    }

    /// Ends a replaced SA.
    fn end(&self, kept: Kept) {
        self.old_addresses.remove(&kept);
        lineage::end(kept);
        self.stats.let_go();
    }

    /// Ends what is due of a lineage, if anything is. Returns what is left of it.
    fn look(&self, lineage: &Lineage) -> Left {
        if !lineage.is_due() {
            return Left::Busy { waits: false };
        }
        let some_found = !self.old_addresses.is_empty();
        let off = bh::off();
        if some_found && lineage.rests_on(self.grace(), msecs_to_jiffies(REST)) {
            return Left::Resting;
        }
        drop(off);
        self.look_at(lineage)
    }

    /// Ends what may end. Returns what is left.
    fn look_at(&self, lineage: &Lineage) -> Left {
        // A move that comes meanwhile makes it earlier.
        let again = lineage.look_in(msecs_to_jiffies(AGAIN));
        let followed = !self.old_addresses.is_empty() && is_followed(lineage);
        let (mut kept, mut left, mut in_flight) = (take_kept(lineage), Queue::new(), Queue::new());
        let mut waits = false;
        // Who waits for packets isn't found, but comes first.
        let mut too_many = kept.len().saturating_sub(AT_MOST);

        while let Some(one) = kept.pop_front() {
            yield_cpu();
            if one.is_found() {
                if followed && too_many == 0 && one.age() < self.grace() {
                    left.push_back(one);
                    continue;
                }
                self.old_addresses.remove(&one);
                one.restart();
            }
            too_many = too_many.saturating_sub(1);
            match end_idle(one) {
                Fate::Ended => self.stats.let_go(),
                Fate::Findable(one) => {
                    waits = true;
                    left.push_back(one);
                }
                Fate::InFlight(one) if one.age() >= msecs_to_jiffies(PATIENCE) => self.end(one),
                Fate::InFlight(one) => in_flight.push_back(one),
            }
        }
        for _ in AT_MOST..in_flight.len() {
            if let Some(one) = in_flight.pop_front() {
                self.end(one);
            }
        }
        let rests = !waits && in_flight.is_empty();
        if rests {
            lineage.look_in_instead(again, msecs_to_jiffies(REST));
        } else if waits {
            lineage.look_in(0);
        }
        in_flight.append(left);
        if in_flight.is_empty() && finish(lineage) {
            return Left::Nothing;
        }
        let _off = bh::off();
        lineage.put_back(in_flight, rests);
        match (rests, waits) {
            (true, _) => Left::Resting,
            (false, waits) => Left::Busy { waits },
        }
    }
}

/// What is left of a lineage.
enum Left {
    /// Nothing: it has ended.
    Nothing,
    /// SAs that are found at their old addresses, and no others.
    Resting,
    /// Others, too, some of which may wait for a grace period.
    Busy {
        /// Whether they do.
        waits: bool,
    },
}

impl Work for Deferred<'_> {
    /// As long as a grace period may take: not much more memory waits for it than what the
    /// kernel's collector has waiting for its own.
    const DELAY: Msecs = 20;

    /// Ends what is due.
    fn run(&self) -> Option<Msecs> {
        let (mut taken, mut left) = (Taken::new(self, false), List::new());
        let mut wait = false;

        while let Some(lineage) = taken.next() {
            yield_cpu();
            match self.look(&lineage) {
                Left::Nothing => {}
                Left::Resting => {
                    // When its time has come, nobody has to wait for one.
                    wait = true;
                    self.rest(lineage);
                }
                Left::Busy { waits } => {
                    wait |= waits;
                    left.push_back(lineage);
                }
            }
        }
        if wait {
            GracePeriod::start();
        }
        let _off = bh::off();
        let mut lines = self.lines.lock();
        lines.busy.push_all_back(&mut left);
        if !lines.busy.is_empty() {
            Some(Self::DELAY)
        } else {
            (!lines.resting.is_empty()).then_some(AGAIN)
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Deferred<'_> {
    fn drop(self: Pin<&mut Self>) {
        let mut taken = Taken::new(&self, true);
        while let Some(lineage) = taken.next() {
            let mut kept = take_kept(&lineage);
            while let Some(one) = kept.pop_front() {
                self.end(one);
            }
            finish(&lineage);
            yield_cpu();
        }
    }
}

/// Lineages that are taken to be looked at: those that have to be soon, then those that rest.
struct Taken<'a, 'net> {
    from: &'a Deferred<'net>,
    lineages: List<Lineage>,
    /// Whether also those that needn't be looked at yet.
    all: bool,
}

impl<'a, 'net> Taken<'a, 'net> {
    fn new(from: &'a Deferred<'net>, all: bool) -> Self {
        Self {
            from,
            lineages: from.take_busy(),
            all,
        }
    }

    fn next(&mut self) -> Option<ListArc<Lineage>> {
        if self.lineages.is_empty() {
            self.lineages = self.from.take_resting(self.all);
        }
        self.lineages.pop_front()
    }
}

fn is_followed(lineage: &Lineage) -> bool {
    let _off = bh::off();
    lineage.is_followed()
}

fn take_kept(lineage: &Lineage) -> Queue {
    let _off = bh::off();
    lineage.take_kept()
}

fn finish(lineage: &Lineage) -> bool {
    let _off = bh::off();
    lineage.end()
}

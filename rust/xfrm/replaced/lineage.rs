// SPDX-License-Identifier: GPL-2.0

//! The line of SAs in which each has replaced the one before.
//!
//! From any of them that is kept for packets in flight, the newest is one step away,
//! however many there have been since; none keeps another's memory, but the newest's.
//!
//! An SA that is replaced for the first time begins a [`Lineage`], which ends with the
//! last one that is kept ([`deferred`](super::deferred) sees to that). It is
//! named by `km.filter` of the newest and of all that are kept, in these with the lowest bit
//! set: a field that the kernel has for those who read the list of all SAs, and never looks
//! at in an SA. In C it would be a field of its own.
//!
//! Locks: [`State::lock`] of one that is kept -> that of the newest -> the line.

use super::{
    deferred::{Deferred, AT_MOST},
    kept::{age, now, Kept, Queue},
    old_address,
    window::{close_window, copy_window},
};
use crate::{
    raw,
    xfrm::{
        state::{
            tables::{count_again, uncache},
            Locked, Nested,
        },
        uapi, State,
    },
};
use core::ptr;
use kernel::{
    list::{impl_list_arc_safe, impl_list_item, ListArc, ListLinks},
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{ordering, Atomic},
        SpinLock,
    },
    time::Jiffies,
};

/// A line of SAs.
///
/// # Invariants
///
/// The newest and those that are kept name it, and no other SA does. Each stops doing so
/// under its lock before the lineage is freed.
#[pin_data]
pub(in crate::xfrm) struct Lineage {
    #[pin]
    links: ListLinks,
    #[pin]
    line: SpinLock<Line>,
    /// When somebody has to look at those that are kept.
    look_at: Atomic<Jiffies>,
    /// Whether it is in the list of those that rest: 0 or 1, written with that locked.
    pub(super) rests: Atomic<i32>,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Lineage { untracked; }
}
impl_list_item! {
    impl ListItem<0> for Lineage { using ListLinks { self.links }; }
}

/// What the innermost lock protects, which bottom halves take.
struct Line {
    /// None before the first replacement.
    newest: Option<ARef<State>>,
    /// The oldest first.
    kept: Queue,
    /// Whether all of these are found at old addresses.
    found: bool,
}

impl Line {
    /// Whether the newest is valid.
    fn is_followed(&self) -> bool {
        self.newest.as_ref().is_some_and(|newest| newest.is_valid())
    }
}

/// Set in the name of a lineage by those that are kept.
const IS_KEPT: usize = 1;

/// Returns where an SA names its lineage.
fn name(state: &State) -> *mut *const Lineage {
    // SAFETY: The SA is valid; only the address of the field is taken.
    unsafe { (&raw mut (*state.as_ptr()).km.filter).cast() }
}

/// Returns the lineage of an SA, if it has one.
///
/// # Safety
///
/// The SA is locked as long as what is returned is used.
pub(super) unsafe fn of<'a>(state: &State) -> Option<&'a Lineage> {
    // SAFETY: The lock protects the field, and by the type invariant a lineage is there as
    // long as it is named.
    unsafe { (*name(state)).map_addr(|name| name & !IS_KEPT).as_ref() }
}

/// Whether an SA has been replaced, and is kept. Any context; it stays so under the lock of
/// the SA.
pub(in crate::xfrm) fn is_kept(state: &State) -> bool {
    // SAFETY: The SA is valid; one access.
    unsafe { name(state).read_volatile() }.addr() & IS_KEPT != 0
}

impl Lineage {
    fn new() -> Result<ListArc<Self>> {
        ListArc::pin_init(
            try_pin_init!(Self {
                links <- ListLinks::new(),
                line <- new_spinlock!(Line {
                    newest: None,
                    kept: Queue::new(),
                    found: true,
                }, "xfrm_next_lineage"),
                look_at: Atomic::new(now()),
                rests: Atomic::new(0),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Returns the newest. Bottom halves must be off, here and in what follows.
    pub(super) fn newest(&self) -> Option<ARef<State>> {
        self.line.lock().newest.clone()
    }

    /// Calls `f` with the newest, which is locked; not if that isn't valid any more, or there is
    /// none.
    ///
    /// # Safety
    ///
    /// The caller has locked one that it has replaced.
    pub(super) unsafe fn with_newest<R>(&self, f: impl FnOnce(&ARef<State>) -> R) -> Option<R> {
        loop {
            let newest = self.newest()?;
            // SAFETY: The caller promises it.
            let _locked = unsafe { newest.lock_nested() };
            if newest.is_valid() && !is_kept(&newest) {
                return Some(f(&newest));
            }
            // Else it has been replaced in this very moment, and maybe ended; the next one can't
            // be before another whole request.
            if self.is_newest(&newest) {
                return None;
            }
        }
    }

    /// Whether this one still is the newest; under its lock it stays that.
    fn is_newest(&self, state: &State) -> bool {
        let line = self.line.lock();
        line.newest
            .as_ref()
            .is_some_and(|newest| ptr::eq(&**newest, state))
    }

    /// Whether the newest is valid.
    pub(super) fn is_followed(&self) -> bool {
        self.line.lock().is_followed()
    }

    /// Returns all that are kept, the oldest first, for who sees to their ends.
    pub(super) fn take_kept(&self) -> Queue {
        let mut line = self.line.lock();
        line.found = true;
        line.kept.take()
    }

    /// Puts back what is still kept of them; whether all are found at old addresses.
    pub(super) fn put_back(&self, mut kept: Queue, found: bool) {
        let mut line = self.line.lock();
        kept.append(line.kept.take());
        line.kept = kept;
        line.found &= found;
    }

    /// Whether those that are kept may all stay, as they are found at old addresses for `grace`;
    /// then somebody has to look again after this while.
    pub(super) fn rests_on(&self, grace: Jiffies, while_: Jiffies) -> bool {
        let line = self.line.lock();
        let in_time = line.kept.age().is_some_and(|age| age < grace);
        let rests = line.found && line.is_followed() && in_time && line.kept.len() <= AT_MOST;
        if rests {
            self.look_in(while_);
        }
        rests
    }

    /// Whether somebody has to look at those that are kept.
    pub(super) fn is_due(&self) -> bool {
        // Times wrap.
        now().wrapping_sub(self.look_at.load(ordering::Relaxed)) <= Jiffies::MAX / 2
    }

    /// Somebody has to look again after a while, or when another one is replaced. Returns when.
    pub(super) fn look_in(&self, while_: Jiffies) -> Jiffies {
        let when = now().wrapping_add(while_);
        self.look_at.store(when, ordering::Relaxed);
        when
    }

    /// Nobody has to look again at `when`, unless another one has been replaced, but after this
    /// while.
    pub(super) fn look_in_instead(&self, when: Jiffies, while_: Jiffies) {
        let instead = now().wrapping_add(while_);
        // If it fails, there was a move.
        let _ = self.look_at.cmpxchg(when, instead, ordering::Relaxed);
    }

    /// Ends the lineage, if none is kept: whether it may be freed.
    pub(super) fn end(&self) -> bool {
        let Some(newest) = self.newest() else {
            return true;
        };
        let _locked = newest.lock();
        // If it has been replaced just now, it is kept.
        if !self.line.lock().kept.is_empty() {
            return false;
        }
        // SAFETY: It is locked. None is kept, so that this is the only name.
        unsafe { *name(&newest) = ptr::null() };
        true
    }
}

/// Calls `f` with the newest of the line of an SA that has been kept for less than `grace`, if it
/// is valid; else it never will be again, unless `grace` grows. From then on the SA refuses, before
/// it decrypts them, the packets that the newest has received until now. Takes the locks of both.
///
/// # Safety
///
/// Bottom halves are off.
pub(super) unsafe fn follow<R>(
    state: &State,
    grace: Jiffies,
    f: impl FnOnce(&ARef<State>) -> R,
) -> Option<R> {
    // SAFETY: The caller promises it.
    let _locked = unsafe { state.lock_in_bh() };
    if !is_kept(state) || age(state) >= grace {
        return None;
    }
    // SAFETY: It is locked, and so is the newest.
    unsafe {
        of(state)?.with_newest(|newest| {
            copy_window(state.as_ptr(), newest.as_ptr());
            hand_over_stats(state.as_ptr(), newest.as_ptr());
            f(newest)
        })
    }
}

/// Lets the newest of a line count what has gone wrong with packets that came by another.
///
/// # Safety
///
/// Both are locked.
unsafe fn hand_over_stats(old: *mut raw::xfrm_state, newest: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it.
    let (from, to) = unsafe { (&mut (*old).stats, &mut (*newest).stats) };
    to.replay_window = to.replay_window.wrapping_add(from.replay_window);
    to.replay = to.replay.wrapping_add(from.replay);
    to.integrity_failed = to.integrity_failed.wrapping_add(from.integrity_failed);
    *from = pin_init::zeroed();
}

/// Room for what has to be noted of an SA that is to be kept.
pub(in crate::xfrm) struct Room {
    begins: Option<ListArc<Lineage>>,
    address: Option<old_address::Room>,
}

impl Room {
    /// Makes none yet: most don't need it.
    pub(in crate::xfrm) const fn new() -> Self {
        Self {
            begins: None,
            address: None,
        }
    }

    /// Makes some for the SA to be found at its old address. May sleep. Fails with `ENOMEM`.
    pub(in crate::xfrm) fn add_address(&mut self, old: &State) -> Result {
        let tunnel = old.id().proto == uapi::IPPROTO_COMP;
        self.address = Some(old_address::Room::new(tunnel)?);
        Ok(())
    }

    /// Whether there is none, but needed to keep this one: [`Self::add`] has to follow when
    /// nothing is locked.
    pub(in crate::xfrm) fn is_missing(&self, old: &Locked<'_>) -> bool {
        // SAFETY: It is locked.
        self.begins.is_none() && unsafe { of(old.state()) }.is_none()
    }

    /// Makes some for the line to begin. May sleep. Fails with `ENOMEM`.
    pub(in crate::xfrm) fn add(&mut self) -> Result {
        self.begins = Some(Lineage::new()?);
        Ok(())
    }

    /// Returns a place for this one, unless room [is missing](Self::is_missing).
    pub(in crate::xfrm) fn place<'a>(self, old: &'a Locked<'_>) -> Option<Place<'a>> {
        let old = old.state();
        // SAFETY: It is locked.
        let begins = match unsafe { of(old) } {
            Some(_) => None,
            None => Some(self.begins?),
        };
        Some(Place {
            old,
            begins,
            address: self.address,
            is_found: false,
        })
    }
}

/// A place in a line for an SA that is to be kept.
///
/// # Invariants
///
/// The SA is locked; it has a lineage, or one begins.
pub(in crate::xfrm) struct Place<'a> {
    old: &'a State,
    begins: Option<ListArc<Lineage>>,
    address: Option<old_address::Room>,
    is_found: bool,
}

impl Place<'_> {
    /// Lets the SA be found at its old address, if there is [room](Room::add_address), by packets
    /// that don't find it in the tables any more.
    ///
    /// # Safety
    ///
    /// [`Self::keep`] follows, with the same `deferred`.
    pub(in crate::xfrm) unsafe fn be_found(&mut self, deferred: &Deferred<'_>) {
        if let Some(room) = self.address.take() {
            // SAFETY: By the type invariant it is locked, and by what the caller promises kept.
            unsafe { deferred.old_addresses().add(self.old, room) };
            self.is_found = true;
        }
    }

    /// Keeps the SA, and makes `new` the newest of its line. Returns whether the work of
    /// `deferred` has to be asked for anew.
    ///
    /// # Safety
    ///
    /// The SA has just been taken out of the tables, and has neither timers nor limits;
    /// `deferred` is that of its namespace.
    pub(in crate::xfrm) unsafe fn keep(self, new: &Nested<'_>, deferred: &Deferred<'_>) -> bool {
        let (old, new) = (self.old, new.state());
        let lineage: *const Lineage = match &self.begins {
            Some(begins) => &**begins,
            // SAFETY: It is locked.
            None => unsafe { of(old) }.map_or(ptr::null(), ptr::from_ref),
        };
        // SAFETY: By the type invariant there is one. Both SAs are locked, and name it from
        // now on.
        let rests = unsafe {
            let mut line = (*lineage).line.lock();
            let state = line.newest.replace(new.into());
            let kept = Kept::new(state.unwrap_or_else(|| old.into()));
            kept.set_found(self.is_found);
            let rests = self.is_found && line.kept.len() < AT_MOST;
            line.kept.push_back(kept);
            if !rests {
                line.found = false;
                (*lineage).look_in(0);
            }
            *name(old) = lineage.map_addr(|name| name | IS_KEPT);
            *name(new) = lineage;
            deferred.stats().keep();
            rests
        };
        match self.begins {
            Some(begins) if rests => deferred.add_resting(begins),
            Some(begins) => deferred.add(begins),
            None if rests => false,
            // SAFETY: It is named by the SAs, which are locked.
            None => unsafe { deferred.wake(&*lineage) },
        }
    }
}

/// What has become of a replaced SA that was kept.
pub(super) enum Fate {
    /// It has ended, since nobody referred to it.
    Ended,
    /// Somebody may still find it in the tables, or in a cache.
    Findable(Kept),
    /// Somebody refers to it.
    InFlight(Kept),
}

/// Ends a replaced SA that was kept, if nobody refers to it any more, nor finds it. Takes its
/// lock, and `xfrm_state_lock`.
pub(super) fn end_idle(kept: Kept) -> Fate {
    let state = kept.state();
    // Who has found it before that may put it into a cache until then.
    let is_over = kept.unfindable().is_over();
    // SAFETY: Its namespace is there as long as it is kept.
    if unsafe { state.leave_caches() } {
        // Somebody may be finding it there.
        kept.unfindable().restart();
        return Fate::Findable(kept);
    }
    if !is_over {
        return Fate::Findable(kept);
    }
    // Ours and that of the tables, which who deletes it gives up.
    if state.references() > 1 + u32::from(!state.is_dead()) {
        state.lock().outdate_routes();
        return Fate::InFlight(kept);
    }
    end(kept);
    Fate::Ended
}

/// Ends a replaced SA that was kept: it is dead then, with a window that takes nothing, as its
/// successor doesn't answer for it any more. Takes its lock, and `xfrm_state_lock`.
pub(super) fn end(kept: Kept) {
    let state = kept.state();
    let locked = state.lock();
    let deleted = state.is_dead();

    // SAFETY: The SA is locked, and its namespace there as long as it is kept; the newest is locked
    // where it is used.
    unsafe {
        if let Some(lineage) = of(state) {
            lineage.with_newest(|newest| hand_over_stats(state.as_ptr(), newest.as_ptr()));
        }
        *name(state) = ptr::null();
        (&raw mut (*state.as_ptr()).km.state).write_volatile(raw::XFRM_STATE_DEAD as u8);
        close_window(state.as_ptr());
        // Dead ones aren't put there, so it is for good.
        uncache(state);
        if deleted {
            count_again(state.net());
        }
    }
    drop(locked);
    if !deleted {
        // SAFETY: That of the tables, which nobody else gives up for a dead one.
        drop(unsafe { State::owned(state.as_ptr()) });
    }
}

#[kernel::macros::kunit_tests(xfrm_next_lineage)]
mod tests {
    use super::super::for_test;
    use super::*;
    use crate::net::Namespace;
    use core::ptr::NonNull;

    /// An SA that is in no table, with the reference that the tables would have.
    fn valid() -> Result<ARef<State>> {
        // SAFETY: A new SA is ours, and the first namespace is always there.
        unsafe {
            let x = NonNull::new(raw::xfrm_state_alloc(Namespace::first().as_ptr()));
            let x = x.ok_or(ENOMEM)?.as_ptr();
            (*x).km.state = raw::XFRM_STATE_VALID as u8;
            raw::xfrm_next_state_hold(x);
            State::owned(x).ok_or(ENOMEM)
        }
    }

    /// Replaces one by another; whether a line begins.
    fn replace(old: &State, new: &State, deferred: &Deferred<'_>) -> Result<bool> {
        let mut room = Room::new();
        if room.is_missing(&old.lock()) {
            room.add()?;
        }
        let locked = old.lock();
        // SAFETY: It is in no table, and never had limits; the other one is locked.
        unsafe {
            let nested = new.lock_nested();
            Ok(room.place(&locked).ok_or(ENOENT)?.keep(&nested, deferred))
        }
    }

    fn newest_of(state: &State) -> Option<*const State> {
        let _locked = state.lock();
        // SAFETY: It is locked.
        let newest = unsafe { of(state) }?.newest()?;
        Some(ptr::from_ref(&*newest))
    }

    #[test]
    fn newest_is_one_step_away() -> Result {
        let line = [valid()?, valid()?, valid()?, valid()?];
        let deferred = for_test()?;
        assert!(replace(&line[0], &line[1], &deferred)?);
        assert!(!replace(&line[1], &line[2], &deferred)?);
        assert!(!replace(&line[2], &line[3], &deferred)?);

        for (n, state) in line.iter().enumerate() {
            assert_eq!(is_kept(state), n < 3);
            assert_eq!(newest_of(state), Some(ptr::from_ref(&*line[3])));
        }
        drop(deferred);
        for (n, state) in line.iter().enumerate() {
            assert_eq!(state.is_dead(), n < 3);
            assert!(!is_kept(state) && newest_of(state).is_none());
        }
        // SAFETY: They are valid; this gives up what the tables would have.
        unsafe {
            (*line[3].as_ptr()).km.state = raw::XFRM_STATE_DEAD as u8;
            drop(State::owned(line[3].as_ptr()));
        }
        assert!(line.iter().all(|state| state.references() == 1));
        Ok(())
    }

    #[test]
    fn deleted_by_who_had_found_it() -> Result {
        let (old, new) = (valid()?, valid()?);
        let deferred = for_test()?;
        assert!(replace(&old, &new, &deferred)?);
        // SAFETY: Both are valid. Each gives up what the tables would have.
        unsafe {
            raw::xfrm_state_delete(old.as_ptr());
            assert!(is_kept(&old));
            drop(deferred);
            (*new.as_ptr()).km.state = raw::XFRM_STATE_DEAD as u8;
            drop(State::owned(new.as_ptr()));
        }
        assert_eq!((old.references(), new.references()), (1, 1));
        Ok(())
    }
}

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

use super::window::close_window;
use crate::{
    net::GracePeriod,
    raw,
    xfrm::{
        state::{
            tables::{count_again, uncache},
            Locked, Nested,
        },
        State,
    },
};
use core::{mem, pin::Pin, ptr};
use kernel::{
    list::{impl_list_arc_safe, impl_list_item, List, ListArc, ListLinks},
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{ordering, Atomic},
        SpinLock, UniqueArc,
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
    kept: List<Kept>,
}

/// A replaced SA that is kept. It has the reference that the tables had besides this one,
/// until it is dead: somebody who found it there may delete it, and gives that up then.
#[pin_data]
pub(super) struct Kept {
    #[pin]
    links: ListLinks,
    pub(super) state: ARef<State>,
    /// When nobody finds it any more.
    pub(super) unfindable: GracePeriod,
    /// When it was replaced.
    since: Jiffies,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Kept { untracked; }
}
impl_list_item! {
    impl ListItem<0> for Kept { using ListLinks { self.links }; }
}

/// Returns the time. Any context.
pub(super) fn now() -> Jiffies {
    // SAFETY: It may be called anywhere.
    unsafe { raw::xfrm_next_jiffies() }
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
                    kept: List::new(),
                }, "xfrm_next_lineage"),
                look_at: Atomic::new(now()),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Returns the newest. Bottom halves must be off, here and in what follows.
    pub(super) fn newest(&self) -> Option<ARef<State>> {
        self.line.lock().newest.clone()
    }

    /// Whether this one still is the newest; under its lock it stays that.
    pub(super) fn is_newest(&self, state: &State) -> bool {
        let line = self.line.lock();
        line.newest
            .as_ref()
            .is_some_and(|newest| ptr::eq(&**newest, state))
    }

    /// Returns all that are kept, the oldest first, for who sees to their ends.
    pub(super) fn take_kept(&self) -> List<Kept> {
        mem::replace(&mut self.line.lock().kept, List::new())
    }

    /// Puts back what is still kept of them.
    pub(super) fn put_back(&self, mut kept: List<Kept>) {
        let mut line = self.line.lock();
        kept.push_all_back(&mut line.kept);
        line.kept = kept;
    }

    /// Whether somebody has to look at those that are kept.
    pub(super) fn is_due(&self) -> bool {
        // Times wrap.
        now().wrapping_sub(self.look_at.load(ordering::Relaxed)) <= Jiffies::MAX / 2
    }

    /// Somebody has to look again after a while, or when another one is replaced.
    pub(super) fn look_in(&self, while_: Jiffies) {
        self.look_at
            .store(now().wrapping_add(while_), ordering::Relaxed);
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

/// Room for one SA to be kept.
pub(in crate::xfrm) struct Room {
    kept: Pin<UniqueArc<Kept>>,
    /// Needed if the line begins.
    lineage: Option<ListArc<Lineage>>,
}

impl Room {
    /// Makes room for this one. May sleep. Fails with `ENOMEM`.
    pub(in crate::xfrm) fn new(old: &State) -> Result<Self> {
        let kept = pin_init!(Kept {
            links <- ListLinks::new(),
            state: old.into(),
            unfindable: GracePeriod::after_now(),
            since: 0,
        });
        Ok(Self {
            kept: UniqueArc::pin_init(kept, GFP_KERNEL)?,
            lineage: None,
        })
    }

    /// Whether a lineage is missing: [`Self::add_lineage`] has to follow when nothing is
    /// locked.
    pub(in crate::xfrm) fn lacks_lineage(&self, old: &Locked<'_>) -> bool {
        // SAFETY: It is locked.
        self.lineage.is_none() && unsafe { of(old.state()) }.is_none()
    }

    /// Adds one. May sleep. Fails with `ENOMEM`.
    pub(in crate::xfrm) fn add_lineage(&mut self) -> Result {
        self.lineage = Some(Lineage::new()?);
        Ok(())
    }

    /// Keeps `old`, for which there is room, and makes `new` the newest of its line. Returns
    /// the lineage if it begins here.
    ///
    /// Fails if there is no lineage; [`Self::lacks_lineage`] under the same lock tells.
    pub(in crate::xfrm) fn keep(
        mut self,
        old: &Locked<'_>,
        new: &Nested<'_>,
    ) -> Result<Option<ListArc<Lineage>>> {
        let (old, new) = (old.state(), new.state());
        if !ptr::eq(&*self.kept.state, old) {
            return Err(EINVAL);
        }
        // SAFETY: It is locked.
        let (lineage, begins) = match unsafe { of(old) } {
            Some(lineage) => (ptr::from_ref(lineage), None),
            None => {
                let begins = self.lineage.take().ok_or(ENOENT)?;
                (ptr::from_ref(&*begins), Some(begins))
            }
        };
        *self.kept.as_mut().project().since = now();
        self.kept.unfindable.restart();

        // SAFETY: It is that of `old`, or ours. Both SAs are locked, and name it from now on.
        unsafe {
            (*lineage).look_in(0);
            let mut line = (*lineage).line.lock();
            line.newest = Some(new.into());
            line.kept.push_back(self.kept.into());
            *name(old) = lineage.map_addr(|name| name | IS_KEPT);
            *name(new) = lineage;
        }
        Ok(begins)
    }
}

impl Kept {
    /// Returns for how long it has been kept. Any context.
    pub(super) fn age(&self) -> Jiffies {
        now().wrapping_sub(self.since)
    }
}

/// Ends a replaced SA that was kept: it is dead then, with a window that takes nothing, as its
/// successor doesn't answer for it any more. Takes its lock, and `xfrm_state_lock`.
pub(super) fn end(kept: ListArc<Kept>) {
    let state = &*kept.state;
    let locked = state.lock();
    let deleted = state.is_dead();

    // SAFETY: The SA is locked, and its namespace there as long as it is kept.
    let net = unsafe {
        *name(state) = ptr::null();
        (&raw mut (*state.as_ptr()).km.state).write_volatile(raw::XFRM_STATE_DEAD as u8);
        close_window(state.as_ptr());
        state.net()
    };
    // Dead ones aren't put there, so it is for good.
    uncache(state, net);
    if deleted {
        count_again(net);
    }
    drop(locked);
    if !deleted {
        // SAFETY: That of the tables, which nobody else gives up for a dead one.
        drop(unsafe { State::owned(state.as_ptr()) });
    }
}

#[kernel::macros::kunit_tests(xfrm_next_lineage)]
mod tests {
    use super::*;
    use crate::net::{bh, Namespace};
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

    /// Replaces one by another.
    fn replace(old: &State, new: &State) -> Result<Option<ListArc<Lineage>>> {
        let mut room = Room::new(old)?;
        if room.lacks_lineage(&old.lock()) {
            room.add_lineage()?;
        }
        let locked = old.lock();
        let nested = new.lock_nested();
        room.keep(&locked, &nested)
    }

    fn newest_of(state: &State) -> Option<*const State> {
        let _locked = state.lock();
        // SAFETY: It is locked.
        let newest = unsafe { of(state) }?.newest()?;
        Some(ptr::from_ref(&*newest))
    }

    /// Ends those that are kept, and the lineage.
    fn end_all(lineage: &Lineage) -> bool {
        let mut kept = {
            let _off = bh::off();
            lineage.take_kept()
        };
        while let Some(one) = kept.pop_front() {
            end(one);
        }
        let _off = bh::off();
        lineage.end()
    }

    #[test]
    fn newest_is_one_step_away() -> Result {
        let line = [valid()?, valid()?, valid()?, valid()?];
        let lineage = replace(&line[0], &line[1])?.ok_or(EINVAL)?;
        assert!(replace(&line[1], &line[2])?.is_none());
        assert!(replace(&line[2], &line[3])?.is_none());

        for (n, state) in line.iter().enumerate() {
            assert_eq!(is_kept(state), n < 3);
            assert_eq!(newest_of(state), Some(ptr::from_ref(&*line[3])));
        }
        let early = {
            let _off = bh::off();
            lineage.end()
        };
        assert!(!early);

        assert!(end_all(&lineage));
        drop(lineage);
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
        let lineage = replace(&old, &new)?.ok_or(EINVAL)?;
        // SAFETY: Both are valid. Each gives up what the tables would have.
        unsafe {
            raw::xfrm_state_delete(old.as_ptr());
            assert!(is_kept(&old));
            assert!(end_all(&lineage));
            (*new.as_ptr()).km.state = raw::XFRM_STATE_DEAD as u8;
            drop(State::owned(new.as_ptr()));
        }
        drop(lineage);
        assert_eq!((old.references(), new.references()), (1, 1));
        Ok(())
    }
}

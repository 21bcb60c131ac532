// SPDX-License-Identifier: GPL-2.0

//! A replaced SA that is kept for packets in flight, and queues of such.
//!
//! What has to be known of it is in fields that the kernel looks at no more, since it is in no
//! table and has neither timers nor NAT keepalives; so replacing an SA needs no memory for that.
//!
//! | field | is |
//! |---|---|
//! | `byseq.next` | the next one in the queue |
//! | `saved_tmo` | when nobody finds it any more |
//! | `nat_keepalive_expiration` | when it was replaced, or stopped being found at its old address |
//! | `nat_keepalive_interval` | whether it is found there |

use crate::{net::GracePeriod, raw, xfrm::State};
use core::{mem, ptr::NonNull};
use kernel::{sync::aref::ARef, time::Jiffies};

/// A replaced SA that is kept.
///
/// # Invariants
///
/// It is in no table, and nobody else keeps it: the fields above are ours. It has the
/// reference that the tables had besides this one, until it is dead: somebody who found it
/// there may delete it, and gives that up then.
pub(super) struct Kept(ARef<State>);

impl Kept {
    /// Keeps an SA that has just been taken out of the tables.
    ///
    /// # Safety
    ///
    /// By the type invariant; it has no limits of time and no NAT keepalives any more.
    pub(super) unsafe fn new(state: ARef<State>) -> Self {
        let kept = Self(state);
        kept.unfindable().restart();
        kept.restart();
        kept
    }

    /// Returns the SA.
    pub(super) fn state(&self) -> &State {
        &self.0
    }

    /// Returns when nobody finds it any more.
    pub(super) fn unfindable(&self) -> &GracePeriod {
        // SAFETY: By the type invariant the field is ours; it has the size and the alignment.
        unsafe { &*(&raw const (*self.0.as_ptr()).saved_tmo).cast() }
    }

    /// Begins to be kept anew, for packets in flight. Any context.
    pub(super) fn restart(&self) {
        // SAFETY: By the type invariant the field is ours; it may be read meanwhile.
        unsafe {
            let since = &raw mut (*self.0.as_ptr()).nat_keepalive_expiration;
            since.write_volatile(now() as i64);
        }
    }

    /// Whether it is found at its old address; [`OldAddresses`](super::OldAddresses) sees to it.
    pub(super) fn is_found(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { (&raw const (*self.0.as_ptr()).nat_keepalive_interval).read_volatile() != 0 }
    }

    /// Notes whether it is.
    pub(super) fn set_found(&self, found: bool) {
        // SAFETY: As above.
        unsafe {
            let field = &raw mut (*self.0.as_ptr()).nat_keepalive_interval;
            field.write_volatile(found.into());
        }
    }

    /// Returns for how long it has been kept. Any context.
    pub(super) fn age(&self) -> Jiffies {
        age(&self.0)
    }
}

/// Returns for how long an SA has been kept that is.
pub(super) fn age(state: &State) -> Jiffies {
    // SAFETY: It is valid; one access.
    let since = unsafe { (&raw const (*state.as_ptr()).nat_keepalive_expiration).read_volatile() };
    now().wrapping_sub(since as Jiffies)
}

/// Returns where a kept SA has the next one.
fn next(state: NonNull<State>) -> *mut *mut State {
    // SAFETY: It is valid, and only the address of the field is taken, which is a pointer's.
    unsafe { (&raw mut (*state.cast::<raw::xfrm_state>().as_ptr()).byseq.next).cast() }
}

const _: () = assert!(size_of::<GracePeriod>() == size_of::<kernel::ffi::c_long>());

/// Returns the time. Any context.
pub(super) fn now() -> Jiffies {
    // SAFETY: It may be called anywhere.
    unsafe { raw::xfrm_next_jiffies() }
}

/// Some that are kept, the oldest first.
///
/// # Invariants
///
/// The first and the last of a chain by [`Kept::next`], each of which is ours, or none; and how many
/// there are.
pub(super) struct Queue(Option<(NonNull<State>, NonNull<State>)>, usize);

// SAFETY: What is kept may be sent.
unsafe impl Send for Queue {}

impl Queue {
    /// Makes an empty one.
    pub(super) const fn new() -> Self {
        Self(None, 0)
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.1
    }

    /// Returns for how long the first one has been kept.
    pub(super) fn age(&self) -> Option<Jiffies> {
        // SAFETY: By the type invariant it is kept.
        self.0.map(|(first, _)| age(unsafe { first.as_ref() }))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Takes all.
    pub(super) fn take(&mut self) -> Self {
        mem::replace(self, Self::new())
    }

    /// Adds one at the end.
    pub(super) fn push_back(&mut self, kept: Kept) {
        let last = ARef::into_raw(kept.0);
        self.append(Self(Some((last, last)), 1));
    }

    /// Adds these at the end.
    pub(super) fn append(&mut self, mut others: Self) {
        let Some((first, last)) = others.0.take() else {
            return;
        };
        self.1 += others.1;
        self.0 = match self.0 {
            None => Some((first, last)),
            Some((start, end)) => {
                // SAFETY: By the type invariant it is kept, and ours.
                unsafe { next(end).write(first.as_ptr()) };
                Some((start, last))
            }
        };
    }

    /// Takes the first one.
    pub(super) fn pop_front(&mut self) -> Option<Kept> {
        let (first, last) = self.0?;
        self.1 -= 1;
        // SAFETY: By the type invariant it is kept, and its reference ours.
        let kept = Kept(unsafe { ARef::from_raw(first) });
        self.0 = if first == last {
            None
        } else {
            // SAFETY: As above; it isn't the last, so that there is a next one.
            Some((unsafe { NonNull::new_unchecked(next(first).read()) }, last))
        };
        Some(kept)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        while self.pop_front().is_some() {}
    }
}

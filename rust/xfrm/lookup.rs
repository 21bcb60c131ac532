// SPDX-License-Identifier: GPL-2.0

//! Finding SAs: by destination, SPI and protocol, or all of a namespace.

use super::{uapi::Id, State};
use crate::{net::Namespace, raw};
use core::ptr::NonNull;
use kernel::{sync::aref::ARef, types::NotThreadSafe};

/// Returns the first SA with this id that takes packets with `mark` and is
/// `wanted`, in the order in which the kernel looks through them: the newest
/// first.
///
/// `wanted` must not sleep, nor drop the last reference to an SA. Mirrors
/// `xfrm_state_lookup()`, which takes just the first.
pub fn find(
    net: &Namespace,
    id: &Id,
    mark: u32,
    wanted: impl Fn(&State) -> bool,
) -> Option<ARef<State>> {
    let first = first(net, id, mark)?;
    if wanted(&first) {
        return Some(first);
    }

    // The others are further down in the same chain of the hash table. Under
    // the lock, what is in it stays in it, and in its place.
    let _others = Table::lock(net);
    let first = self::first(net, id, mark)?;
    let mut at = first.as_ptr();
    while let Some(state) = NonNull::new(at) {
        // SAFETY: It is in the table, which has a reference to it, and we hold
        // the table's lock.
        let state = unsafe { State::from_raw(state.as_ptr()) };
        if has_id(state, id) && takes(state, mark) && wanted(state) {
            return Some(state.into());
        }
        // SAFETY: As above.
        at = unsafe { raw::xfrm_next_state_next_byspi(at) };
    }
    None
}

fn first(net: &Namespace, id: &Id, mark: u32) -> Option<ARef<State>> {
    // SAFETY: The namespace is valid; the address is only read, and has the
    // layout of `xfrm_address_t` (`layout.rs`).
    let state = unsafe {
        raw::xfrm_state_lookup(
            net.as_ptr(),
            mark,
            (&raw const id.daddr).cast(),
            u32::from_ne_bytes(id.spi),
            id.proto,
            id.family,
        )
    };
    // SAFETY: It is null or comes with a reference, which is now ours.
    NonNull::new(state).map(|state| unsafe { ARef::from_raw(state.cast()) })
}

fn has_id(state: &State, id: &Id) -> bool {
    let theirs = state.id();

    theirs.spi == id.spi
        && theirs.proto == id.proto
        && theirs.family == id.family
        && theirs.daddr.equals(&id.daddr, id.family)
}

fn takes(state: &State, mark: u32) -> bool {
    mark & state.mark().m == state.mark().v
}

/// `xfrm_state_lock` of a namespace, held: no SA comes into its tables or
/// leaves them.
///
/// # Invariants
///
/// The lock is held by this CPU.
pub struct Table<'a> {
    net: &'a Namespace,
    _not_send: NotThreadSafe,
}

impl<'a> Table<'a> {
    /// Locks the tables, and keeps bottom halves off this CPU. Doesn't sleep,
    /// and nobody may sleep before they are unlocked. Inside of
    /// [`State::lock`].
    pub fn lock(net: &'a Namespace) -> Self {
        // SAFETY: The namespace is valid; `drop` unlocks.
        unsafe { raw::xfrm_next_states_lock(net.as_ptr()) };
        Self {
            net,
            _not_send: NotThreadSafe,
        }
    }

    /// The namespace whose tables they are.
    pub fn net(&self) -> &'a Namespace {
        self.net
    }

    /// How many SAs there are.
    pub fn len(&self) -> u32 {
        // SAFETY: The namespace is valid, and we hold the lock of the field.
        unsafe { (*self.net.as_ptr()).xfrm.state_num }
    }

    /// Returns the SAs with this id, whatever their marks; only those that have
    /// an SPI are found.
    pub fn with_id<'t>(&'t self, id: &'t Id) -> impl Iterator<Item = &'t State> {
        // SAFETY: We hold the lock.
        let first = unsafe { raw::xfrm_next_state_first_byspi(chain(self.net, id)) };
        let chain = core::iter::successors(NonNull::new(first), |state| {
            // SAFETY: What is in the table stays there under the lock.
            NonNull::new(unsafe { raw::xfrm_next_state_next_byspi(state.as_ptr()) })
        });
        chain
            // SAFETY: As above, and the table has a reference.
            .map(|state| unsafe { State::from_raw(state.as_ptr()) })
            .filter(|state| has_id(state, id))
    }

    /// Returns all SAs, the newest first.
    pub fn iter(&self) -> impl Iterator<Item = &State> {
        // SAFETY: Only the address of the field is taken.
        let head = unsafe { &raw mut (*self.net.as_ptr()).xfrm.state_all };
        let next = move |entry: &*mut raw::list_head| {
            // SAFETY: What is in the list stays there under the lock, and it is
            // linked in a circle.
            let next = unsafe { (**entry).next };
            (next != head).then_some(next)
        };
        // SAFETY: As above.
        core::iter::successors(next(&head), next).filter_map(|entry| unsafe { listed(entry) })
    }
}

/// Returns the chain of the hash table that an SA with this id is in.
///
/// # Safety
///
/// The lock of the table must be held.
pub(super) unsafe fn chain(net: &Namespace, id: &Id) -> *mut raw::hlist_head {
    // SAFETY: The namespace is valid; the address is read only, and has the
    // layout of `xfrm_address_t`. The caller holds the lock.
    unsafe {
        raw::xfrm_next_states_byspi(
            net.as_ptr(),
            (&raw const id.daddr).cast(),
            u32::from_ne_bytes(id.spi),
            id.proto,
            id.family,
        )
    }
}

/// Returns the SA that an entry of the list of all belongs to; `None` if that
/// is being deleted, or the place of one who is reading the list.
///
/// # Safety
///
/// The entry must be in the list of all SAs of a namespace, and the lock of its
/// tables held during `'a`.
pub(super) unsafe fn listed<'a>(entry: *mut raw::list_head) -> Option<&'a State> {
    // SAFETY: The entry is the first field of this, be it an SA's or a reader's;
    // one access.
    let phase =
        unsafe { (&raw const (*entry.cast::<raw::xfrm_state_walk>()).state).read_volatile() };
    if u32::from(phase) == raw::XFRM_STATE_DEAD {
        return None;
    }
    // SAFETY: Readers are marked as dead, so it is an SA's.
    Some(unsafe { State::from_raw(kernel::container_of!(entry, raw::xfrm_state, km.all)) })
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        // SAFETY: `lock` has locked it, on this CPU.
        unsafe { raw::xfrm_next_states_unlock(self.net.as_ptr()) }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Finding an SA among those with one destination, SPI and protocol.

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

/// `xfrm_state_lock` of a namespace, held.
struct Table<'a> {
    net: &'a Namespace,
    _not_send: NotThreadSafe,
}

impl<'a> Table<'a> {
    fn lock(net: &'a Namespace) -> Self {
        // SAFETY: The namespace is valid; `drop` unlocks.
        unsafe { raw::xfrm_next_states_lock(net.as_ptr()) };
        Self {
            net,
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        // SAFETY: `lock` has locked it, on this CPU.
        unsafe { raw::xfrm_next_states_unlock(self.net.as_ptr()) }
    }
}

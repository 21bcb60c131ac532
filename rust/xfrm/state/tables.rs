// SPDX-License-Identifier: GPL-2.0

//! The tables in which the kernel finds SAs: their lock, what is in them, and
//! putting one SA in another's place.
//!
//! Lookups walk the chains of the tables under RCU alone. If an SA were added
//! at the head of a chain and its predecessor taken out further down, a lookup
//! between the two would find neither. So where both have the same key, the
//! node of one replaces that of the other.
//!
//! C source: `net/xfrm/xfrm_state.c`

use super::{id, State};
use crate::{net::Namespace, raw, xfrm::uapi::Id};
use core::{
    mem,
    ptr::{self, NonNull},
};
use kernel::types::NotThreadSafe;

/// `xfrm_state_lock` of a namespace, held: no SA comes into its tables or
/// leaves them, so who finds one here needs no reference.
///
/// # Invariants
///
/// The lock is held by this CPU.
///
/// # Examples
///
/// ```ignore
/// /// How many SAs there are with this id, whatever their marks.
/// fn count(net: &Namespace, id: &Id) -> usize {
///     Table::lock(net).with_id(id).count()
/// }
/// ```
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

    /// Returns the namespace whose tables they are.
    pub fn net(&self) -> &'a Namespace {
        self.net
    }

    /// Returns how many SAs there are, without those that have been retired.
    pub fn len(&self) -> u32 {
        // SAFETY: The namespace is valid, and we hold the lock of the field.
        unsafe { (*self.net.as_ptr()).xfrm.state_num }
    }

    /// Returns the SAs with this id, whatever their marks; only those that have
    /// an SPI are found.
    pub fn with_id<'t>(&'t self, id: &'t Id) -> impl Iterator<Item = &'t State> {
        // SAFETY: We hold the lock, under which what is in a chain stays there, and
        // in its place.
        let first = unsafe { by_spi((*self.chain(id)).first) };
        let chain = core::iter::successors(NonNull::new(first), |state| {
            // SAFETY: As above.
            NonNull::new(unsafe { by_spi((*state.as_ptr()).byspi.next) })
        });
        chain
            // SAFETY: As above, and the table has a reference.
            .map(|state| unsafe { State::from_raw(state.as_ptr()) })
            .filter(|state| has_id(state, id))
    }

    /// Returns all SAs, the newest first, but for dead ones.
    pub fn iter(&self) -> impl Iterator<Item = &State> {
        let head = self.all();
        let next = move |entry: &*mut raw::list_head| {
            // SAFETY: What is in the list stays there under the lock, and it is
            // linked in a circle.
            let next = unsafe { (**entry).next };
            (next != head).then_some(next)
        };
        // SAFETY: As above.
        core::iter::successors(next(&head), next).filter_map(|entry| unsafe { listed(entry) })
    }

    /// Returns the head of the list of all SAs.
    pub(in crate::xfrm) fn all(&self) -> *mut raw::list_head {
        // SAFETY: Only the address of the field is taken.
        unsafe { &raw mut (*self.net.as_ptr()).xfrm.state_all }
    }

    /// Puts an SA into the table by SPI, behind those that a device handles by
    /// itself.
    ///
    /// Mirrors `XFRM_STATE_INSERT()`.
    ///
    /// # Safety
    ///
    /// The SA is locked, of this namespace, and not in the table yet.
    pub(in crate::xfrm) unsafe fn insert_by_spi(&self, x: *mut raw::xfrm_state) {
        // SAFETY: The caller promises it; what is in the chain stays there.
        unsafe {
            let chain = self.chain(&id(x));
            let mut other = by_spi((*chain).first);
            while !other.is_null() && in_hardware(other) {
                other = by_spi((*other).byspi.next);
            }
            if in_hardware(x) || other.is_null() {
                raw::xfrm_next_hlist_add_head_rcu(&raw mut (*x).byspi, chain);
            } else {
                raw::xfrm_next_hlist_add_before_rcu(&raw mut (*x).byspi, &raw mut (*other).byspi);
            }
        }
    }

    /// Takes an SA out of all tables, lists and caches where it still is. If it
    /// counts no more, and is deleted the usual way in spite of that, it is
    /// subtracted twice.
    ///
    /// Mirrors the part of `__xfrm_state_delete()` that does it. That one and the
    /// kernel's own lookups don't mind to meet such an SA.
    ///
    /// # Safety
    ///
    /// The SA is locked, and of this namespace.
    unsafe fn remove(&self, x: *mut raw::xfrm_state, counts: Counts) {
        // SAFETY: The caller promises it.
        unsafe {
            if counts == Counts::NoMore {
                (*self.net.as_ptr()).xfrm.state_num = self.len().wrapping_sub(1);
            }
            raw::xfrm_next_list_del_init(&raw mut (*x).km.all);
            for node in by_key(x) {
                unhash(node);
            }
            uncache_locked(x);
        }
    }

    /// Returns the chain of the table by SPI that an SA with this id is in.
    pub(in crate::xfrm) fn chain(&self, id: &Id) -> *mut raw::hlist_head {
        // SAFETY: The namespace is valid; the address is read only, and has the
        // layout of `xfrm_address_t`. We hold the lock.
        unsafe {
            raw::xfrm_next_states_byspi(
                self.net.as_ptr(),
                (&raw const id.daddr).cast(),
                u32::from_ne_bytes(id.spi),
                id.proto,
                id.family,
            )
        }
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        // SAFETY: `lock` has locked it, on this CPU.
        unsafe { raw::xfrm_next_states_unlock(self.net.as_ptr()) }
    }
}

fn has_id(state: &State, id: &Id) -> bool {
    // Most others in a chain have another one.
    if state.spi() != id.spi {
        return false;
    }
    let theirs = state.id();

    theirs.proto == id.proto
        && theirs.family == id.family
        && theirs.daddr.equals(&id.daddr, id.family)
}

/// Returns the SA whose node in a chain of the table by SPI this is; null if it is null.
///
/// # Safety
///
/// The node must be null or an SA's.
unsafe fn by_spi(node: *mut raw::hlist_node) -> *mut raw::xfrm_state {
    if node.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: The caller promises that it is the field of an SA.
    unsafe { kernel::container_of!(node, raw::xfrm_state, byspi) }
}

/// Returns the SA that an entry of the list of all belongs to; `None` if that
/// is being deleted, or the place of one who is reading the list.
///
/// # Safety
///
/// The entry must be in the list of all SAs of a namespace, and the lock of its
/// tables held during `'a`.
pub(in crate::xfrm) unsafe fn listed<'a>(entry: *mut raw::list_head) -> Option<&'a State> {
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

/// Whether an SA that has left the tables still is one of the namespace's SAs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::xfrm) enum Counts {
    /// Until it is deleted, which has to follow.
    Still,
    /// No more.
    NoMore,
}

/// Puts `new` into the tables and takes `old` out of them, such that a lookup
/// which fits both finds one of them at any time. Tells whether an SA without keys
/// is where `new` is now, which may have waited for that.
///
/// # Safety
///
/// Both are locked. `old` is valid and in the tables, `new` is a clone of it
/// that nobody else knows.
pub(in crate::xfrm) unsafe fn take_place(
    new: *mut raw::xfrm_state,
    old: *mut raw::xfrm_state,
    counts: Counts,
) -> bool {
    // SAFETY: The caller promises it. No request changes a key meanwhile.
    unsafe {
        let (same_spi, same_ends) = same_keys(new, old);
        if same_ends {
            insert_for(new, old, counts)
        } else {
            insert_elsewhere(new, old, counts, same_spi)
        }
    }
}

/// Whether two SAs have the same key in the table by SPI, and in all of them.
///
/// An SA whose packets a device handles is at the head of its chains, before
/// those of others: its place is no other's.
///
/// # Safety
///
/// Both are valid, and no request changes their keys.
unsafe fn same_keys(a: *const raw::xfrm_state, b: *const raw::xfrm_state) -> (bool, bool) {
    // SAFETY: The caller promises it.
    unsafe {
        let family = (*a).props.family;
        let same_spi = family == (*b).props.family
            && (*a).id.spi == (*b).id.spi
            && (*a).id.proto == (*b).id.proto
            && raw::xfrm_next_addr_equal(
                &raw const (*a).id.daddr,
                &raw const (*b).id.daddr,
                family,
            )
            && in_hardware(a) == in_hardware(b);
        let same_ends = same_spi
            && (*a).props.reqid == (*b).props.reqid
            && (*a).km.seq == (*b).km.seq
            && raw::xfrm_next_addr_equal(
                &raw const (*a).props.saddr,
                &raw const (*b).props.saddr,
                family,
            );
        (same_spi, same_ends)
    }
}

/// Whether a device handles the packets of an SA, all by itself.
///
/// # Safety
///
/// The SA is valid, and its device isn't taken away meanwhile.
pub(in crate::xfrm) unsafe fn in_hardware(x: *const raw::xfrm_state) -> bool {
    // SAFETY: The caller promises it.
    unsafe { (&raw const (*x).xso).read() }.is_packet()
}

/// Puts `new` exactly where `old` is.
///
/// Mirrors `__xfrm_state_insert()`; other SAs' routes are looked up anew only if that
/// could make a difference.
///
/// # Safety
///
/// As for [`take_place`]; all keys are the same.
unsafe fn insert_for(new: *mut raw::xfrm_state, old: *mut raw::xfrm_state, counts: Counts) -> bool {
    // SAFETY: The caller promises it; the table's lock is taken.
    unsafe {
        let net = State::from_raw(new).net();
        (*new).mark.v &= (*new).mark.m;

        let table = Table::lock(net);
        raw::xfrm_next_list_add(&raw mut (*new).km.all, table.all());
        for (place, node) in by_key(old).into_iter().zip(by_key(new)) {
            if !(*place).pprev.is_null() {
                replace(place, node);
            }
        }
        (*net.as_ptr()).xfrm.state_num = table.len().wrapping_add(1);
        table.remove(old, counts);
        outdate_choices(new, old);
        let meets_larval = meets_larval(new);
        drop(table);

        raw::xfrm_next_hrtimer_start(&raw mut (*new).mtimer, 1);
        if (*new).replay_maxage != 0 {
            raw::xfrm_next_timer_start(&raw mut (*new).rtimer, (*new).replay_maxage);
        }
        if (*new).nat_keepalive_interval != 0 {
            raw::xfrm_next_nat_keepalive_run(net.as_ptr());
        }
        meets_larval
    }
}

/// Lets the kernel insert `new`, but for the table by SPI if its place there
/// is that of `old`: it seems dead and without SPI until it is there too, so
/// that nobody takes it for an SA.
///
/// # Safety
///
/// As for [`take_place`].
unsafe fn insert_elsewhere(
    new: *mut raw::xfrm_state,
    old: *mut raw::xfrm_state,
    counts: Counts,
    same_spi: bool,
) -> bool {
    // SAFETY: The caller promises it; the table's lock is taken.
    unsafe {
        let mut spi = 0;
        let phase = (*new).km.state;
        if same_spi {
            mem::swap(&mut (*new).id.spi, &mut spi);
            (*new).km.state = raw::XFRM_STATE_DEAD as u8;
        }
        raw::xfrm_state_insert(new);

        let table = Table::lock(State::from_raw(new).net());
        if same_spi {
            mem::swap(&mut (*new).id.spi, &mut spi);
            replace(&raw mut (*old).byspi, &raw mut (*new).byspi);
            (&raw mut (*new).km.state).write_volatile(phase);
        }
        table.remove(old, counts);
        meets_larval(new)
    }
}

/// Returns the SAs that have the ends of this one, itself, and some others that share
/// their chain.
///
/// # Safety
///
/// The SA is valid, and the tables are locked as long as the iterator is used.
unsafe fn between_its_ends(
    x: *const raw::xfrm_state,
) -> impl Iterator<Item = *mut raw::xfrm_state> {
    // SAFETY: The caller promises it; what is in the chain stays there under the lock.
    let first = NonNull::new(unsafe { (*raw::xfrm_next_states_bydst(x)).first });
    // SAFETY: As above.
    core::iter::successors(first, |node| NonNull::new(unsafe { (*node.as_ptr()).next })).map(
        // SAFETY: Nodes of that chain are SAs'.
        |node| unsafe {
            kernel::container_of!(node.as_ptr(), raw::xfrm_state, __bindgen_anon_1.bydst)
        },
    )
}

/// Whether there is an SA without keys among those between the same ends.
///
/// # Safety
///
/// The SA is valid, and the tables are locked.
unsafe fn meets_larval(x: *const raw::xfrm_state) -> bool {
    // SAFETY: The caller promises it.
    unsafe { between_its_ends(x).any(|other| u32::from((*other).km.state) == raw::XFRM_STATE_ACQ) }
}

/// Lets those look for another SA who have a route by one that they might not choose any
/// more, now that `new` is there and not `old`.
///
/// Mirrors `__xfrm_state_bump_genids()`.
///
/// # Safety
///
/// Both are valid and have the same ends; the tables are locked.
unsafe fn outdate_choices(new: *const raw::xfrm_state, old: *const raw::xfrm_state) {
    // SAFETY: The caller promises it.
    unsafe {
        let choice = |x: *const raw::xfrm_state| {
            let state = State::from_raw(x.cast_mut());
            (state.selector(), state.mark())
        };
        if choice(new) != choice(old) {
            between_its_ends(new)
                .filter(|&other| (*other).props.reqid == (*new).props.reqid)
                .for_each(|other| outdate_routes(other));
        }
    }
}

/// Lets those who have a route by the SA look for another one.
///
/// # Safety
///
/// The SA is valid, and locked, or its tables are.
pub(in crate::xfrm) unsafe fn outdate_routes(x: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it. Should both at once make one step of two, that is
    // still another number than before.
    unsafe {
        let genid = &raw mut (*x).genid;
        genid.write_volatile(genid.read_volatile().wrapping_add(1));
    }
}

/// Puts a node into the place of another, which is in no chain afterwards.
///
/// # Safety
///
/// `old` is in a chain of a locked table, `new` is in none.
unsafe fn replace(old: *mut raw::hlist_node, new: *mut raw::hlist_node) {
    // SAFETY: The caller promises it.
    unsafe {
        raw::xfrm_next_hlist_replace_rcu(old, new);
        (&raw mut (*old).pprev).write_volatile(ptr::null_mut());
    }
}

/// # Safety
///
/// The SA is valid, and the tables are locked.
unsafe fn uncache_locked(x: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it.
    unsafe {
        unhash(&raw mut (*x).state_cache);
        unhash(&raw mut (*x).state_cache_input);
    }
}

/// # Safety
///
/// If the node is in a chain, that is of a locked table.
unsafe fn unhash(node: *mut raw::hlist_node) {
    // SAFETY: The caller promises it.
    unsafe {
        if !(*node).pprev.is_null() {
            raw::xfrm_next_hlist_del_init_rcu(node);
        }
    }
}

/// Takes an SA out of the caches of the lookups. Takes `xfrm_state_lock`.
pub(in crate::xfrm) fn uncache(state: &State) {
    let _table = Table::lock(state.net());
    // SAFETY: The SA is valid, and we hold the lock.
    unsafe { uncache_locked(state.as_ptr()) }
}

/// Counts an SA once more that has been subtracted twice. Takes `xfrm_state_lock`.
pub(in crate::xfrm) fn count_again(state: &State) {
    let table = Table::lock(state.net());
    // SAFETY: The namespace is valid, and we hold the lock.
    unsafe { (*table.net().as_ptr()).xfrm.state_num = table.len().wrapping_add(1) }
}

/// The nodes by which an SA is in the tables.
///
/// # Safety
///
/// The SA is valid.
unsafe fn by_key(x: *mut raw::xfrm_state) -> [*mut raw::hlist_node; 4] {
    // SAFETY: The caller promises it.
    unsafe {
        [
            &raw mut (*x).__bindgen_anon_1.bydst,
            &raw mut (*x).__bindgen_anon_2.bysrc,
            &raw mut (*x).byspi,
            &raw mut (*x).byseq,
        ]
    }
}

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

use super::State;
use crate::{net::Namespace, raw, xfrm::uapi::Id};
use core::{
    mem::offset_of,
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

    /// Returns how many SAs there are, without those that have been replaced.
    pub fn len(&self) -> u32 {
        // SAFETY: The namespace is valid, and we hold the lock of the field.
        unsafe { (*self.net.as_ptr()).xfrm.state_num }
    }

    /// Counts so many SAs more.
    fn count(&self, more: i32) {
        // SAFETY: The namespace is valid, and we hold the lock of the field.
        unsafe { (*self.net.as_ptr()).xfrm.state_num = self.len().wrapping_add_signed(more) }
    }

    /// Returns the SAs with this id, whatever their marks; only those that have
    /// an SPI are found.
    pub fn with_id<'t>(&'t self, id: &'t Id) -> impl Iterator<Item = &'t State> {
        self.chain(SpiHash::of(id))
            .filter(|state| has_id(state, id))
    }

    /// Returns all SAs in one chain of the table by SPI: those with this hash, and some
    /// others. Users choose SPIs and addresses, so it may be all that there are.
    pub fn chain(&self, hash: SpiHash) -> impl Iterator<Item = &State> {
        // SAFETY: The namespace is valid. We hold the lock, under which what is in a
        // chain stays there, and in its place; the table has references.
        unsafe {
            let chain = raw::xfrm_next_states_byspi(self.net.as_ptr(), hash.0);
            let states = BY_SPI.states((*chain).first);
            states.map(|state| State::from_raw(state))
        }
    }

    /// Whether two hashes are those of one chain now.
    pub fn is_one_chain(&self, a: SpiHash, b: SpiHash) -> bool {
        (a.0 ^ b.0) & self.chains() == 0
    }

    /// Returns which bits of a [`SpiHash`] tell the chains from each other now.
    pub fn chains(&self) -> u32 {
        // SAFETY: The namespace is valid, and we hold the lock of the field.
        unsafe { (*self.net.as_ptr()).xfrm.state_hmask }
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

    /// Puts an SA into the table by SPI.
    ///
    /// # Safety
    ///
    /// The SA is locked, of this namespace, and not in the table yet.
    pub(in crate::xfrm) unsafe fn insert_by_spi(&self, x: *mut raw::xfrm_state) {
        // SAFETY: The caller promises it.
        unsafe { self.insert(x, BY_SPI) }
    }

    /// Puts an SA into a table, behind those that a device handles by itself.
    ///
    /// Mirrors `XFRM_STATE_INSERT()`.
    ///
    /// # Safety
    ///
    /// The SA is of this namespace, and not in that table yet.
    unsafe fn insert(&self, x: *mut raw::xfrm_state, key: Key) {
        // SAFETY: The caller promises it; what is in the chain stays there.
        unsafe {
            let chain = (key.chain)(x);
            let software = key
                .states((*chain).first)
                .find(|&other| !in_hardware(other));
            match software {
                Some(other) if !in_hardware(x) => {
                    raw::xfrm_next_hlist_add_before_rcu(key.node(x), key.node(other));
                }
                _ => raw::xfrm_next_hlist_add_head_rcu(key.node(x), chain),
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
                self.count(-1);
            }
            raw::xfrm_next_list_del_init(&raw mut (*x).km.all);
            for key in &KEYS {
                unhash(key.node(x));
            }
            uncache_locked(x);
        }
    }

    /// Whether an SA is the first in each chain that it belongs in.
    pub(super) fn is_first(&self, state: &State) -> bool {
        let x = state.as_ptr();
        // SAFETY: The SA is valid, and the lock is held.
        KEYS.into_iter()
            .all(|key| unsafe { (*(key.chain)(x)).first == key.node(x) })
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        // SAFETY: `lock` has locked it, on this CPU.
        unsafe { raw::xfrm_next_states_unlock(self.net.as_ptr()) }
    }
}

/// By what the table by SPI is hashed: of destination, SPI and protocol, however many chains
/// there are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SpiHash(pub u32);

impl SpiHash {
    /// Computes it. Any context. Mirrors `xfrm_spi_hash()`.
    pub fn of(id: &Id) -> Self {
        // SAFETY: The address is read only, and has the layout of `xfrm_address_t`.
        Self(unsafe {
            raw::xfrm_next_spi_hash(
                (&raw const id.daddr).cast(),
                u32::from_ne_bytes(id.spi),
                id.proto,
                id.family,
            )
        })
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

/// One of the tables: where an SA's node in it is, and in which chain an SA belongs.
#[derive(Clone, Copy)]
struct Key {
    node: usize,
    chain: unsafe extern "C" fn(*const raw::xfrm_state) -> *mut raw::hlist_head,
}

const BY_DST: Key = Key {
    node: offset_of!(raw::xfrm_state, __bindgen_anon_1),
    chain: raw::xfrm_next_bydst,
};
const BY_SRC: Key = Key {
    node: offset_of!(raw::xfrm_state, __bindgen_anon_2),
    chain: raw::xfrm_next_bysrc,
};
const BY_SPI: Key = Key {
    node: offset_of!(raw::xfrm_state, byspi),
    chain: raw::xfrm_next_byspi,
};
const BY_SEQ: Key = Key {
    node: offset_of!(raw::xfrm_state, byseq),
    chain: raw::xfrm_next_byseq,
};
const KEYS: [Key; 4] = [BY_DST, BY_SRC, BY_SPI, BY_SEQ];

impl Key {
    /// Returns the node of an SA.
    ///
    /// # Safety
    ///
    /// The SA is valid.
    unsafe fn node(self, x: *mut raw::xfrm_state) -> *mut raw::hlist_node {
        // SAFETY: The caller promises it; the node is a field.
        unsafe { x.byte_add(self.node).cast() }
    }

    /// Returns the SA of a node.
    ///
    /// # Safety
    ///
    /// It is that of an SA in this table.
    unsafe fn state(self, node: *mut raw::hlist_node) -> *mut raw::xfrm_state {
        // SAFETY: The caller promises it.
        unsafe { node.byte_sub(self.node).cast() }
    }

    /// Returns the SAs from this node on, if it isn't null.
    ///
    /// # Safety
    ///
    /// It is null, or that of an SA in this table, whose lock is held as long as the
    /// iterator is used: what is in a chain stays there.
    unsafe fn states(
        self,
        first: *mut raw::hlist_node,
    ) -> impl Iterator<Item = *mut raw::xfrm_state> {
        core::iter::successors(NonNull::new(first), |node| {
            // SAFETY: The caller promises it.
            NonNull::new(unsafe { (*node.as_ptr()).next })
        })
        // SAFETY: As above.
        .map(move |node| unsafe { self.state(node.as_ptr()) })
    }
}

/// Puts `new` into the tables and takes `old` out of them, such that a lookup
/// which fits both finds one of them at any time. Tells whether an SA without keys
/// is where `new` is now, which may have waited for that.
///
/// Mirrors `__xfrm_state_insert()` and `__xfrm_state_bump_genids()`, but for the timers;
/// other SAs' routes are looked up anew only if that could make a difference.
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
        let same = same_keys(new, old);
        let outdates = same != [true; KEYS.len()] || differ_in_choice(new, old);
        let table = Table::lock(State::from_raw(new).net());

        raw::xfrm_next_list_add(&raw mut (*new).km.all, table.all());
        for (key, &same) in KEYS.iter().zip(&same) {
            let place = key.node(old);
            if (*place).pprev.is_null() {
                // It has no such key, nor has its clone.
            } else if same {
                replace(place, key.node(new));
            } else {
                table.insert(new, *key);
            }
        }
        table.count(1);
        table.remove(old, counts);

        let mut meets_larval = false;
        // Those that have its ends, and some others.
        for other in BY_DST.states((*(BY_DST.chain)(new)).first) {
            meets_larval |= u32::from((*other).km.state) == raw::XFRM_STATE_ACQ;
            if outdates && (*other).props.reqid == (*new).props.reqid {
                outdate_routes(other);
            }
        }
        meets_larval
    }
}

/// Whether two SAs of one SPI, protocol and number have the same key, for each of the tables.
///
/// An SA whose packets a device handles is at the head of its chains, before
/// those of others: its place is no other's.
///
/// # Safety
///
/// Both are valid, and no request changes their keys.
unsafe fn same_keys(a: *const raw::xfrm_state, b: *const raw::xfrm_state) -> [bool; KEYS.len()] {
    // SAFETY: The caller promises it.
    unsafe {
        let family = (*a).props.family;
        let same = |a: *const _, b: *const _| raw::xfrm_next_addr_equal(a, b, family);
        let place = in_hardware(a) == in_hardware(b);
        let daddr = place
            && family == (*b).props.family
            && same(&raw const (*a).id.daddr, &raw const (*b).id.daddr);
        let ends = daddr && same(&raw const (*a).props.saddr, &raw const (*b).props.saddr);
        [
            ends && (*a).props.reqid == (*b).props.reqid,
            ends,
            daddr,
            place,
        ]
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

/// Whether routes by one of two SAs would not choose the other.
///
/// # Safety
///
/// Both are valid, and no request changes them.
unsafe fn differ_in_choice(a: *mut raw::xfrm_state, b: *mut raw::xfrm_state) -> bool {
    // SAFETY: The caller promises it.
    let choice = |x: *mut raw::xfrm_state| unsafe {
        let state = State::from_raw(x);
        (state.selector(), state.mark())
    };
    choice(a) != choice(b)
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
///
/// # Safety
///
/// As for [`State::net`].
pub(in crate::xfrm) unsafe fn uncache(state: &State) {
    // SAFETY: The caller promises it. The SA is valid, and we hold the lock.
    unsafe {
        let _table = Table::lock(state.net());
        uncache_locked(state.as_ptr());
    }
}

/// Counts an SA of `net` once more that has been subtracted twice. Takes `xfrm_state_lock`.
pub(in crate::xfrm) fn count_again(net: &Namespace) {
    Table::lock(net).count(1);
}

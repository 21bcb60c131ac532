// SPDX-License-Identifier: GPL-2.0

//! The tables in which the kernel finds SAs: putting one in another's place.
//!
//! Lookups walk the chains of the tables under RCU alone. If an SA were added
//! at the head of a chain and its predecessor taken out further down, a lookup
//! between the two would find neither. So where both have the same key, the
//! node of one replaces that of the other.

use crate::raw;
use core::{mem, ptr};

/// Puts `new` into the tables and takes `old` out of them, such that a lookup
/// which fits both finds one of them at any time. Both count as SAs afterwards;
/// [`uncount`] mends that, or the deletion of `old`.
///
/// # Safety
///
/// Both are locked. `old` is valid and in the tables, `new` is a clone of it
/// that nobody else knows.
pub(super) unsafe fn take_place(new: *mut raw::xfrm_state, old: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it. No request changes a key meanwhile.
    unsafe {
        let (same_spi, same_ends) = same_keys(new, old);
        if same_ends {
            insert_for(new, old);
        } else {
            insert_elsewhere(new, old, same_spi);
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
pub(super) unsafe fn in_hardware(x: *const raw::xfrm_state) -> bool {
    // SAFETY: The caller promises it.
    let xso = unsafe { (&raw const (*x).xso).read() };
    u32::from(xso.type_()) == raw::XFRM_DEV_OFFLOAD_PACKET
}

/// Puts `new` exactly where `old` is.
///
/// Mirrors `__xfrm_state_insert()`, but for the genids: no other SA's route
/// would be found differently now.
///
/// # Safety
///
/// As for [`take_place`]; all keys are the same.
unsafe fn insert_for(new: *mut raw::xfrm_state, old: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it; the table's lock is taken.
    unsafe {
        let net = raw::xfrm_next_state_net(new);
        (*new).mark.v &= (*new).mark.m;

        raw::xfrm_next_states_lock(net);
        raw::xfrm_next_list_add(&raw mut (*new).km.all, &raw mut (*net).xfrm.state_all);
        for (place, node) in by_key(old).into_iter().zip(by_key(new)) {
            if !(*place).pprev.is_null() {
                replace(place, node);
            }
        }
        remove(old);
        (*net).xfrm.state_num = (*net).xfrm.state_num.wrapping_add(1);
        raw::xfrm_next_states_unlock(net);

        raw::xfrm_next_hrtimer_start(&raw mut (*new).mtimer, 1);
        if (*new).replay_maxage != 0 {
            raw::xfrm_next_timer_start(&raw mut (*new).rtimer, (*new).replay_maxage);
        }
        if (*new).nat_keepalive_interval != 0 {
            raw::xfrm_next_nat_keepalive_run(net);
        }
    }
}

/// Lets the kernel insert `new`, but for the table by SPI if its place there
/// is that of `old`: it seems dead and without SPI until it is there too, so
/// that nobody takes it for an SA.
///
/// # Safety
///
/// As for [`take_place`].
unsafe fn insert_elsewhere(new: *mut raw::xfrm_state, old: *mut raw::xfrm_state, same_spi: bool) {
    // SAFETY: The caller promises it; the table's lock is taken.
    unsafe {
        let net = raw::xfrm_next_state_net(new);
        let mut spi = 0;
        let phase = (*new).km.state;
        if same_spi {
            mem::swap(&mut (*new).id.spi, &mut spi);
            (*new).km.state = raw::XFRM_STATE_DEAD as u8;
        }
        raw::xfrm_state_insert(new);

        raw::xfrm_next_states_lock(net);
        if same_spi {
            mem::swap(&mut (*new).id.spi, &mut spi);
            replace(&raw mut (*old).byspi, &raw mut (*new).byspi);
            (&raw mut (*new).km.state).write_volatile(phase);
        }
        remove(old);
        raw::xfrm_next_states_unlock(net);
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

/// Takes an SA out of all tables, lists and caches where it still is.
///
/// Mirrors the part of `__xfrm_state_delete()` that does it. That one and the
/// kernel's own lookups don't mind to meet such an SA.
///
/// # Safety
///
/// The SA and the tables are locked.
unsafe fn remove(x: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it.
    unsafe {
        raw::xfrm_next_list_del_init(&raw mut (*x).km.all);
        for node in by_key(x).into_iter().chain(cached(x)) {
            raw::xfrm_next_hlist_del_init_rcu(node);
        }
    }
}

/// No longer counts an SA that is in no table.
///
/// # Safety
///
/// The SA is valid, and is never deleted the usual way.
pub(super) unsafe fn uncount(x: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it; the table's lock is taken.
    unsafe {
        let net = raw::xfrm_next_state_net(x);
        raw::xfrm_next_states_lock(net);
        (*net).xfrm.state_num = (*net).xfrm.state_num.wrapping_sub(1);
        raw::xfrm_next_states_unlock(net);
    }
}

/// Takes an SA out of the caches of the lookups.
///
/// # Safety
///
/// The SA is valid.
pub(super) unsafe fn uncache(x: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it; the table's lock is taken.
    unsafe {
        let net = raw::xfrm_next_state_net(x);
        raw::xfrm_next_states_lock(net);
        for node in cached(x) {
            raw::xfrm_next_hlist_del_init_rcu(node);
        }
        raw::xfrm_next_states_unlock(net);
    }
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

/// The nodes by which an SA is in the caches of the lookups.
///
/// # Safety
///
/// The SA is valid.
unsafe fn cached(x: *mut raw::xfrm_state) -> [*mut raw::hlist_node; 2] {
    // SAFETY: The caller promises it.
    unsafe { [&raw mut (*x).state_cache, &raw mut (*x).state_cache_input] }
}

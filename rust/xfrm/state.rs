// SPDX-License-Identifier: GPL-2.0

//! A security association, `struct xfrm_state`.
//!
//! C header: `include/net/xfrm.h`

use super::{
    snapshot::Snapshot,
    uapi::{self, Address, Encap, Id, Mark, Offload},
};
use crate::{net::Namespace, raw};
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    prelude::*,
    sync::aref::AlwaysRefCounted,
    types::{NotThreadSafe, Opaque},
};

/// A reference-counted SA.
#[repr(transparent)]
pub struct State(Opaque<raw::xfrm_state>);

// SAFETY: The reference count is atomic, and the last reference hands the SA
// to a worker that frees it.
unsafe impl Send for State {}
// SAFETY: What changes while it is shared is read in one access, or under its
// lock.
unsafe impl Sync for State {}

// SAFETY: The SA has a reference count, and lives while that isn't 0.
unsafe impl AlwaysRefCounted for State {
    fn inc_ref(&self) {
        // SAFETY: A shared reference means that the count isn't 0.
        unsafe { raw::xfrm_next_state_hold(self.as_ptr()) }
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up a count of its own.
        unsafe { raw::xfrm_next_state_put(obj.as_ptr().cast()) }
    }
}

/// Copies a value out of a field that isn't written meanwhile.
macro_rules! get {
    ($state:expr, $($field:tt)+) => {
        // SAFETY: The SA is valid, and the caller of the macro sees to it that
        // nobody writes the field.
        unsafe { (&raw const (*$state.as_ptr()).$($field)+).read() }
    };
}

impl State {
    /// Borrows an SA.
    ///
    /// # Safety
    ///
    /// `ptr` must be valid, with a reference count that isn't 0 during `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut raw::xfrm_state) -> &'a Self {
        // SAFETY: The caller promises that it is valid; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    pub(super) fn as_ptr(&self) -> *mut raw::xfrm_state {
        self.0.get()
    }

    /// Returns the namespace that the SA is in.
    pub fn net(&self) -> &Namespace {
        // SAFETY: An SA is freed before its namespace.
        unsafe { Namespace::from_raw(raw::xfrm_next_state_net(self.as_ptr())) }
    }

    /// Returns what the SA is found by, besides its mark.
    pub fn id(&self) -> Id {
        Id {
            daddr: address(&get!(self, id.daddr)),
            spi: get!(self, id.spi).to_ne_bytes(),
            family: get!(self, props.family),
            proto: get!(self, id.proto),
            pad: 0,
        }
    }

    /// Returns the mark by which the SA is found.
    pub fn mark(&self) -> Mark {
        let mark = get!(self, mark);
        Mark {
            v: mark.v,
            m: mark.m,
        }
    }

    /// Copies what requests to the SAD set. The caller holds `xfrm_cfg_mutex`.
    pub fn snapshot(&self) -> Snapshot {
        let output_mark = get!(self, props.smark);

        Snapshot {
            daddr: address(&get!(self, id.daddr)),
            saddr: address(&get!(self, props.saddr)),
            family: get!(self, props.family),
            proto: get!(self, id.proto),
            flags: get!(self, props.flags),
            dir: get!(self, dir),
            selector: self.selector(),
            mark: self.mark(),
            output_mark: Mark {
                v: output_mark.v,
                m: output_mark.m,
            },
            encap: self.encap(),
            mapping_maxage: get!(self, mapping_maxage),
            nat_keepalive: get!(self, nat_keepalive_interval),
            offload: self.offload(),
            larval: self.phase() == raw::XFRM_STATE_ACQ,
            // SAFETY: The SA is valid.
            kernel_owned: unsafe { raw::xfrm_next_state_kern(self.as_ptr()) } != 0,
        }
    }

    fn selector(&self) -> uapi::Selector {
        // SAFETY: The layouts are the same (`layout.rs`), and any bytes are a
        // selector.
        unsafe {
            (&raw const (*self.as_ptr()).sel)
                .cast::<uapi::Selector>()
                .read()
        }
    }

    fn encap(&self) -> Option<Encap> {
        let encap = get!(self, encap).cast::<Encap>();
        // SAFETY: The template is freed with the SA; the layouts are the same.
        (!encap.is_null()).then(|| unsafe { encap.read() })
    }

    /// The offload as it is now; the device may go away at any time.
    fn offload(&self) -> Option<Offload> {
        // SAFETY: The SA is valid; each field is read in one access.
        let (dev, ifindex, xso) = unsafe {
            let xso = &raw const (*self.as_ptr()).xso;
            (
                (&raw const (*xso).dev).read_volatile(),
                (&raw const (*xso).ifindex).read_volatile(),
                &*xso,
            )
        };
        if dev.is_null() {
            return None;
        }
        let mut flags = 0;
        if u32::from(xso.dir()) == raw::XFRM_DEV_OFFLOAD_IN {
            flags |= uapi::OFFLOAD_INBOUND;
        }
        if u32::from(xso.type_()) == raw::XFRM_DEV_OFFLOAD_PACKET {
            flags |= uapi::OFFLOAD_PACKET;
        }
        Some(Offload {
            ifindex,
            flags,
            pad: [0; 3],
        })
    }

    /// Whether it serves packets: it has keys, and isn't deleted or expired.
    pub(super) fn is_valid(&self) -> bool {
        self.phase() == raw::XFRM_STATE_VALID
    }

    /// `XFRM_STATE_*`: where the SA is in its life.
    fn phase(&self) -> u32 {
        // SAFETY: The SA is valid; one access.
        unsafe { (&raw const (*self.as_ptr()).km.state).read_volatile() }.into()
    }

    /// Asks the security module whether the SA may be deleted. May sleep.
    pub fn may_delete(&self) -> Result {
        // SAFETY: The SA is valid.
        to_result(unsafe { raw::xfrm_next_security_state_delete(self.as_ptr()) })
    }

    /// Writes an audit record of the SA having been added.
    pub fn audit_added(&self) {
        // SAFETY: The SA is valid.
        unsafe { raw::xfrm_next_audit_state_add(self.as_ptr(), 1) }
    }

    /// Writes an audit record of an attempt to delete the SA.
    pub fn audit_deleted(&self, done: bool) {
        // SAFETY: The SA is valid.
        unsafe { raw::xfrm_next_audit_state_delete(self.as_ptr(), done.into()) }
    }

    /// Locks the SA under the lock of the one which it succeeds.
    pub(super) fn lock_nested(&self) -> Nested<'_> {
        // SAFETY: The SA is valid; the guard unlocks it. Bottom halves are off.
        unsafe { raw::xfrm_next_state_lock_nested(self.as_ptr()) };
        Nested(self)
    }

    /// Locks the SA, and keeps bottom halves off this CPU. Doesn't sleep, and
    /// nobody may sleep before it is unlocked.
    pub fn lock(&self) -> Locked<'_> {
        // SAFETY: The SA is valid; the guard unlocks it.
        unsafe { raw::xfrm_next_state_lock(self.as_ptr()) };
        Locked {
            state: self,
            _not_send: NotThreadSafe,
        }
    }
}

/// The lock of an SA, held inside that of the one which it succeeds.
///
/// # Invariants
///
/// The lock is held by this CPU.
pub(super) struct Nested<'a>(&'a State);

impl Drop for Nested<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we hold it.
        unsafe { raw::xfrm_next_state_unlock_nested(self.0.as_ptr()) }
    }
}

fn address(from: &raw::xfrm_address_t) -> Address {
    // SAFETY: An address is sixteen bytes, which any member reads.
    Address(unsafe { core::mem::transmute_copy(from) })
}

/// A locked SA: its counters and its life stand still.
///
/// # Invariants
///
/// The lock is held by this CPU.
pub struct Locked<'a> {
    state: &'a State,
    _not_send: NotThreadSafe,
}

impl Locked<'_> {
    /// Whether the SA serves packets: it has keys, and isn't deleted or
    /// expired.
    pub fn is_valid(&self) -> bool {
        self.state.is_valid()
    }

    pub(super) fn as_ptr(&self) -> *mut raw::xfrm_state {
        self.state.as_ptr()
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we hold it.
        unsafe { raw::xfrm_next_state_unlock(self.as_ptr()) }
    }
}

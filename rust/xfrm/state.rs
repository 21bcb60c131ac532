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

// SAFETY: The reference count is atomic, and the last reference may be given
// up anywhere: it hands the SA to a worker that frees it.
unsafe impl Send for State {}
// SAFETY: What others may write meanwhile is read by volatile accesses, under
// the lock, or by functions of the kernel that are made for it.
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

/// Copies a value out of a field. Who doesn't keep out those that write it may
/// get some bytes from before and some from after.
macro_rules! get {
    ($state:expr, $($field:tt)+) => {
        // SAFETY: The SA is valid, and the field initialized. It holds numbers,
        // bytes or a pointer, which any bytes are.
        unsafe { (&raw const (*$state.as_ptr()).$($field)+).read_volatile() }
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
        // SAFETY: References are held by requests, whose sender keeps the
        // namespace; by burials, which the end of the namespace awaits; and by
        // packets of an SA to be buried, no longer than that.
        unsafe { Namespace::from_raw(raw::xfrm_next_state_net(self.as_ptr())) }
    }

    /// Returns what the SA is found by, besides its mark; it never changes once
    /// there is an SPI.
    pub fn id(&self) -> Id {
        Id {
            daddr: address(&get!(self, id.daddr)),
            spi: get!(self, id.spi).to_ne_bytes(),
            family: get!(self, props.family),
            proto: get!(self, id.proto),
            pad: 0,
        }
    }

    /// Returns the mark by which the SA is found; it never changes.
    pub fn mark(&self) -> Mark {
        let mark = get!(self, mark);
        Mark {
            v: mark.v,
            m: mark.m,
        }
    }

    /// Copies what requests to the SAD set. The caller holds `xfrm_cfg_mutex`,
    /// without which values of two requests could get mixed.
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

    /// Returns the direction that the SA is marked with, `XFRM_SA_DIR_*`, or 0.
    pub fn dir(&self) -> u8 {
        get!(self, dir)
    }

    pub(super) fn selector(&self) -> uapi::Selector {
        let selector = get!(self, sel);
        // SAFETY: The layouts are the same (`layout.rs`), and any bytes are a
        // selector.
        unsafe { core::mem::transmute::<raw::xfrm_selector, uapi::Selector>(selector) }
    }

    fn encap(&self) -> Option<Encap> {
        let encap = get!(self, encap).cast::<Encap>();
        // SAFETY: An SA has a template from its beginning to its end, or never
        // (what is in it may change). The layouts are the same (`layout.rs`),
        // and any bytes are a template.
        (!encap.is_null()).then(|| unsafe { encap.read_volatile() })
    }

    /// The offload as it is now. The device may go away at any time, and if it
    /// does right now, a part of this may be missing; then the SA is dead.
    pub(super) fn offload(&self) -> Option<Offload> {
        let xso = get!(self, xso);
        if xso.dev.is_null() {
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
            ifindex: xso.ifindex,
            flags,
            pad: [0; 3],
        })
    }

    /// Whether it serves packets: it has keys, and isn't deleted or expired.
    pub(super) fn is_valid(&self) -> bool {
        self.phase() == raw::XFRM_STATE_VALID
    }

    /// Whether there is no reference to it but that of the caller.
    pub(super) fn is_unshared(&self) -> bool {
        // SAFETY: The SA is valid.
        unsafe { raw::xfrm_next_state_refcount(self.as_ptr()) == 1 }
    }

    /// `XFRM_STATE_*`: where the SA is in its life.
    pub(super) fn phase(&self) -> u32 {
        get!(self, km.state).into()
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

    /// Locks the SA under the lock of the one which it succeeds, which the
    /// caller holds with bottom halves off.
    pub(super) fn lock_nested(&self) -> Nested<'_> {
        // SAFETY: The SA is valid; the guard unlocks it.
        unsafe { raw::xfrm_next_state_lock_nested(self.as_ptr()) };
        Nested {
            state: self,
            _not_send: NotThreadSafe,
        }
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
pub(super) struct Nested<'a> {
    state: &'a State,
    _not_send: NotThreadSafe,
}

impl Drop for Nested<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we hold it.
        unsafe { raw::xfrm_next_state_unlock_nested(self.state.as_ptr()) }
    }
}

pub(super) fn address(from: &raw::xfrm_address_t) -> Address {
    // SAFETY: An address is sixteen bytes, whichever member they are.
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

    pub(super) fn state(&self) -> &State {
        self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we hold it.
        unsafe { raw::xfrm_next_state_unlock(self.as_ptr()) }
    }
}

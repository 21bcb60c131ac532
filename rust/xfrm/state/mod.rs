// SPDX-License-Identifier: GPL-2.0

//! A security association, `struct xfrm_state`.
//!
//! Those of its methods that are about SPIs are in [`larval`](super::spi::larval).
//!
//! C header: `include/net/xfrm.h`

pub mod config;
pub mod hashes;
mod layout;
pub mod lookup;
pub(in crate::xfrm) mod tables;

pub use tables::{SpiHash, Table};

use crate::{
    net::Namespace,
    raw,
    xfrm::uapi::{self, Encap, Id, Mark, Offload},
};
use core::{ptr::NonNull, slice};
use kernel::{
    error::to_result,
    prelude::*,
    sync::aref::{ARef, AlwaysRefCounted},
    types::{NotThreadSafe, Opaque},
};

/// A reference-counted SA. It may be dead: a reference keeps it in memory, not in the
/// tables.
///
/// # Invariants
///
/// Its reference count isn't 0 while it is borrowed.
///
/// # Examples
///
/// ```ignore
/// /// Whether the SA serves packets now, with ciphers in software.
/// fn is_software(state: &State) -> bool {
///     state.lock().is_valid() && state.offload().is_none()
/// }
/// ```
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
    pub(in crate::xfrm) unsafe fn from_raw<'a>(ptr: *mut raw::xfrm_state) -> &'a Self {
        // SAFETY: The caller promises that it is valid; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    /// Takes over a reference.
    ///
    /// # Safety
    ///
    /// `ptr` must be null, or come with a reference that the caller gives up.
    pub(in crate::xfrm) unsafe fn owned(ptr: *mut raw::xfrm_state) -> Option<ARef<Self>> {
        // SAFETY: The caller promises it; the type is transparent.
        NonNull::new(ptr).map(|state| unsafe { ARef::from_raw(state.cast()) })
    }

    /// For functions of the kernel.
    pub(in crate::xfrm) fn as_ptr(&self) -> *mut raw::xfrm_state {
        self.0.get()
    }

    /// Returns the namespace that the SA is in. Any context.
    ///
    /// # Safety
    ///
    /// A reference doesn't keep that: it must be there during `'a`, with what modules keep
    /// for it.
    pub(in crate::xfrm) unsafe fn net<'a>(&self) -> &'a Namespace {
        // SAFETY: The caller promises it.
        unsafe { Namespace::from_raw(raw::xfrm_next_state_net(self.as_ptr())) }
    }

    /// Returns what the SA is found by, besides its mark; it never changes once
    /// there is an SPI. Any context.
    pub fn id(&self) -> Id {
        // SAFETY: The SA is valid.
        unsafe { id(self.as_ptr()) }
    }

    /// Returns the SPI, in network byte order, which is 0 as long as there is none.
    pub fn spi(&self) -> [u8; 4] {
        get!(self, id.spi).to_ne_bytes()
    }

    /// Returns the mark by which the SA is found; it never changes. Any context.
    pub fn mark(&self) -> Mark {
        get!(self, mark).into()
    }

    /// Whether the SA is for packets with `mark`, of those that have its id. Any context.
    pub(in crate::xfrm) fn takes(&self, mark: u32) -> bool {
        mark & self.mark().m == self.mark().v
    }

    /// Whether the SA was added at most so many seconds ago, or the clock has been set. Any
    /// context.
    pub(in crate::xfrm) fn is_younger(&self, secs: u32) -> bool {
        let added = get!(self, curlft.add_time) as i64;
        // SAFETY: It may be called anywhere.
        let age = unsafe { raw::ktime_get_real_seconds() }.wrapping_sub(added);
        age.unsigned_abs() <= secs.into()
    }

    /// Returns the source, which never changes. Any context.
    pub(in crate::xfrm) fn saddr(&self) -> uapi::Address {
        get!(self, props.saddr).into()
    }

    /// Returns the mode, `XFRM_MODE_*`, which never changes. Any context.
    pub(in crate::xfrm) fn mode(&self) -> u8 {
        get!(self, props.mode)
    }

    /// Returns the SA that IPComp has for packets which it doesn't compress, if this is one of
    /// IPComp in tunnel mode. Takes the lock of the SA.
    pub(in crate::xfrm) fn tunnel(&self) -> Option<ARef<Self>> {
        let _locked = self.lock();
        let tunnel = get!(self, tunnel);
        if tunnel.is_null() {
            return None;
        }
        // SAFETY: The SA has a reference to it, which it gives up when it is locked, or freed.
        Some(unsafe { Self::from_raw(tunnel) }.into())
    }

    /// Returns the direction that the SA is marked with, `XFRM_SA_DIR_*`, or 0. Any
    /// context.
    pub fn dir(&self) -> u8 {
        get!(self, dir)
    }

    /// Returns the selector, which requests set. The caller keeps those out.
    pub(in crate::xfrm) fn selector(&self) -> uapi::Selector {
        // SAFETY: The SA is valid, and the layouts are the same (`layout.rs`). All
        // bytes of an SA are initialized, also those between the fields of the
        // kernel's structure, which a value of that wouldn't keep.
        unsafe {
            (&raw const (*self.as_ptr()).sel)
                .cast::<uapi::Selector>()
                .read()
        }
    }

    /// Whether the other one has the very same selector. The caller keeps requests out.
    pub(in crate::xfrm) fn has_selector_of(&self, other: &Self) -> bool {
        type Words = [[u8; 8]; size_of::<raw::xfrm_selector>() / 8];
        // SAFETY: As above.
        let words = |state: &Self| unsafe { &*(&raw const (*state.as_ptr()).sel).cast::<Words>() };
        // Not by memcmp(), which takes longer.
        let mut pairs = words(self).iter().zip(words(other));
        pairs.all(|(one, two)| u64::from_ne_bytes(*one) == u64::from_ne_bytes(*two))
    }

    pub(in crate::xfrm) fn encap(&self) -> Option<Encap> {
        let encap = get!(self, encap).cast::<Encap>();
        // SAFETY: An SA has a template from its beginning to its end, or never
        // (what is in it may change). The layouts are the same (`layout.rs`),
        // and any bytes are a template.
        (!encap.is_null()).then(|| unsafe { encap.read_volatile() })
    }

    /// Returns the offload as it is now, as a request for it would say. The device may
    /// go away at any time, and if it does right now, a part of this may be missing;
    /// then the SA is dead.
    pub fn offload(&self) -> Option<Offload> {
        if get!(self, xso.dev).is_null() {
            return None;
        }
        let xso = get!(self, xso);
        let mut flags = 0;
        if xso.is_inbound() {
            flags |= uapi::OFFLOAD_INBOUND;
        }
        if xso.is_packet() {
            flags |= uapi::OFFLOAD_PACKET;
        }
        Some(Offload {
            ifindex: xso.ifindex,
            flags,
            pad: [0; 3],
        })
    }

    /// Whether it serves packets: it has keys, and isn't deleted or expired.
    pub(in crate::xfrm) fn is_valid(&self) -> bool {
        self.phase() == raw::XFRM_STATE_VALID
    }

    /// Whether it has been deleted, or has expired.
    pub(in crate::xfrm) fn is_dead(&self) -> bool {
        self.phase() == raw::XFRM_STATE_DEAD
    }

    /// Returns how many references there are. Others may take some right afterwards,
    /// unless nobody can find the SA. What was done by who has given one up is seen then.
    pub(in crate::xfrm) fn references(&self) -> u32 {
        // SAFETY: The SA is valid.
        unsafe { raw::xfrm_next_state_refcount(self.as_ptr()) }
    }

    /// Takes the SA out of the caches of the lookups, if it is there; whether it was. Takes
    /// `xfrm_state_lock` then.
    ///
    /// # Safety
    ///
    /// As for [`State::net`].
    pub(in crate::xfrm) unsafe fn leave_caches(&self) -> bool {
        let cached = !get!(self, state_cache.pprev).is_null()
            || !get!(self, state_cache_input.pprev).is_null();
        if cached {
            // SAFETY: The caller promises it.
            unsafe { tables::uncache(self) };
        }
        cached
    }

    /// Returns where the SA is in its life: `XFRM_STATE_*`.
    pub(in crate::xfrm) fn phase(&self) -> u32 {
        get!(self, km.state).into()
    }

    /// Returns the security context as a `struct xfrm_user_sec_ctx` with its text,
    /// empty if there is none. May sleep. Fails with `ENOMEM`.
    ///
    /// Mirrors `copy_sec_ctx()`.
    pub(in crate::xfrm) fn security_context(&self) -> Result<KVec<u8>> {
        let context = get!(self, security);
        // SAFETY: It is null or valid, doesn't change, and is freed with the SA.
        let Some(context) = (unsafe { context.as_ref() }) else {
            return Ok(KVec::new());
        };
        let size = size_of::<raw::xfrm_user_sec_ctx>() + usize::from(context.ctx_len);
        // SAFETY: The text has this length.
        let text = unsafe {
            slice::from_raw_parts(context.ctx_str.as_ptr().cast(), context.ctx_len.into())
        };
        let mut bytes = KVec::with_capacity(size, GFP_KERNEL)?;
        bytes.extend_from_slice(&(size as u16).to_ne_bytes(), GFP_KERNEL)?;
        bytes.extend_from_slice(&uapi::attr::SEC_CTX.to_ne_bytes(), GFP_KERNEL)?;
        bytes.extend_from_slice(&[context.ctx_alg, context.ctx_doi], GFP_KERNEL)?;
        bytes.extend_from_slice(&context.ctx_len.to_ne_bytes(), GFP_KERNEL)?;
        bytes.extend_from_slice(text, GFP_KERNEL)?;
        Ok(bytes)
    }

    /// Asks the security module whether the SA may be deleted. May sleep. Fails with
    /// what that says.
    pub fn may_delete(&self) -> Result {
        // SAFETY: The SA is valid.
        to_result(unsafe { raw::xfrm_next_security_state_delete(self.as_ptr()) })
    }

    /// Writes an audit record of the SA having been added. Any context.
    pub fn audit_added(&self) {
        // SAFETY: The SA is valid.
        unsafe { raw::xfrm_next_audit_state_add(self.as_ptr(), 1) }
    }

    /// Writes an audit record of an attempt to delete the SA: whether it is `done`. Any
    /// context.
    pub fn audit_deleted(&self, done: bool) {
        // SAFETY: The SA is valid.
        unsafe { raw::xfrm_next_audit_state_delete(self.as_ptr(), done.into()) }
    }

    /// Locks the SA under the lock of the one which it succeeds, which the
    /// caller holds with bottom halves off.
    ///
    /// # Safety
    ///
    /// The caller does.
    pub(in crate::xfrm) unsafe fn lock_nested(&self) -> Nested<'_> {
        // SAFETY: The SA is valid; the guard unlocks it.
        unsafe { raw::xfrm_next_state_lock_nested(self.as_ptr()) };
        Nested {
            state: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Locks the SA, as who receives a packet does; as [`Self::lock`].
    ///
    /// # Safety
    ///
    /// Bottom halves are off, until it is unlocked.
    pub(in crate::xfrm) unsafe fn lock_in_bh(&self) -> Nested<'_> {
        // SAFETY: The SA is valid; the guard unlocks it.
        unsafe { raw::xfrm_next_state_lock_in_bh(self.as_ptr()) };
        Nested {
            state: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Locks the SA, and keeps bottom halves off this CPU. Doesn't sleep, and
    /// nobody may sleep before it is unlocked. Outside of [`Table::lock`].
    pub fn lock(&self) -> Locked<'_> {
        // SAFETY: The SA is valid; the guard unlocks it.
        unsafe { raw::xfrm_next_state_lock(self.as_ptr()) };
        Locked {
            state: self,
            _not_send: NotThreadSafe,
        }
    }
}

/// The lock of an SA, held while bottom halves are off, or inside that of the one which it
/// succeeds.
///
/// # Invariants
///
/// The lock is held by this CPU.
pub(in crate::xfrm) struct Nested<'a> {
    state: &'a State,
    _not_send: NotThreadSafe,
}

impl Nested<'_> {
    /// Returns the SA.
    pub(in crate::xfrm) fn state(&self) -> &State {
        self.state
    }
}

impl Drop for Nested<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we hold it.
        unsafe { raw::xfrm_next_state_unlock_nested(self.state.as_ptr()) }
    }
}

/// Returns what an SA is found by, besides its mark; without what a user may have written
/// behind an address of four bytes.
///
/// # Safety
///
/// The SA is valid.
pub(in crate::xfrm) unsafe fn id(x: *const raw::xfrm_state) -> Id {
    // SAFETY: The caller promises it; one access each.
    unsafe {
        let family = (&raw const (*x).props.family).read_volatile();
        let daddr: uapi::Address = (&raw const (*x).id.daddr).read_volatile().into();
        Id {
            daddr: daddr.trimmed(family),
            spi: (&raw const (*x).id.spi).read_volatile().to_ne_bytes(),
            family,
            proto: (&raw const (*x).id.proto).read_volatile(),
            pad: 0,
        }
    }
}

impl raw::xfrm_dev_offload {
    /// Whether the SA is for received packets.
    pub(in crate::xfrm) fn is_inbound(&self) -> bool {
        u32::from(self.dir()) == raw::XFRM_DEV_OFFLOAD_IN
    }

    /// Whether the device does all of IPsec for the SA, not the ciphers only.
    pub(in crate::xfrm) fn is_packet(&self) -> bool {
        u32::from(self.type_()) == raw::XFRM_DEV_OFFLOAD_PACKET
    }
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

    /// For functions of the kernel that want it locked.
    pub(in crate::xfrm) fn as_ptr(&self) -> *mut raw::xfrm_state {
        self.state.as_ptr()
    }

    /// Returns the SA.
    pub(in crate::xfrm) fn state(&self) -> &State {
        self.state
    }

    /// Lets those who have a route by the SA look for another one.
    pub(in crate::xfrm) fn outdate_routes(&self) {
        // SAFETY: It is locked.
        unsafe { tables::outdate_routes(self.as_ptr()) }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we hold it.
        unsafe { raw::xfrm_next_state_unlock(self.as_ptr()) }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! An SA that nobody can find yet, made as a clone of another.
//!
//! Mirrors `xfrm_state_clone_and_setup()`, `xfrm_state_migrate_create()` and
//! `xfrm_state_migrate_install()` of `net/xfrm/xfrm_state.c`.

use super::{
    retired::{close_window, Grave},
    snapshot::Changes,
    state::Locked,
    uapi, State,
};
use crate::{net::ExtAck, raw};
use core::{mem::ManuallyDrop, ptr, ptr::NonNull};
use kernel::{error::to_result, prelude::*, sync::aref::ARef};

/// An SA that nobody can find yet.
///
/// # Invariants
///
/// `ptr` is an SA that is in no table. We own its first reference, the one
/// that the tables own later.
pub struct NewState {
    ptr: NonNull<raw::xfrm_state>,
}

impl NewState {
    /// Clones `old`, all but its counters. May sleep; the caller holds
    /// `xfrm_cfg_mutex`.
    ///
    /// Fails with `ENOMEM`, or what the security module says.
    pub fn clone_of(old: &State, changes: &Changes) -> Result<Self> {
        // SAFETY: The namespace of an SA is valid.
        let ptr = unsafe { raw::xfrm_state_alloc(old.net().as_ptr()) };
        // INVARIANT: A new SA has one reference and is in no table. From here
        // on, dropping it frees what has been cloned so far.
        let mut new = Self {
            ptr: NonNull::new(ptr).ok_or(ENOMEM)?,
        };

        // SAFETY: Both are valid. Nobody else knows the new one, and requests
        // alone, which the caller keeps out, write what is read of the old.
        let (x, orig) = unsafe { (&mut *new.ptr.as_ptr(), &*old.as_ptr()) };
        copy_plain(x, orig);
        apply(x, changes)?;
        // SAFETY: As above.
        unsafe {
            clone_algorithms(x, orig)?;
            clone_data(x, orig)?;
            new.clone_mode(old)?;
        }
        Ok(new)
    }

    /// Makes the SA fit to handle packets: mode, type and ciphers. May sleep.
    ///
    /// Fails as `xfrm_init_state()` does, which sets a text for most reasons.
    pub fn init(&mut self, extack: &mut ExtAck<'_>) -> Result {
        // SAFETY: The SA is ours and complete.
        to_result(unsafe { raw::xfrm_init_state(self.ptr.as_ptr(), extack.as_ptr()) })
    }

    /// Finds what segmentation and offload need, also for software; then asks
    /// the device of `offload` to take the SA, if there is one. May sleep.
    ///
    /// Fails as `xfrm_dev_state_add()` does. A device that can't offload
    /// crypto at all is no failure: the SA is done in software then.
    pub fn offload(&mut self, offload: Option<&uapi::Offload>, extack: &mut ExtAck<'_>) -> Result {
        // SAFETY: The SA is ours and initialized.
        unsafe { raw::xfrm_set_type_offload(self.ptr.as_ptr(), offload.is_some()) };
        let Some(offload) = offload else {
            return Ok(());
        };
        // SAFETY: As above; the layouts are the same (`layout.rs`).
        to_result(unsafe {
            raw::xfrm_next_dev_state_add(
                raw::xfrm_next_state_net(self.ptr.as_ptr()),
                self.ptr.as_ptr(),
                ptr::from_ref(offload).cast(),
                extack.as_ptr(),
            )
        })
    }

    /// Clones what the mode keeps for itself (IPTFS does).
    ///
    /// # Safety
    ///
    /// Requests are kept out.
    unsafe fn clone_mode(&mut self, old: &State) -> Result {
        let (x, orig) = (self.ptr.as_ptr(), old.as_ptr());

        // SAFETY: Both are valid; the callbacks stay as long as `orig` does,
        // and expect to be set before they are called.
        unsafe {
            (*x).mode_cbs = (*orig).mode_cbs;
            let Some(clone) = (*x).mode_cbs.as_ref().and_then(|cbs| cbs.clone_state) else {
                return Ok(());
            };
            let result = to_result(clone(x, orig));
            // Without data there is nothing that may be destroyed later.
            if result.is_err() && (*x).mode_data.is_null() {
                (*x).mode_cbs = ptr::null();
            }
            result
        }
    }
}

impl Drop for NewState {
    fn drop(&mut self) {
        let x = self.ptr.as_ptr();

        // SAFETY: The reference is ours, and nobody else knows the SA. A dead
        // one may be freed, after its device has forgotten it.
        unsafe {
            (*x).km.state = raw::XFRM_STATE_DEAD as u8;
            raw::xfrm_next_dev_state_delete(x);
            raw::xfrm_next_state_put(x);
        }
    }
}

/// Copies the values that own no memory.
fn copy_plain(x: &mut raw::xfrm_state, orig: &raw::xfrm_state) {
    x.id = orig.id;
    x.lft = orig.lft;
    x.props.mode = orig.props.mode;
    x.props.replay_window = orig.props.replay_window;
    x.props.aalgo = orig.props.aalgo;
    x.props.ealgo = orig.props.ealgo;
    x.props.calgo = orig.props.calgo;
    x.props.flags = orig.props.flags;
    x.props.extra_flags = orig.props.extra_flags;
    // CTR and CBC need it as much as AEADs do.
    x.geniv = orig.geniv;
    x.pcpu_num = orig.pcpu_num;
    x.if_id = orig.if_id;
    x.tfcpad = orig.tfcpad;
    x.replay_maxdiff = orig.replay_maxdiff;
    x.replay_maxage = orig.replay_maxage;
    x.km.seq = orig.km.seq;
    x.dir = orig.dir;
}

fn apply(x: &mut raw::xfrm_state, changes: &Changes) -> Result {
    x.id.daddr = address(changes.daddr);
    x.props.saddr = address(changes.saddr);
    x.props.family = changes.family;
    x.props.reqid = changes.reqid;
    // SAFETY: The layouts are the same (`layout.rs`).
    x.sel = unsafe { core::mem::transmute::<uapi::Selector, raw::xfrm_selector>(changes.selector) };
    x.mark = mark(changes.mark);
    x.props.smark = mark(changes.output_mark);
    x.mapping_maxage = changes.mapping_maxage;
    x.nat_keepalive_interval = changes.nat_keepalive;
    if let Some(encap) = changes.encap {
        // The kernel frees it with kfree(), which is right for a KBox.
        x.encap = KBox::into_raw(KBox::new(encap, GFP_KERNEL)?).cast();
    }
    Ok(())
}

fn address(from: uapi::Address) -> raw::xfrm_address_t {
    // SAFETY: An address is sixteen bytes, whatever they are.
    unsafe { core::mem::transmute(from) }
}

fn mark(from: uapi::Mark) -> raw::xfrm_mark {
    raw::xfrm_mark {
        v: from.v,
        m: from.m,
    }
}

/// Clones what is behind `from`, if anything is.
///
/// # Safety
///
/// `clone` must be fit for what `from` points to, and return null or a pointer
/// that the kernel frees with the SA.
unsafe fn clone_with<T>(
    from: *mut T,
    clone: unsafe extern "C" fn(*mut T) -> *mut T,
) -> Result<*mut T> {
    if from.is_null() {
        return Ok(from);
    }
    // SAFETY: The caller promises it.
    let copy = unsafe { clone(from) };
    if copy.is_null() {
        return Err(ENOMEM);
    }
    Ok(copy)
}

/// # Safety
///
/// Requests are kept out, and `x` is known to nobody else.
unsafe fn clone_algorithms(x: &mut raw::xfrm_state, orig: &raw::xfrm_state) -> Result {
    // SAFETY: Each function clones what the field has, sized as it says; all
    // are freed with the SA.
    unsafe {
        x.aalg = clone_with(orig.aalg, raw::xfrm_next_algo_auth_clone)?;
        x.aead = clone_with(orig.aead, raw::xfrm_next_algo_aead_clone)?;
        x.ealg = clone_with(orig.ealg, raw::xfrm_next_algo_clone)?;
        x.calg = clone_with(orig.calg, raw::xfrm_next_algo_clone)?;
    }
    Ok(())
}

/// Clones the care-of address, the replay windows and the security context.
///
/// # Safety
///
/// As for [`clone_algorithms`].
unsafe fn clone_data(x: &mut raw::xfrm_state, orig: &raw::xfrm_state) -> Result {
    if !orig.coaddr.is_null() {
        // SAFETY: It isn't null, and is freed with the SA.
        let coaddr = unsafe { *orig.coaddr };
        x.coaddr = KBox::into_raw(KBox::new(coaddr, GFP_KERNEL)?);
    }
    // SAFETY: Both are valid. The windows have the same size afterwards, so
    // that their contents can be copied again later.
    to_result(unsafe { raw::xfrm_next_replay_clone(x, orig) })?;
    if orig.security.is_null() {
        return Ok(());
    }
    // SAFETY: It isn't null.
    unsafe { clone_security(x, &*orig.security) }
}

/// Gives `x` a security context like `orig`, by the way that user space would.
///
/// # Safety
///
/// `x` is known to nobody else, and `orig` is followed by its string.
unsafe fn clone_security(x: &mut raw::xfrm_state, orig: &raw::xfrm_sec_ctx) -> Result {
    const HEADER: usize = size_of::<raw::xfrm_user_sec_ctx>();

    let len = HEADER + usize::from(orig.ctx_len);
    let mut buffer = KVec::<u64>::from_elem(0, len.div_ceil(8), GFP_KERNEL)?;
    let ctx: *mut raw::xfrm_user_sec_ctx = buffer.as_mut_ptr().cast();
    // SAFETY: The buffer is aligned and has room for the header and the
    // string, which are all that the security module reads.
    to_result(unsafe {
        ctx.write(raw::xfrm_user_sec_ctx {
            len: len as u16,
            exttype: raw::xfrm_attr_type_t_XFRMA_SEC_CTX as u16,
            ctx_alg: orig.ctx_alg,
            ctx_doi: orig.ctx_doi,
            ctx_len: orig.ctx_len,
        });
        ptr::copy_nonoverlapping(
            orig.ctx_str.as_ptr().cast::<u8>(),
            ctx.cast::<u8>().add(HEADER),
            orig.ctx_len.into(),
        );
        raw::xfrm_next_security_state_alloc(x, ctx)
    })
}

impl Locked<'_> {
    /// Puts `new` in the place of the locked SA, which must be valid: it takes
    /// over counters, windows and what is left of the lifetime. Any context.
    ///
    /// The new one is put into the tables before the old one is taken out, and
    /// nobody counts a packet on the old one in between: that needs the lock.
    /// Packets that are being handled by the old one go on, with the new one's
    /// numbers and window, for a while; but not if the old one has something
    /// that must go at once.
    pub fn replace(self, new: NewState, grave: Grave) -> ARef<State> {
        let new = ManuallyDrop::new(new).ptr.as_ptr();
        let old = self.as_ptr();

        // SAFETY: `new` is ours and complete, and `old` is locked, valid and
        // so in the tables. The reference that we had goes to the tables; one
        // more is returned.
        unsafe {
            take_counters(new, old);
            raw::xfrm_next_state_hold(new);
            let held: ARef<State> = ARef::from_raw(NonNull::new_unchecked(new).cast());
            let named = can_retire(&*old, &*new)
                .then(|| grave.succeed(NonNull::new_unchecked(old.cast()), held.clone()));
            {
                // Until its timers are right, no packet may find a limit.
                let _locked = held.lock_nested();
                raw::xfrm_state_insert(new);
                take_timers(new, old);
            }
            match named {
                Some(named) => named.retire(old),
                None => {
                    raw::__xfrm_state_delete(old);
                    close_window(old);
                }
            }
            held
        }
    }
}

/// Whether an SA may stay as it is for a while after it has been replaced.
///
/// Not if a device knows it, or if it keeps an IPIP SA for IPComp: both must be
/// told at once. Nor if packets of the new one are numbered by a device, since
/// then nobody could keep them apart from those in flight.
fn can_retire(old: &raw::xfrm_state, new: &raw::xfrm_state) -> bool {
    old.xso.dev.is_null()
        && old.tunnel.is_null()
        && u32::from(new.xso.type_()) != raw::XFRM_DEV_OFFLOAD_PACKET
}

/// # Safety
///
/// `old` is locked, `new` is a clone of it that nobody else knows.
unsafe fn take_counters(new: *mut raw::xfrm_state, old: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it.
    unsafe {
        raw::xfrm_next_dev_state_update_stats(old);
        raw::xfrm_next_migrate_sync(new, old);
        (*new).stats = (*old).stats;
        (*new).lastused = (*old).lastused;
        (*new).km.dying = (*old).km.dying;
        (*new).xflags = (*old).xflags;
        (*new).saved_tmo = (*old).saved_tmo;
    }
}

/// Lets the timers of `new` expire when those of `old` would have. Insertion
/// has started them anew, which would defer the limits at each migration.
///
/// # Safety
///
/// `old` is locked and not deleted, `new` has been inserted.
unsafe fn take_timers(new: *mut raw::xfrm_state, old: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it; timers have locks of their own.
    unsafe {
        if raw::xfrm_next_hrtimer_active(&raw mut (*old).mtimer) {
            raw::xfrm_next_hrtimer_copy_start(&raw mut (*new).mtimer, &raw const (*old).mtimer);
        }
        if raw::xfrm_next_timer_pending(&raw const (*old).rtimer) {
            raw::mod_timer(&raw mut (*new).rtimer, (*old).rtimer.expires);
        } else if (*old).xflags & raw::XFRM_TIME_DEFER != 0 {
            // It has fired, and left the event to the next packet.
            raw::timer_delete(&raw mut (*new).rtimer);
        }
    }
}

/// Deletes the SA that waits for one like `state`, as a new SA does: one that
/// was made by an `ACQUIRE`, and has no SPI. May not be called under locks.
///
/// Mirrors the last part of `xfrm_state_add()`.
pub fn resolve_larval(state: &State) {
    let x = state.as_ptr();

    // SAFETY: The SA is valid, and what is read of it doesn't change. What is
    // found comes with a reference, which is given back.
    unsafe {
        let net = raw::xfrm_next_state_net(x);
        let mark = (*x).mark.v & (*x).mark.m;
        let mut larval = ptr::null_mut();

        if (*x).km.seq != 0 {
            larval = raw::xfrm_find_acq_byseq(net, mark, (*x).km.seq, (*x).pcpu_num);
            if !larval.is_null() && !waits_for(&*larval, &*x) {
                raw::xfrm_next_state_put(larval);
                larval = ptr::null_mut();
            }
        }
        if larval.is_null() {
            larval = raw::xfrm_find_acq(
                net,
                &raw const (*x).mark,
                (*x).props.mode,
                (*x).props.reqid,
                (*x).if_id,
                (*x).pcpu_num,
                (*x).id.proto,
                &raw const (*x).id.daddr,
                &raw const (*x).props.saddr,
                0,
                (*x).props.family,
            );
        }
        if !larval.is_null() {
            raw::xfrm_state_delete(larval);
            raw::xfrm_next_state_put(larval);
        }
    }
}

fn waits_for(larval: &raw::xfrm_state, x: &raw::xfrm_state) -> bool {
    // SAFETY: All members of an address may be read.
    larval.id.proto == x.id.proto && unsafe { larval.id.daddr.a6 == x.id.daddr.a6 }
}

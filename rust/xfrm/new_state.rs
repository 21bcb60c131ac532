// SPDX-License-Identifier: GPL-2.0

//! An SA that nobody can find yet, made as a clone of another.
//!
//! Mirrors `xfrm_state_clone_and_setup()`, `xfrm_state_migrate_create()` and
//! `xfrm_state_migrate_install()` of `net/xfrm/xfrm_state.c`.

use super::{
    retired::{close_window, Grave, Retirement},
    snapshot::Changes,
    tables::{in_hardware, take_place},
    uapi, State,
};
use crate::{net::ExtAck, raw};
use core::{mem::ManuallyDrop, ptr, ptr::NonNull};
use kernel::{error::to_result, prelude::*, sync::aref::ARef};

/// An SA that nobody can find yet, and which is to replace another.
pub struct NewState {
    draft: Draft,
    old: ARef<State>,
    grave: Grave,
}

/// The SA itself; dropping it tells its device and frees it.
///
/// # Invariants
///
/// It is in no table. We own its first reference, the one that the tables own
/// later.
struct Draft(NonNull<raw::xfrm_state>);

impl NewState {
    /// Clones `old`, all but its counters. May sleep; the caller holds
    /// `xfrm_cfg_mutex`.
    ///
    /// Fails with `ENOMEM`, or what the security module says.
    pub fn clone_of(old: &State, changes: &Changes, retirement: &Retirement) -> Result<Self> {
        let grave = retirement.grave(old.net())?;
        // SAFETY: The namespace of an SA is valid.
        let ptr = unsafe { raw::xfrm_state_alloc(old.net().as_ptr()) };
        // INVARIANT: A new SA has one reference and is in no table. From here
        // on, dropping it frees what has been cloned so far.
        let draft = Draft(NonNull::new(ptr).ok_or(ENOMEM)?);

        // SAFETY: Both are valid. Nobody else knows the new one, and requests
        // alone, which the caller keeps out, write what is read of the old.
        unsafe {
            let (x, orig) = (draft.0.as_ptr(), old.as_ptr());
            copy_plain(x, orig);
            apply(x, changes)?;
            clone_algorithms(x, orig)?;
            clone_data(x, orig)?;
            clone_mode(x, orig)?;
        }
        Ok(Self {
            draft,
            old: old.into(),
            grave,
        })
    }

    /// Makes the SA fit to handle packets: mode, type and ciphers. May sleep.
    ///
    /// Fails as `xfrm_init_state()` does, which sets a text for most reasons.
    pub fn init(&mut self, extack: &mut ExtAck<'_>) -> Result {
        // SAFETY: The SA is ours and complete.
        to_result(unsafe { raw::xfrm_init_state(self.as_ptr(), extack.as_ptr()) })
    }

    /// Finds what segmentation and offload need, also for software; then asks
    /// the device of `offload` to take the SA, if there is one. May sleep.
    ///
    /// Fails as `xfrm_dev_state_add()` does. A device that can't offload
    /// crypto at all is no failure: the SA is done in software then.
    pub fn offload(&mut self, offload: Option<&uapi::Offload>, extack: &mut ExtAck<'_>) -> Result {
        // SAFETY: The SA is ours and initialized.
        unsafe { raw::xfrm_set_type_offload(self.as_ptr(), offload.is_some()) };
        let Some(offload) = offload else {
            return Ok(());
        };
        // SAFETY: As above; the layouts are the same (`layout.rs`).
        to_result(unsafe {
            raw::xfrm_next_dev_state_add(
                raw::xfrm_next_state_net(self.as_ptr()),
                self.as_ptr(),
                ptr::from_ref(offload).cast(),
                extack.as_ptr(),
            )
        })
    }

    fn as_ptr(&self) -> *mut raw::xfrm_state {
        self.draft.0.as_ptr()
    }

    /// Puts the SA in the place of the old one: it takes over counters, windows
    /// and what is left of the lifetime. May not be called under locks of SAs.
    ///
    /// A lookup finds one of the two at any time, and nobody counts a packet on
    /// the old one any more: that needs the lock. Packets that are being handled
    /// by the old one go on, with the new one's numbers and window, for a while;
    /// but not if the old one has something that must go at once.
    ///
    /// Fails with `ESRCH` if the old one was deleted or has expired.
    pub fn replace_old(self) -> Result<ARef<State>> {
        let old = self.old.clone();
        let locked = old.lock();
        if !locked.is_valid() {
            // The device must be told of the draft without that lock.
            drop(locked);
            return Err(ESRCH);
        }
        let Self { draft, grave, .. } = self;
        let new = ManuallyDrop::new(draft).0.as_ptr();
        let old = locked.as_ptr();

        // SAFETY: `new` is ours and complete, and `old` is locked, valid and
        // so in the tables. The reference that we had goes to the tables; one
        // more is returned.
        unsafe {
            raw::xfrm_next_state_hold(new);
            let held: ARef<State> = ARef::from_raw(NonNull::new_unchecked(new).cast());
            let named = can_retire(old, new)
                .then(|| grave.succeed(NonNull::new_unchecked(old.cast()), held.clone()));
            {
                // Until its timers are right, no packet may find a limit; and a
                // device may know it already.
                let _locked = held.lock_nested();
                take_counters(new, old);
                take_place(new, old);
                take_timers(new, old);
            }
            match named {
                Some(named) => named.retire(old),
                None => {
                    raw::__xfrm_state_delete(old);
                    close_window(old);
                }
            }
            Ok(held)
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let x = self.0.as_ptr();

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
///
/// # Safety
///
/// Requests are kept out, and `x` is known to nobody else.
unsafe fn copy_plain(x: *mut raw::xfrm_state, orig: *const raw::xfrm_state) {
    // SAFETY: The caller promises it.
    unsafe {
        (*x).id = (*orig).id;
        (*x).lft = (*orig).lft;
        (*x).props.mode = (*orig).props.mode;
        (*x).props.replay_window = (*orig).props.replay_window;
        (*x).props.aalgo = (*orig).props.aalgo;
        (*x).props.ealgo = (*orig).props.ealgo;
        (*x).props.calgo = (*orig).props.calgo;
        (*x).props.flags = (*orig).props.flags;
        (*x).props.extra_flags = (*orig).props.extra_flags;
        // CTR and CBC need it as much as AEADs do.
        (*x).geniv = (*orig).geniv;
        (*x).pcpu_num = (*orig).pcpu_num;
        (*x).if_id = (*orig).if_id;
        (*x).tfcpad = (*orig).tfcpad;
        (*x).replay_maxdiff = (*orig).replay_maxdiff;
        (*x).replay_maxage = (*orig).replay_maxage;
        (*x).km.seq = (*orig).km.seq;
        (*x).dir = (*orig).dir;
    }
}

/// # Safety
///
/// `x` is known to nobody else, and has no encapsulation yet.
unsafe fn apply(x: *mut raw::xfrm_state, changes: &Changes) -> Result {
    let encap = changes
        .encap
        .map(|encap| KBox::new(encap, GFP_KERNEL))
        .transpose()?;

    // SAFETY: The caller promises it. The selector's layout is the same
    // (`layout.rs`). The kernel frees the encapsulation with kfree(), which is
    // right for a KBox.
    unsafe {
        (*x).id.daddr = address(changes.daddr);
        (*x).props.saddr = address(changes.saddr);
        (*x).props.family = changes.family;
        (*x).props.reqid = changes.reqid;
        (*x).sel = core::mem::transmute::<uapi::Selector, raw::xfrm_selector>(changes.selector);
        (*x).mark = mark(changes.mark);
        (*x).props.smark = mark(changes.output_mark);
        (*x).mapping_maxage = changes.mapping_maxage;
        (*x).nat_keepalive_interval = changes.nat_keepalive;
        if let Some(encap) = encap {
            (*x).encap = KBox::into_raw(encap).cast();
        }
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
unsafe fn clone_algorithms(x: *mut raw::xfrm_state, orig: *const raw::xfrm_state) -> Result {
    // SAFETY: Each function clones what the field has, sized as it says; all
    // are freed with the SA.
    unsafe {
        (*x).aalg = clone_with((*orig).aalg, raw::xfrm_next_algo_auth_clone)?;
        (*x).aead = clone_with((*orig).aead, raw::xfrm_next_algo_aead_clone)?;
        (*x).ealg = clone_with((*orig).ealg, raw::xfrm_next_algo_clone)?;
        (*x).calg = clone_with((*orig).calg, raw::xfrm_next_algo_clone)?;
    }
    Ok(())
}

/// Clones the care-of address, the replay windows and the security context.
///
/// # Safety
///
/// As for [`clone_algorithms`].
unsafe fn clone_data(x: *mut raw::xfrm_state, orig: *const raw::xfrm_state) -> Result {
    // SAFETY: The caller promises it; the care-of address is freed with the SA.
    // The windows have the same size afterwards, so that their contents can be
    // copied again later.
    unsafe {
        if !(*orig).coaddr.is_null() {
            (*x).coaddr = KBox::into_raw(KBox::new(*(*orig).coaddr, GFP_KERNEL)?);
        }
        to_result(raw::xfrm_next_replay_clone(x, orig))?;
        if !(*orig).security.is_null() {
            clone_security(x, (*orig).security)?;
        }
    }
    Ok(())
}

/// Gives `x` a security context like `orig`, by the way that user space would.
///
/// # Safety
///
/// `x` is known to nobody else, and `orig` is followed by its string.
unsafe fn clone_security(x: *mut raw::xfrm_state, orig: *const raw::xfrm_sec_ctx) -> Result {
    const HEADER: usize = size_of::<raw::xfrm_user_sec_ctx>();

    // SAFETY: The caller promises it. The buffer is aligned and has room for
    // the header and the string, which are all that the security module reads.
    unsafe {
        let string = usize::from((*orig).ctx_len);
        let len = HEADER + string;
        let mut buffer = KVec::<u64>::from_elem(0, len.div_ceil(8), GFP_KERNEL)?;
        let ctx: *mut raw::xfrm_user_sec_ctx = buffer.as_mut_ptr().cast();
        ctx.write(raw::xfrm_user_sec_ctx {
            len: len as u16,
            exttype: raw::xfrm_attr_type_t_XFRMA_SEC_CTX as u16,
            ctx_alg: (*orig).ctx_alg,
            ctx_doi: (*orig).ctx_doi,
            ctx_len: (*orig).ctx_len,
        });
        ptr::copy_nonoverlapping(
            (&raw const (*orig).ctx_str).cast::<u8>(),
            ctx.cast::<u8>().add(HEADER),
            string,
        );
        to_result(raw::xfrm_next_security_state_alloc(x, ctx))
    }
}

/// Clones what the mode keeps for itself (IPTFS does).
///
/// # Safety
///
/// As for [`clone_algorithms`].
unsafe fn clone_mode(x: *mut raw::xfrm_state, orig: *mut raw::xfrm_state) -> Result {
    // SAFETY: The caller promises it; the callbacks stay as long as `orig` does,
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

/// Whether an SA may stay as it is for a while after it has been replaced.
///
/// Not if a device knows it, or if it keeps an IPIP SA for IPComp: both must be
/// told at once. Nor if packets of the new one are numbered by a device, since
/// then nobody could keep them apart from those in flight.
///
/// # Safety
///
/// Both are valid, and `old` is locked.
unsafe fn can_retire(old: *const raw::xfrm_state, new: *const raw::xfrm_state) -> bool {
    // SAFETY: The caller promises it.
    unsafe { (*old).xso.dev.is_null() && (*old).tunnel.is_null() && !in_hardware(new) }
}

/// # Safety
///
/// Both are locked, `new` is a clone of `old` that nobody can find.
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
            if !larval.is_null() && !waits_for(larval, x) {
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

/// # Safety
///
/// Both are valid.
unsafe fn waits_for(larval: *const raw::xfrm_state, x: *const raw::xfrm_state) -> bool {
    // SAFETY: The caller promises it. All members of an address may be read.
    unsafe { (*larval).id.proto == (*x).id.proto && (*larval).id.daddr.a6 == (*x).id.daddr.a6 }
}

// SPDX-License-Identifier: GPL-2.0

//! Cloning what an SA is made of, but for ciphers that are ready.
//!
//! Mirrors `xfrm_state_clone_and_setup()` of `net/xfrm/xfrm_state.c`.

use super::snapshot::Changes;
use crate::{raw, xfrm::State};
use core::ptr;
use kernel::{error::to_result, prelude::*};

/// Makes `x` a clone of `orig` with `changes`, all but its counters. What has been cloned is
/// freed with `x`, also on failure: `ENOMEM`, or what the security module says. May sleep.
///
/// # Safety
///
/// `x` is new, and known to nobody else. Requests are kept out, and there is a reference to
/// `orig`.
pub(super) unsafe fn fill(
    x: *mut raw::xfrm_state,
    orig: *mut raw::xfrm_state,
    changes: &Changes,
) -> Result {
    // SAFETY: The caller promises it.
    unsafe {
        copy_plain(x, orig);
        apply(x, changes)?;
        clone_algorithms(x, orig)?;
        clone_data(x, orig)?;
        clone_mode(x, orig)
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
    let encap = changes.encap.as_ref().map_or(ptr::null(), ptr::from_ref);

    // SAFETY: The caller promises it. The layout of the encapsulation is the same
    // (`layout.rs`), and it is freed with the SA.
    unsafe {
        (*x).encap = clone_with(encap.cast_mut().cast(), raw::xfrm_next_encap_clone)?;
        (*x).id.daddr = changes.daddr.into();
        (*x).props.saddr = changes.saddr.into();
        (*x).props.family = changes.family;
        (*x).props.reqid = changes.reqid;
        (*x).sel = changes.selector.into();
        (*x).mark = changes.mark.masked().into();
        (*x).props.smark = changes.output_mark.into();
        (*x).mapping_maxage = changes.mapping_maxage;
        (*x).nat_keepalive_interval = changes.nat_keepalive;
    }
    Ok(())
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
/// As for [`clone_algorithms`]; there is a reference to `orig`.
unsafe fn clone_data(x: *mut raw::xfrm_state, orig: *mut raw::xfrm_state) -> Result {
    // SAFETY: The caller promises it; the care-of address is freed with the SA.
    // The windows have the same size afterwards, so that their contents can be
    // copied again later. The security module gets what user space would give it,
    // aligned as kmalloc() does it.
    unsafe {
        if !(*orig).coaddr.is_null() {
            (*x).coaddr = KBox::into_raw(KBox::new(*(*orig).coaddr, GFP_KERNEL)?);
        }
        to_result(raw::xfrm_next_replay_clone(x, orig))?;
        if !(*orig).security.is_null() {
            let mut context = State::from_raw(orig).security_context()?;
            let context = context.as_mut_ptr().cast();
            to_result(raw::xfrm_next_security_state_alloc(x, context))?;
        }
    }
    Ok(())
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

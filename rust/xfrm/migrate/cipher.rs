// SPDX-License-Identifier: GPL-2.0

//! The AEAD of an SA that is a clone of another: of the same driver, with the same key, and
//! with the same salt for IVs.
//!
//! Mirrors `esp_init_aead()` of `net/ipv4/esp4.c`; an SA of ESP keeps its AEAD in `data`.

use crate::{raw, xfrm::uapi};
use core::ptr;
use kernel::{
    error::{from_err_ptr, to_result},
    ffi::c_uint,
    prelude::*,
    types::ScopeGuard,
};

/// Makes `x` fit to handle packets as `orig` does, if only addresses, marks or the like are
/// others: whether it is. Else, or if the driver has gone, the kernel has to do it, by
/// `__xfrm_init_state()`. May sleep.
///
/// # Safety
///
/// Requests are kept out. `x` is a clone of `orig`, which is initialized; nobody knows `x`.
pub(super) unsafe fn init_alike(x: *mut raw::xfrm_state, orig: *const raw::xfrm_state) -> bool {
    // SAFETY: The caller promises it. A type lives as long as its SAs.
    unsafe {
        if !are_alike(x, orig) || clone_aead(x, orig).is_err() {
            return false;
        }
        (*x).inner_mode = (*orig).inner_mode;
        (*x).inner_mode_iaf = (*orig).inner_mode_iaf;
        (*x).outer_mode = (*orig).outer_mode;
        (*x).props.header_len = (*orig).props.header_len;
        (*x).props.trailer_len = (*orig).props.trailer_len;
        (*x).type_ = (*orig).type_;
        raw::xfrm_next_type_get(x);

        let net = raw::xfrm_next_state_net(x);
        let pmtu_disc = (&raw const (*net).ipv4.sysctl_ip_no_pmtu_disc).read_volatile() == 0;
        if (*x).props.family == uapi::AF_INET && (*x).dir != uapi::SA_DIR_IN && !pmtu_disc {
            (*x).props.flags |= raw::XFRM_STATE_NOPMTUDISC as u8;
        }
    }
    true
}

/// Whether both have one cipher, and headers of one length.
///
/// # Safety
///
/// As for [`init_alike`].
unsafe fn are_alike(x: *const raw::xfrm_state, orig: *const raw::xfrm_state) -> bool {
    // SAFETY: The caller promises it.
    unsafe {
        let encap = |x: *const raw::xfrm_state| (*x).encap.as_ref().map(|encap| encap.encap_type);
        (*x).id.proto == uapi::IPPROTO_ESP
            && !(*x).aead.is_null()
            && (*x).props.family == (*orig).props.family
            && (*x).sel.family == (*orig).sel.family
            && encap(x) == encap(orig)
            && (*x).nat_keepalive_interval == 0
            && (*x).mode_cbs.is_null()
    }
}

/// # Safety
///
/// As for [`init_alike`]; both have an AEAD.
unsafe fn clone_aead(x: *mut raw::xfrm_state, orig: *const raw::xfrm_state) -> Result {
    // SAFETY: The caller promises it. The key follows the structure, as long as that says.
    unsafe {
        let algo = (*x).aead;
        let driver = raw::xfrm_next_aead_driver((*orig).data.cast());
        let aead = from_err_ptr(raw::crypto_alloc_aead(driver, 0, 0))?;
        let unused = ScopeGuard::new(|| raw::xfrm_next_aead_free(aead));
        let key = (&raw const (*algo).alg_key).cast();
        to_result(raw::crypto_aead_setkey(
            aead,
            key,
            (*algo).alg_key_len.div_ceil(8),
        ))?;
        to_result(raw::crypto_aead_setauthsize(aead, (*algo).alg_icv_len / 8))?;
        unused.dismiss();
        // It is freed with the SA.
        (*x).data = aead.cast();
    }
    Ok(())
}

/// Lets the generator of IVs of `x` go on with the salt of that of `orig`: with the same key,
/// another salt might make the same IV of another number. Only the kernel's own generators
/// have a salt; an algorithm that makes IVs by itself is left alone.
///
/// # Safety
///
/// Both are initialized; nobody uses `x` yet.
pub(super) unsafe fn keep_salt(x: *mut raw::xfrm_state, orig: *const raw::xfrm_state) {
    let (mut size, mut same): (c_uint, c_uint) = (0, 0);
    // SAFETY: The caller promises it; each salt has the size that is told.
    unsafe {
        let to = raw::xfrm_next_geniv_salt(x, &mut size);
        let from = raw::xfrm_next_geniv_salt(orig, &mut same);
        if !to.is_null() && !from.is_null() && size == same {
            ptr::copy_nonoverlapping(from, to, size as usize);
        }
    }
}

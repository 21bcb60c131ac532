// SPDX-License-Identifier: GPL-2.0

//! The windows of SAs, as the kernel keeps them.
//!
//! C source: `net/xfrm/xfrm_replay.c`

use crate::raw;
use core::ptr;

/// Makes the window such that each packet which asks for it again, after it
/// has been decrypted, is refused.
///
/// # Safety
///
/// The SA is locked, and its numbers are of no use any more.
pub(in crate::xfrm) unsafe fn close_window(x: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it. A ring's bits follow the structure, as
    // many words as it says.
    unsafe {
        // All have been received, up to the last number there is.
        (*x).replay.seq = u32::MAX;
        (*x).replay.bitmap = u32::MAX;
        let esn = (*x).replay_esn;
        if esn.is_null() {
            return;
        }
        if (*x).repl_mode == raw::xfrm_replay_mode_XFRM_REPLAY_MODE_ESN {
            // Packets had another upper half when they were decrypted.
            (*esn).seq_hi ^= 1 << 31;
        } else {
            (*esn).seq = u32::MAX;
            ring(esn).write_bytes(0xff, (*esn).bmp_len as usize);
        }
    }
}

/// Makes the window, and the numbers, such as those of another SA of the line.
///
/// # Safety
///
/// Both SAs are locked.
pub(super) unsafe fn copy_window(to: *mut raw::xfrm_state, from: *const raw::xfrm_state) {
    // SAFETY: The caller promises it. A ring's bits follow the structure, as many words as it
    // says.
    unsafe {
        (*to).replay = (*from).replay;
        let (to, from) = ((*to).replay_esn, (*from).replay_esn);
        // They are clones, so that both have one or none, of one size.
        if !to.is_null() && !from.is_null() && (*to).bmp_len == (*from).bmp_len {
            *to = ptr::read(from);
            let len = (*to).bmp_len as usize;
            ring(to).copy_from_nonoverlapping(ring(from), len);
        }
    }
}

/// Returns where the bits of a window are.
///
/// # Safety
///
/// `esn` is valid.
pub(in crate::xfrm) unsafe fn ring(esn: *mut raw::xfrm_replay_state_esn) -> *mut u32 {
    // SAFETY: The caller promises it.
    unsafe { (&raw mut (*esn).bmp).cast() }
}

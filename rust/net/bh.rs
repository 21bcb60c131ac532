// SPDX-License-Identifier: GPL-2.0

//! Keeping bottom halves off this CPU.
//!
//! C header: `include/linux/bottom_half.h`

use crate::raw;
use kernel::types::NotThreadSafe;

/// Bottom halves don't run on this CPU while it is there, so a spinlock that
/// they take can be taken. Nobody may sleep meanwhile.
///
/// # Invariants
///
/// They have been disabled once for it.
pub struct Off(NotThreadSafe);

/// Keeps them off until what is returned is dropped. It nests. Any context but hard
/// interrupts.
///
/// # Examples
///
/// A lock that bottom halves take, too:
///
/// ```ignore
/// fn note(places: &SpinLock<u32>, place: usize) {
///     let _off = bh::off();
///     *places.lock() |= 1 << place;
/// }
/// ```
pub fn off() -> Off {
    // SAFETY: It nests; the guard enables them again.
    unsafe { raw::xfrm_next_bh_disable() };
    // INVARIANT: Just done.
    Off(NotThreadSafe)
}

impl Drop for Off {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, this is the one call that undoes `off`.
        unsafe { raw::xfrm_next_bh_enable() }
    }
}

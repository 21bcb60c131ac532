// SPDX-License-Identifier: GPL-2.0

//! Waiting for the functions that RCU is to call.
//!
//! C header: `include/linux/rcupdate.h`

use crate::raw;

/// Waits, when it is dropped, until RCU has called all functions that it has been
/// given: the module's text may go afterwards. Sleeps. Mirrors `rcu_barrier()`.
pub struct RcuBarrier;

impl Drop for RcuBarrier {
    fn drop(&mut self) {
        // SAFETY: It may be called wherever one may sleep.
        unsafe { raw::rcu_barrier() }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Knowing that readers of RCU have left, without waiting for it.
//!
//! C header: `include/linux/rcupdate.h`

use crate::raw;
use kernel::sync::atomic::{ordering, Atomic};

/// The grace period that follows a moment: when it is over, whoever was in a read-side
/// critical section then has left it.
///
/// # Examples
///
/// ```ignore
/// list.remove(entry);
/// let grace = GracePeriod::after_now();
/// // Later, in a worker:
/// if grace.is_over() {
///     drop(entry);
/// } else {
///     GracePeriod::start();
/// }
/// ```
#[repr(transparent)]
pub struct GracePeriod(Atomic<usize>);

impl GracePeriod {
    /// Returns that of now. Any context. Mirrors `get_state_synchronize_rcu()`.
    pub fn after_now() -> Self {
        // SAFETY: It may be called anywhere.
        Self(Atomic::new(unsafe {
            raw::xfrm_next_get_state_synchronize_rcu()
        }))
    }

    /// Makes it that of now. Any context.
    pub fn restart(&self) {
        let Self(now) = Self::after_now();
        self.0.store(now.load(ordering::Relaxed), ordering::Relaxed);
    }

    /// Whether it is over; what was done before is seen then. Any context. Mirrors
    /// `poll_state_synchronize_rcu()`.
    pub fn is_over(&self) -> bool {
        // SAFETY: As above.
        unsafe { raw::xfrm_next_poll_state_synchronize_rcu(self.0.load(ordering::Relaxed)) }
    }

    /// Sees to it that one begins, if nobody else does. Any context but hard interrupts.
    /// Mirrors `start_poll_synchronize_rcu()`.
    pub fn start() {
        // SAFETY: As above.
        unsafe { raw::xfrm_next_start_poll_synchronize_rcu() };
    }
}

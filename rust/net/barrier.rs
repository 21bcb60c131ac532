// SPDX-License-Identifier: GPL-2.0

//! Waiting until nobody is in functions of the module any more, before its text goes.
//!
//! C header: `include/linux/rcupdate.h`

use crate::raw;

/// Waits, when it is dropped, until RCU has called all functions that it has been
/// given: the module's text may go afterwards. Sleeps. Mirrors `rcu_barrier()`.
///
/// # Examples
///
/// ```ignore
/// #[pin_data]
/// struct Service {
///     // Dropped in this order: what it frees under RCU is freed before the text goes.
///     #[pin]
///     settings: Registration<Settings>,
///     _freed: RcuBarrier,
/// }
/// ```
#[cfg(XFRM_NEXT_LAG)]
pub struct RcuBarrier;

#[cfg(XFRM_NEXT_LAG)]
impl Drop for RcuBarrier {
    fn drop(&mut self) {
        // SAFETY: It may be called wherever one may sleep.
        unsafe { raw::rcu_barrier() }
    }
}

/// Waits, when it is dropped, until all who are in a function of the module have left it,
/// if they don't sleep there: tasks, also preempted ones, and bottom halves. Who shares it
/// counts its calls until they are about to return, and drops it when there are none; so
/// unloading waits once for all. Sleeps. Mirrors `synchronize_rcu_tasks()`.
///
/// # Examples
///
/// ```ignore
/// let text = Arc::new(TextBarrier, GFP_KERNEL)?;
/// // Both count the calls that they lead into the module.
/// let redirector = Redirector::new(text.clone())?;
/// let bonds = upper_calls::uppers::<Lag>(text)?;
/// ```
pub struct TextBarrier;

impl Drop for TextBarrier {
    fn drop(&mut self) {
        // A task leaves this grace period only after it gave up the CPU by itself. Waiting
        // for it includes waiting for bottom halves, also on an idle CPU.
        // SAFETY: It may be called wherever one may sleep.
        unsafe { raw::xfrm_next_synchronize_rcu_tasks() }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Knowing when the last redirected call has left the module.

use crate::raw;
use kernel::{
    sync::atomic::{ordering, Atomic},
    time::{delay::fsleep, Delta},
};

/// Counts the calls that are under way.
pub struct Gate {
    inside: Atomic<i32>,
}

impl Gate {
    /// Makes a gate that nobody has passed, for a `static`.
    pub const fn new() -> Self {
        Self {
            inside: Atomic::new(0),
        }
    }

    /// Lets a call in; its [`Pass`] lets it out. Any context.
    pub(super) fn enter(&self) {
        self.inside.add(1, ordering::Relaxed);
    }

    /// Takes over the pass of a call that has been let in.
    pub fn pass(&'static self) -> Pass {
        Pass { gate: self }
    }

    /// Waits until all have left, with nobody entering any more. Sleeps.
    pub(super) fn drain(&self) {
        while self.inside.load(ordering::Acquire) != 0 {
            fsleep(Delta::from_millis(1));
        }
        // The last one has dropped its pass, but may have been preempted
        // before it returned. A task leaves this grace period only after it
        // gave up the CPU by itself, which it doesn't do on that way. Waiting
        // for it includes waiting for bottom halves, also on an idle CPU.
        // SAFETY: It may be called wherever one may sleep.
        unsafe { raw::xfrm_next_synchronize_rcu_tasks() };
    }
}

/// Stands for one call, from where it was let in.
pub struct Pass {
    gate: &'static Gate,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.inside.fetch_sub(1, ordering::Release);
    }
}

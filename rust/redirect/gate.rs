// SPDX-License-Identifier: GPL-2.0

//! Knowing when the last redirected call has left the module.
//!
//! A call is counted before its instruction pointer is changed, so none can be in our
//! text uncounted, but for the last instructions after it has given up its [`Pass`]:
//! for those there is the [`TextBarrier`](crate::net::TextBarrier).

use super::Target;
use core::{marker::PhantomData, ptr};
use kernel::{
    prelude::*,
    sync::atomic::{ordering, Atomic},
    time::{delay::fsleep, Delta},
};

/// Counts the calls of one [`Target`] that are under way. It is a `static`: the
/// replacement, which the kernel calls, knows no other place.
pub struct Gate {
    /// How many.
    inside: Atomic<i32>,
    /// The address of the [`Target`] whose calls these are, or 0.
    target: Atomic<usize>,
}

impl Gate {
    /// Makes a gate that nobody has passed, for a `static`.
    pub const fn new() -> Self {
        Self {
            inside: Atomic::new(0),
            target: Atomic::new(0),
        }
    }

    /// Makes it that of `target`, before the first call. Fails with `EBUSY` if
    /// it is another one's.
    pub(super) fn open<T: Target>(&self, target: *const T) -> Result {
        let address = target.expose_provenance();
        match self.target.cmpxchg(0, address, ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => Err(EBUSY),
        }
    }

    /// Makes it nobody's, after the last call.
    pub(super) fn close(&self) {
        self.target.store(0, ordering::Relaxed);
    }

    /// Lets a call in; its [`Pass`] lets it out. Any context.
    pub(super) fn enter(&self) {
        self.inside.add(1, ordering::Relaxed);
    }

    /// Takes over the pass of a call that has been let in.
    ///
    /// # Safety
    ///
    /// `T` has this gate, and [`Gate::enter`] was called once for each pass.
    pub(super) unsafe fn pass<T: Target>(&'static self) -> Pass<T> {
        Pass {
            gate: self,
            _target: PhantomData,
        }
    }

    /// Waits until all have dropped their passes, with nobody entering any more. Sleeps.
    pub(super) fn drain(&self) {
        while self.inside.load(ordering::Acquire) != 0 {
            fsleep(Delta::from_millis(1));
        }
    }
}

/// Stands for one call, from where it was let in.
///
/// # Invariants
///
/// `gate` is that of `T`, and counts this call.
pub struct Pass<T: Target> {
    gate: &'static Gate,
    _target: PhantomData<T>,
}

impl<T: Target> Pass<T> {
    /// Returns the target whose call this is. Any context.
    pub fn target(&self) -> &T {
        let address = self.gate.target.load(ordering::Relaxed);
        // SAFETY: `open` has set it before the call was let in; the target is
        // there until the gate counts no call.
        unsafe { &*ptr::with_exposed_provenance(address) }
    }
}

impl<T: Target> Drop for Pass<T> {
    fn drop(&mut self) {
        self.gate.inside.fetch_sub(1, ordering::Release);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Work that a worker does a while after it has been asked for.
//!
//! The `kernel` crate's own can't be cancelled, which the end of a namespace needs.
//!
//! C header: `include/linux/workqueue.h`

use crate::raw;
use core::{ops::Deref, pin::Pin};
use kernel::{
    prelude::*,
    time::{msecs_to_jiffies, Msecs},
    types::Opaque,
};

/// What there is to do, again and again.
pub trait Work: Send + Sync {
    /// How long to wait before it is done.
    const DELAY: Msecs;

    /// Does it. Returns after how long it is to be done again, if it is. May sleep.
    fn run(&self) -> Option<Msecs>;
}

/// [`Work`] that is done when it has been asked for. Dropping it, which may sleep, waits
/// if it is being done, and then drops what it is about.
///
/// # Invariants
///
/// `work` has been initialized, to call `Self::call`.
///
/// # Examples
///
/// ```ignore
/// struct Heap(SpinLock<KVec<Leaf>>);
///
/// impl Work for Heap {
///     const DELAY: Msecs = 100;
///
///     fn run(&self) -> Option<Msecs> {
///         let leaves = core::mem::take(&mut *self.0.lock());
///         drop(leaves);
///         None
///     }
/// }
/// ```
#[repr(C)]
#[pin_data(PinnedDrop)]
pub struct Delayed<T: Work> {
    #[pin]
    work: Opaque<raw::delayed_work>,
    #[pin]
    inner: T,
}

// SAFETY: The work has a lock of its own, and may be queued by anybody.
unsafe impl<T: Work> Send for Delayed<T> {}
// SAFETY: As above; `T` is `Sync`.
unsafe impl<T: Work> Sync for Delayed<T> {}

impl<T: Work> Delayed<T> {
    /// Makes it, with nothing asked for yet.
    pub fn new(inner: impl PinInit<T, Error>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inner <- inner,
            // INVARIANT: It is pinned, so that it stays where it is.
            work <- Opaque::ffi_init(|work| {
                // SAFETY: It is ours to write, and the function is one for it.
                unsafe { raw::xfrm_next_init_delayed_work(work, Some(Self::call)) }
            }),
        }? Error)
    }

    /// Asks for it, if that hasn't been done. Any context.
    pub fn ask(&self) {
        self.ask_in(T::DELAY);
    }

    fn ask_in(&self, delay: Msecs) {
        // SAFETY: By the type invariant; it is cancelled before it goes.
        unsafe {
            raw::xfrm_next_queue_delayed_work(self.work.get(), msecs_to_jiffies(delay));
        }
    }

    /// Asks for it, also if that has been done for another time. Any context.
    pub fn ask_anew(&self) {
        // SAFETY: As above.
        unsafe {
            raw::xfrm_next_mod_delayed_work(self.work.get(), msecs_to_jiffies(T::DELAY));
        }
    }

    /// # Safety
    ///
    /// For the worker, with the work of a `Self`.
    unsafe extern "C" fn call(work: *mut raw::work_struct) {
        // SAFETY: The caller promises it: the work is the first field of the first field.
        // Dropping it waits for us.
        let this = unsafe { &*work.cast::<Self>() };
        if let Some(delay) = this.inner.run() {
            this.ask_in(delay);
        }
    }
}

const _: () = assert!(core::mem::offset_of!(raw::delayed_work, work) == 0);

impl<T: Work> Deref for Delayed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

#[pinned_drop]
impl<T: Work> PinnedDrop for Delayed<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant. Nobody asks for it any more, which would borrow
        // us, but for itself: that is seen to.
        unsafe { raw::cancel_delayed_work_sync(self.work.get()) };
    }
}

/// Lets others have the CPU, if they wait for it. Sleeps.
pub fn yield_cpu() {
    // SAFETY: It may be called wherever one may sleep.
    unsafe { raw::xfrm_next_cond_resched() }
}

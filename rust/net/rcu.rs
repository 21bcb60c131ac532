// SPDX-License-Identifier: GPL-2.0

//! Values that are read under RCU, and exchanged meanwhile.
//!
//! C header: `include/linux/rcupdate.h`

use crate::raw;
use core::{marker::PhantomData, ptr};
use kernel::{
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        rcu,
    },
    types::Opaque,
};

/// That a read-side critical section lasts for `'a`, whoever has entered it.
///
/// It is what [`rcu::Guard`] stands for, also where the kernel calls us in one.
///
/// # Invariants
///
/// It lasts for `'a`.
#[derive(Clone, Copy)]
pub struct Held<'a>(PhantomData<&'a rcu::Guard>);

impl Held<'_> {
    /// Takes note of one that the caller is in.
    ///
    /// # Safety
    ///
    /// It has to last for as long as what is returned is used, and what has been
    /// read by it.
    pub unsafe fn assume() -> Self {
        // INVARIANT: As the caller promises.
        Self(PhantomData)
    }
}

impl<'a> From<&'a rcu::Guard> for Held<'a> {
    fn from(_guard: &'a rcu::Guard) -> Self {
        // INVARIANT: It lasts until the guard is dropped.
        Self(PhantomData)
    }
}

/// A place for a value that is read under RCU.
///
/// A value that is replaced or taken away is dropped after a grace period, in a
/// bottom half; the module's text may go only after an [`RcuBarrier`](super::RcuBarrier).
///
/// # Invariants
///
/// The pointer is null or that of a box which is ours; once it has been replaced
/// it is freed after a grace period.
///
/// # Examples
///
/// ```ignore
/// struct Handle {
///     device: ARef<Device>,
///     handle: usize,
/// }
///
/// struct Place(Shared<Handle>);
///
/// impl Place {
///     fn fill(&self, device: &Device) -> Result {
///         // What can fail comes before what others see.
///         let room = Room::new()?;
///         let handle = ask_for_handle(device)?;
///         let device = device.into();
///         self.0.set(room, Handle { device, handle });
///         Ok(())
///     }
///
///     fn handle(&self, rcu: Held<'_>) -> usize {
///         self.0.read(rcu).map_or(0, |there| there.handle)
///     }
/// }
///
/// fn show(place: &Place) -> usize {
///     let guard = rcu::read_lock();
///     place.handle(Held::from(&guard))
/// }
/// ```
#[repr(transparent)]
pub struct Shared<T: Send + Sync + 'static>(Atomic<*mut Node<T>>);

#[repr(C)]
struct Node<T> {
    rcu: Opaque<raw::callback_head>,
    value: T,
}

// SAFETY: The head is used by nobody but RCU, after the node has been given away.
unsafe impl<T: Send> Send for Node<T> {}
// SAFETY: As above.
unsafe impl<T: Sync> Sync for Node<T> {}

/// Memory for a value, so that putting it somewhere can't fail.
pub struct Room<T: Send + Sync + 'static>(KBox<core::mem::MaybeUninit<Node<T>>>);

impl<T: Send + Sync + 'static> Room<T> {
    /// Makes room. May sleep. Fails with `ENOMEM`.
    pub fn new() -> Result<Self> {
        Ok(Self(KBox::new_uninit(GFP_KERNEL)?))
    }
}

// SAFETY: The boxes that it owns may be read and freed by anybody.
unsafe impl<T: Send + Sync + 'static> Send for Shared<T> {}
// SAFETY: The pointer is read and exchanged atomically, and `T` is `Sync`.
unsafe impl<T: Send + Sync + 'static> Sync for Shared<T> {}

impl<T: Send + Sync + 'static> Shared<T> {
    /// Makes a place without a value.
    pub const fn empty() -> Self {
        // INVARIANT: It is null.
        Self(Atomic::new(ptr::null_mut()))
    }

    /// Whether there is no value now; what was done before it was taken away is
    /// seen then. Any context.
    pub fn is_empty(&self) -> bool {
        self.0.load(ordering::Acquire).is_null()
    }

    /// Returns the value of now. Any context. Mirrors `rcu_dereference()`.
    pub fn read<'a>(&'a self, _rcu: impl Into<Held<'a>>) -> Option<&'a T> {
        // SAFETY: As rcu_dereference() does it, without the call of a helper. By
        // the type invariant it is null or a box of ours, which isn't freed before
        // the reader has left its critical section.
        unsafe { self.0.as_ptr().read_volatile().as_ref() }.map(|node| &node.value)
    }

    /// Puts a value here, in place of one that is there. Any context. Mirrors
    /// `rcu_replace_pointer()`.
    pub fn set(&self, room: Room<T>, value: T) {
        let node = Node {
            rcu: Opaque::zeroed(),
            value,
        };
        self.exchange(KBox::into_raw(KBox::write(room.0, node)));
    }

    /// Takes the value away. Any context.
    pub fn clear(&self) {
        self.exchange(ptr::null_mut());
    }

    /// The new pointer is null, or that of a box that is given to us.
    fn exchange(&self, new: *mut Node<T>) {
        // INVARIANT: As above; the old one is freed after a grace period.
        let old = self.0.xchg(new, ordering::Full);
        if !old.is_null() {
            // SAFETY: It was ours, and nobody finds it any more. The head is its
            // first field, and `free` knows its type.
            unsafe { raw::xfrm_next_call_rcu(old.cast(), Some(free::<T>)) }
        }
    }
}

impl<T: Send + Sync + 'static> Drop for Shared<T> {
    fn drop(&mut self) {
        let node = self.0.load(ordering::Relaxed);
        if !node.is_null() {
            // SAFETY: It is ours, and nobody reads it: that would borrow us.
            drop(unsafe { KBox::from_raw(node) });
        }
    }
}

/// RCU calls this after a grace period, in a bottom half.
///
/// # Safety
///
/// `head` is that of a node of this type, given to RCU by [`Shared::exchange`].
unsafe extern "C" fn free<T>(head: *mut raw::callback_head) {
    // SAFETY: The caller promises it; the head is the first field.
    drop(unsafe { KBox::from_raw(head.cast::<Node<T>>()) });
}

#[kernel::macros::kunit_tests(xfrm_next_rcu)]
mod tests {
    use super::*;
    use crate::net::RcuBarrier;
    use kernel::sync::Arc;

    fn value(shared: &Shared<Arc<i32>>) -> Option<i32> {
        shared.read(&rcu::read_lock()).map(|value| **value)
    }

    #[test]
    fn replaced_values_are_freed() -> Result {
        let (first, second) = (Arc::new(1, GFP_KERNEL)?, Arc::new(2, GFP_KERNEL)?);
        let shared = Shared::empty();
        assert_eq!(value(&shared), None);

        shared.set(Room::new()?, first.clone());
        assert_eq!(value(&shared), Some(1));
        shared.set(Room::new()?, second.clone());
        assert_eq!(value(&shared), Some(2));
        drop(RcuBarrier);
        assert!(Arc::into_unique_or_drop(first).is_some());

        drop(shared);
        assert!(Arc::into_unique_or_drop(second).is_some());
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The RTNL, which what devices are and how they are linked is changed under.
//!
//! C header: `include/linux/rtnetlink.h`

use super::Device;
use crate::raw;
use core::{marker::PhantomData, ops::Deref, ptr};
use kernel::types::NotThreadSafe;

/// Evidence that the RTNL is held by this task.
///
/// # Invariants
///
/// It is held while this is borrowed.
///
/// # Examples
///
/// ```ignore
/// fn show_lowers(upper: &Device) {
///     let rtnl = Rtnl::lock();
///     for lower in rtnl.lowers(upper) {
///         pr_info!("{} is below {}\n", lower.name(&rtnl), upper.name(&rtnl));
///     }
/// }
/// ```
pub struct Rtnl(NotThreadSafe);

/// The RTNL, to be given up when this is dropped.
///
/// # Invariants
///
/// It is held.
pub struct Guard(Rtnl);

impl Deref for Guard {
    type Target = Rtnl;

    fn deref(&self) -> &Rtnl {
        &self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { raw::rtnl_unlock() }
    }
}

impl Rtnl {
    /// Takes it. Sleeps; none of the module's other locks may be held.
    pub fn lock() -> Guard {
        // SAFETY: It may be called wherever one may sleep.
        unsafe { raw::rtnl_lock() };
        // INVARIANT: Just done.
        Guard(Self(NotThreadSafe))
    }

    /// Borrows what a caller holds.
    ///
    /// # Safety
    ///
    /// It must be held by this task during `'a`.
    pub unsafe fn assume<'a>() -> &'a Self {
        // SAFETY: It has no size, and the caller promises what it stands for.
        unsafe { ptr::NonNull::<Self>::dangling().as_ref() }
    }

    /// Returns the device that `lower` is a slave of, if it is one.
    pub fn master<'a>(&'a self, lower: &'a Device) -> Option<&'a Device> {
        // SAFETY: Links don't change under RTNL, and keep what they are between.
        unsafe {
            let master = raw::netdev_master_upper_dev_get(lower.as_ptr());
            (!master.is_null()).then(|| Device::from_raw(master))
        }
    }

    /// Returns the devices below `upper`, those next to it only.
    pub fn lowers<'a>(&'a self, upper: &'a Device) -> Lowers<'a> {
        Lowers {
            upper,
            // SAFETY: The device is valid.
            at: unsafe { (*upper.as_ptr()).adj_list.lower.next },
            _rtnl: PhantomData,
        }
    }
}

/// The devices below one: what [`Rtnl::lowers`] returns.
///
/// # Invariants
///
/// `at` is in the list of `upper`.
pub struct Lowers<'a> {
    upper: &'a Device,
    at: *mut raw::list_head,
    _rtnl: PhantomData<&'a Rtnl>,
}

impl<'a> Iterator for Lowers<'a> {
    type Item = &'a Device;

    fn next(&mut self) -> Option<&'a Device> {
        // SAFETY: By the type invariant; links don't change under RTNL, and keep
        // what they are between.
        unsafe {
            let lower = raw::netdev_lower_get_next(self.upper.as_ptr(), &mut self.at);
            (!lower.is_null()).then(|| Device::from_raw(lower.cast()))
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Network devices.
//!
//! C header: `include/linux/netdevice.h`

use super::{Namespace, Rtnl};
use crate::raw;
use core::{
    fmt::{self, Write},
    ops::{BitOr, Sub},
    ptr::NonNull,
};
use kernel::{sync::aref::AlwaysRefCounted, types::Opaque};

/// A network device, `struct net_device`.
///
/// A reference in an `ARef` delays the end of the device: who has one gives it up
/// when the device goes ([`Event::Goes`](super::notifier::Event::Goes)).
///
/// # Invariants
///
/// It is valid, and isn't freed, while it is borrowed.
///
/// # Examples
///
/// Asking for all that a device can do of ESP:
///
/// ```ignore
/// fn enable(rtnl: &Rtnl, device: &Device) {
///     device.want_esp(rtnl, device.possible_esp(rtnl), Esp::NONE);
///     if !device.esp().offloads() {
///         pr_warn!("{}: no ESP offload\n", device.name(rtnl));
///     }
/// }
/// ```
#[repr(transparent)]
pub struct Device(Opaque<raw::net_device>);

// SAFETY: The last reference may be given up anywhere.
unsafe impl Send for Device {}
// SAFETY: What others may write meanwhile is read by volatile accesses, or with
// the RTNL held.
unsafe impl Sync for Device {}

// SAFETY: The device has a reference count, and lives while that isn't 0.
unsafe impl AlwaysRefCounted for Device {
    fn inc_ref(&self) {
        // SAFETY: A shared reference means that the device is valid.
        unsafe { raw::xfrm_next_dev_hold(self.as_ptr()) }
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up a count of its own.
        unsafe { raw::xfrm_next_dev_put(obj.as_ptr().cast()) }
    }
}

impl Device {
    /// Borrows a device.
    ///
    /// # Safety
    ///
    /// `ptr` must be valid, and the device must not be freed during `'a`.
    pub unsafe fn from_raw<'a>(ptr: *mut raw::net_device) -> &'a Self {
        // SAFETY: The caller promises that it is valid; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    /// For functions of the kernel.
    pub(crate) fn as_ptr(&self) -> *mut raw::net_device {
        self.0.get()
    }

    /// Whether both are one device. Any context.
    pub fn is(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }

    /// Returns what tells it from others. Any context.
    pub fn identity(&self) -> Identity {
        Identity(self.as_ptr().addr())
    }

    /// Returns the namespace that the device is in. It stays there under RTNL, which the
    /// end of a namespace takes to remove its devices before modules' data go.
    pub fn net<'a>(&'a self, _rtnl: &'a Rtnl) -> &'a Namespace {
        // SAFETY: The device is valid, and so its namespace is, for the above reason.
        unsafe { Namespace::from_raw(raw::xfrm_next_dev_net(self.as_ptr())) }
    }

    /// Returns the number that requests name the device by, in its namespace. Any
    /// context.
    pub fn ifindex(&self) -> i32 {
        // SAFETY: The device is valid; the number changes only when it moves to
        // another namespace.
        unsafe { (&raw const (*self.as_ptr()).ifindex).read_volatile() }
    }

    /// Returns the name, which doesn't change under RTNL.
    pub fn name(&self, _rtnl: &Rtnl) -> Name {
        // SAFETY: The device is valid, and nobody renames it meanwhile.
        let name = unsafe { (*self.as_ptr()).name };
        Name(name)
    }

    /// Returns what the device does of ESP now. Any context.
    pub fn esp(&self) -> Esp {
        // SAFETY: The device is valid, and features are written at once.
        Esp::of(unsafe { (&raw const (*self.as_ptr()).features).read_volatile() })
    }

    /// Returns what the device could do of ESP if it was asked to.
    pub fn possible_esp(&self, _rtnl: &Rtnl) -> Esp {
        // SAFETY: The device is valid, and RTNL protects its features.
        Esp::of(unsafe { (*self.as_ptr()).hw_features })
    }

    /// Asks the device to do more or less of ESP, as `ethtool -K` does, and
    /// tells everybody if that changes anything: [`Event::Features`] comes before it
    /// returns. It may not do all of it. Sleeps.
    ///
    /// The lock of the device's operations must not be held by the caller. Mirrors
    /// `ethtool_set_features()` of `net/ethtool/ioctl.c`.
    ///
    /// [`Event::Features`]: super::notifier::Event::Features
    pub fn want_esp(&self, rtnl: &Rtnl, more: Esp, less: Esp) {
        // SAFETY: The device is valid, and unlocked below.
        let locked = unsafe {
            raw::xfrm_next_netdev_lock_ops(self.as_ptr());
            OpsLocked::assume(self)
        };
        locked.want_esp(rtnl, more, less);
        // SAFETY: It has been locked above.
        unsafe { raw::xfrm_next_netdev_unlock_ops(self.as_ptr()) };
    }

    /// Returns the name, for messages: while somebody renames the device, it may be a part of
    /// either name. Any context.
    pub fn name_of_now(&self) -> Name {
        // SAFETY: The device is valid; any bytes are a name.
        Name(unsafe { (&raw const (*self.as_ptr()).name).read_volatile() })
    }
}

/// That the lock of a device's operations is held.
///
/// # Invariants
///
/// It is, and the device valid, while this is borrowed.
pub struct OpsLocked(NonNull<raw::net_device>);

impl OpsLocked {
    /// Takes note of it.
    ///
    /// # Safety
    ///
    /// The lock has to be held whenever what is returned is used, and the device be valid.
    pub(super) unsafe fn assume(device: &Device) -> Self {
        // INVARIANT: As the caller promises.
        Self(NonNull::from(device).cast())
    }

    /// Does [`Device::want_esp`] under the lock.
    pub fn want_esp(&self, _rtnl: &Rtnl, more: Esp, less: Esp) {
        let dev = self.0.as_ptr();
        // SAFETY: By the type invariant the device is valid. RTNL and the lock protect its
        // features.
        unsafe {
            (*dev).wanted_features = ((*dev).wanted_features | more.0) & !less.0;
            raw::netdev_update_features(dev);
        }
    }
}

/// What tells a device from all others that are there: another one may have it when that has
/// gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity(usize);

impl Identity {
    /// The first one in their order.
    pub const FIRST: Self = Self(0);

    /// Returns the next one in their order, which may be nobody's.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// What a device does of ESP: a set of `NETIF_F_HW_ESP`, the ciphers, and
/// `NETIF_F_HW_ESP_TX_CSUM` and `NETIF_F_GSO_ESP`, which are of use with them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Esp(u64);

impl Esp {
    /// Nothing.
    pub const NONE: Self = Self(0);

    fn of(features: u64) -> Self {
        // SAFETY: It returns a constant.
        Self(features & unsafe { raw::xfrm_next_esp_features() })
    }

    /// Whether ESP's ciphers are the device's.
    pub fn offloads(self) -> bool {
        // SAFETY: It returns a constant.
        self.0 & unsafe { raw::xfrm_next_hw_esp_feature() } != 0
    }

    /// Returns what of it is `NETIF_F_GSO_ESP`: segmenting before the ciphers.
    pub fn segmentation(self) -> Self {
        // SAFETY: It returns a constant.
        Self(self.0 & unsafe { raw::xfrm_next_gso_esp_feature() })
    }

    /// Whether all of `other` is in it.
    pub fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// Whether it is nothing at all.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Esp {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Sub for Esp {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// The name of a device, copied.
pub struct Name([u8; 16]);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .take_while(|&&byte| byte != 0)
            .try_for_each(|&byte| f.write_char(byte.into()))
    }
}

// The kernel's own macros for messages ask for this one.
impl kernel::fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[kernel::macros::kunit_tests(xfrm_next_device)]
mod tests {
    use super::*;
    use kernel::{prelude::*, str::CString};

    #[test]
    fn esp_is_a_set() {
        let all = Esp::of(u64::MAX);
        // SAFETY: It returns a constant.
        let ciphers = Esp::of(unsafe { raw::xfrm_next_hw_esp_feature() });
        let rest = all - ciphers;
        let segmentation = all.segmentation();
        assert!(!segmentation.is_none() && rest.contains(segmentation) && rest != segmentation);
        assert!(all.offloads() && ciphers.offloads() && !rest.offloads());
        assert!(!rest.is_none() && (rest - all).is_none());
        assert!(all.contains(rest) && !rest.contains(all) && rest.contains(Esp::NONE));
        assert!((rest | ciphers) == all);
    }

    #[test]
    fn other_features_do_not_count() {
        // SAFETY: It returns a constant.
        let all = unsafe { raw::xfrm_next_esp_features() };
        assert!(Esp::of(!all).is_none());
    }

    #[test]
    fn names_end_where_they_end() -> Result {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(b"eth0");
        for (bytes, text) in [(bytes, c"eth0"), ([b'x'; 16], c"xxxxxxxxxxxxxxxx")] {
            let shown = CString::try_from_fmt(fmt!("{}", Name(bytes)))?;
            assert_eq!(&*shown, text);
        }
        Ok(())
    }
}

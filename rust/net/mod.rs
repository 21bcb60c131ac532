// SPDX-License-Identifier: GPL-2.0

//! Networking: namespaces, their sysctls and files, netlink; devices, and what happens to
//! them.
//!
//! Nothing here knows of IPsec but [`device::Esp`], a part of a device's features.
//! What only offload on bonds needs is built only with it.

mod barrier;
pub mod bh;
#[cfg(XFRM_NEXT_LAG)]
pub mod bonding;
#[cfg(XFRM_NEXT_LAG)]
pub mod device;
pub mod extack;
mod grace_period;
pub mod message;
pub mod namespace;
pub mod netlink;
#[cfg(XFRM_NEXT_LAG)]
pub mod notifier;
pub mod proc;
#[cfg(XFRM_NEXT_LAG)]
pub mod rcu;
#[cfg(XFRM_NEXT_LAG)]
pub mod rtnl;
pub mod sysctl;
pub mod work;

#[cfg(XFRM_NEXT_LAG)]
pub use barrier::RcuBarrier;
pub use barrier::TextBarrier;
#[cfg(XFRM_NEXT_LAG)]
pub use device::Device;
pub use extack::ExtAck;
pub use grace_period::GracePeriod;
pub use message::Message;
pub use namespace::Namespace;
#[cfg(XFRM_NEXT_LAG)]
pub use rtnl::Rtnl;

use kernel::prelude::*;

/// Whether a message that anybody can cause may go to the log now. Any context. Mirrors
/// `net_ratelimit()`.
#[cfg(XFRM_NEXT_LAG)]
pub fn may_log() -> bool {
    // SAFETY: It may be called anywhere.
    unsafe { crate::raw::net_ratelimit() != 0 }
}

/// A warning that anybody can cause, now and then. Mirrors `net_warn_ratelimited()`.
#[cfg(XFRM_NEXT_LAG)]
macro_rules! warn_ratelimited {
    ($($arg:tt)*) => {
        if $crate::net::may_log() {
            kernel::pr_warn!($($arg)*)
        }
    };
}
#[cfg(XFRM_NEXT_LAG)]
pub(crate) use warn_ratelimited;

/// Returns `EAFNOSUPPORT`, for which Linux 7.2's `kernel` crate has no constant.
pub fn no_such_family() -> Error {
    Error::from_errno(-(kernel::bindings::EAFNOSUPPORT as i32))
}

/// Returns `EOPNOTSUPP`, likewise.
#[cfg(XFRM_NEXT_LAG)]
pub fn not_supported() -> Error {
    Error::from_errno(-(kernel::bindings::EOPNOTSUPP as i32))
}

// SPDX-License-Identifier: GPL-2.0

//! Networking: namespaces, their sysctls, netlink.

pub mod extack;
pub mod message;
pub mod namespace;
pub mod netlink;
pub mod sysctl;

pub use extack::ExtAck;
pub use message::Message;
pub use namespace::Namespace;

use kernel::prelude::*;

/// Returns `EAFNOSUPPORT`, for which Linux 7.2's `kernel` crate has no constant.
pub fn no_such_family() -> Error {
    Error::from_errno(-(kernel::bindings::EAFNOSUPPORT as i32))
}

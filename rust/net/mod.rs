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

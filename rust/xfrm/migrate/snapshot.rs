// SPDX-License-Identifier: GPL-2.0

//! What a feature needs to know of an SA, as plain values.
//!
//! Nothing here depends on the kernel, so that what is decided by it can be tested
//! anywhere. [`Found::snapshot`] takes one; [`NewState::clone_of`] applies changes.
//!
//! [`Found::snapshot`]: super::Found::snapshot
//! [`NewState::clone_of`]: super::NewState::clone_of

use crate::xfrm::uapi::{Address, Encap, Mark, Offload, Selector};

/// An SA at one moment.
///
/// The values change only by requests to the SAD, which `xfrm_cfg_mutex`
/// keeps apart; hence they still hold for a handler that took them.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Destination.
    pub daddr: Address,
    /// Source.
    pub saddr: Address,
    /// Family of both.
    pub family: u16,
    /// ESP, AH, IPComp or one of the kernel's own.
    pub proto: u8,
    /// `XFRM_STATE_*` flags.
    pub flags: u8,
    /// `XFRM_SA_DIR_*`, 0 if the SA has no direction.
    pub dir: u8,
    /// Selector.
    pub selector: Selector,
    /// Mark by which the SA is found.
    pub mark: Mark,
    /// Mark that its packets get.
    pub output_mark: Mark,
    /// Encapsulation.
    pub encap: Option<Encap>,
    /// Seconds between reports of a changed NAT mapping.
    pub mapping_maxage: u32,
    /// Seconds between NAT keepalives.
    pub nat_keepalive: u32,
    /// Offload, as a request for it would say.
    pub offload: Option<Offload>,
    /// Whether it waits for its keys.
    pub larval: bool,
    /// Whether the kernel made it for other SAs' use.
    pub kernel_owned: bool,
}

/// How a new SA differs from the one that it is a clone of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Destination.
    pub daddr: Address,
    /// Source.
    pub saddr: Address,
    /// Family of both.
    pub family: u16,
    /// What its policies name it by, 0 for nothing.
    pub reqid: u32,
    /// Selector.
    pub selector: Selector,
    /// Mark by which the SA is found.
    pub mark: Mark,
    /// Mark that its packets get.
    pub output_mark: Mark,
    /// Encapsulation.
    pub encap: Option<Encap>,
    /// Seconds between reports of a changed NAT mapping, 0 for each.
    pub mapping_maxage: u32,
    /// Seconds between NAT keepalives, 0 for none.
    pub nat_keepalive: u32,
}

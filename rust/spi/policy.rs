// SPDX-License-Identifier: GPL-2.0

//! With whom a newly allocated SPI may not be shared.
//!
//! RFC 2401 tells SAs by destination, SPI and protocol; RFC 4301 lets the SPI
//! suffice for unicast. Here the administrator of a namespace decides. Nothing
//! in this file depends on the kernel.

use crate::xfrm::uapi::{Id, SA_DIR_IN, SA_DIR_OUT};

/// The values of `net.xfrm_next.spi_scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// 0: RFC 2401, for everybody.
    Destination,
    /// 1: who says that the SA is for receiving gets an SPI that no other SA
    /// for receiving has; all others get what 0 gives them.
    Direction,
    /// 2: RFC 4301, for everybody, as Linux 7.3 has it.
    Namespace,
}

impl Scope {
    /// Smallest value.
    pub const MIN: i32 = 0;
    /// Value until somebody sets one.
    pub const DEFAULT: i32 = 1;
    /// Largest value.
    pub const MAX: i32 = 2;

    /// Returns the scope for a value of the sysctl.
    pub fn new(value: i32) -> Self {
        match value {
            0 => Self::Destination,
            1 => Self::Direction,
            _ => Self::Namespace,
        }
    }

    /// Returns the rule for a request with this `XFRMA_SA_DIR`; `None` if it
    /// has none, as with PF_KEY, which doesn't know it.
    pub fn rule(self, dir: Option<u8>) -> Rule {
        match (self, dir) {
            (Self::Namespace, _) => Rule::Namespace,
            (Self::Direction, Some(SA_DIR_IN)) => Rule::Inbound,
            _ => Rule::Destination,
        }
    }
}

/// Which SAs are in the way of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Those with the same destination, SPI and protocol.
    Destination,
    /// Those, and all with the same SPI and protocol that aren't marked as
    /// outbound.
    Inbound,
    /// All with the same SPI and protocol.
    Namespace,
}

impl Rule {
    /// Whether an SA stands in the way of giving out `wanted`. `dir` is the
    /// SA's, one of `XFRM_SA_DIR_*`, or 0 if it has none.
    pub fn forbids(self, wanted: &Id, sa: &Id, dir: u8) -> bool {
        wanted.spi == sa.spi
            && wanted.proto == sa.proto
            && (same_destination(wanted, sa)
                || match self {
                    Self::Destination => false,
                    Self::Inbound => dir != SA_DIR_OUT,
                    Self::Namespace => true,
                })
    }

    /// Whether SAs with other destinations matter.
    pub fn looks_beyond_destination(self) -> bool {
        self != Self::Destination
    }
}

fn same_destination(a: &Id, b: &Id) -> bool {
    a.family == b.family && a.daddr.equals(&b.daddr, a.family)
}

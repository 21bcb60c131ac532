// SPDX-License-Identifier: GPL-2.0

//! Every reason for which a request is refused: its errno and its text.

use core::fmt;

/// Why a request is refused. Nothing has been changed then.
///
/// The texts of the upper half are those of the C handler; the lower half is
/// what only this handler refuses (docs/differences.md says why).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The id names no SPI.
    ZeroSpi,
    /// The reserved field is in use.
    Reserved,
    /// Flag bits without a meaning; holds just those.
    UnknownFlags(u32),
    /// The new family is neither IPv4 nor IPv6.
    Family,
    /// A prefix of the new selector is longer than an IPv4 address.
    Prefix4,
    /// A prefix of the new selector is longer than an IPv6 address.
    Prefix6,
    /// The new selector's family is neither IPv4 nor IPv6.
    SelectorFamily,
    /// IPv6 is asked for and the kernel has none.
    NoIpv6,
    /// No SA has the id and the mark.
    NotFound,
    /// The selector to be derived isn't a pair of single hosts now.
    NotHostToHost,
    /// Neither UDP encapsulation nor its removal.
    EncapType,
    /// A NAT mapping threshold without encapsulation.
    MtimerWithoutEncap,
    /// A NAT mapping threshold for an SA that only sends.
    MtimerOnOutput,
    /// A keepalive interval without encapsulation.
    KeepaliveWithoutEncap,
    /// Another SA has the new destination, SPI, protocol and mark.
    Occupied,
    /// The SA went away while the request ran.
    Deleted,

    /// Offload is both set and cleared.
    OffloadTwice,
    /// A mask for an output mark that isn't there.
    LoneMask,
    /// A UDP port of the encapsulation is 0.
    EncapPort,
    /// The SA is neither ESP nor AH nor IPComp.
    Protocol,
    /// The SA belongs to other SAs, not to user space.
    KernelOwned,
    /// The SA has no keys yet.
    Larval,
}

/// The errno of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// `EAFNOSUPPORT`
    AfNoSupport,
    /// `EEXIST`
    Exist,
    /// `EINVAL`
    Inval,
    /// `EPERM`
    Perm,
    /// `ESRCH`
    Srch,
}

impl Refusal {
    /// The errno that goes with the text.
    pub fn errno(self) -> Errno {
        match self {
            Self::NoIpv6 => Errno::AfNoSupport,
            Self::NotFound | Self::Deleted => Errno::Srch,
            Self::Occupied => Errno::Exist,
            Self::KernelOwned => Errno::Perm,
            _ => Errno::Inval,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownFlags(bits) => return write!(f, "Unknown flags: {bits:#x}"),
            Self::ZeroSpi => "Invalid SPI 0x0",
            Self::Reserved => "Reserved field must be zero",
            Self::Family => "Invalid address family",
            Self::Prefix4 => "Invalid prefix length in selector (must be <= 32 for IPv4)",
            Self::Prefix6 => "Invalid prefix length in selector (must be <= 128 for IPv6)",
            Self::SelectorFamily => "Invalid address family in selector",
            Self::NoIpv6 => "IPv6 support disabled",
            Self::NotFound => "Can not find state",
            Self::NotHostToHost => "SA selector is not a single-host match for SA addresses",
            Self::EncapType => "Unsupported encapsulation type",
            Self::MtimerWithoutEncap => "MTIMER_THRESH requires encapsulation",
            Self::MtimerOnOutput => "MTIMER_THRESH should not be set on output SA",
            Self::KeepaliveWithoutEncap => "NAT_KEEPALIVE_INTERVAL requires encapsulation",
            Self::Occupied => "New SA tuple already occupied",
            Self::Deleted => "State already deleted",
            Self::OffloadTwice => "OFFLOAD_DEV and the CLEAR_OFFLOAD flag exclude each other",
            Self::LoneMask => "SET_MARK_MASK requires SET_MARK",
            Self::EncapPort => "Encapsulation ports must not be zero",
            Self::Protocol => "Only ESP, AH and IPComp SAs can be migrated",
            Self::KernelOwned => "SA is in use by tunnels",
            Self::Larval => "Can not migrate a larval SA",
        })
    }
}

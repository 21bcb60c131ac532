// SPDX-License-Identifier: GPL-2.0

//! The structures that user space sees, as `include/uapi/linux/xfrm.h` has
//! them.
//!
//! Host byte order, except for addresses, SPIs and ports: those are kept as
//! the bytes that are on the wire. `state/layout.rs` checks the layouts against
//! the kernel's headers when the module is built; nothing here depends on the
//! kernel, so that the logic on top can be tested anywhere.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Message type of `XFRM_MSG_NEWSA`.
pub const MSG_NEWSA: u16 = 16;
/// Message type of `XFRM_MSG_ALLOCSPI`.
pub const MSG_ALLOCSPI: u16 = 22;
/// Message type of `XFRM_MSG_MIGRATE_STATE`.
pub const MSG_MIGRATE_STATE: u16 = 41;
/// Multicast group in which migrations are announced, `XFRMNLGRP_MIGRATE`.
pub const GROUP_MIGRATE: u32 = 7;

/// Attribute types of `enum xfrm_attr_type_t`.
pub mod attr {
    /// `struct xfrm_encap_tmpl`.
    pub const ENCAP: u16 = 4;
    /// `struct xfrm_user_sec_ctx`, and the text of the context.
    pub const SEC_CTX: u16 = 8;
    /// `struct xfrm_replay_state`.
    pub const REPLAY_VAL: u16 = 10;
    /// `struct xfrm_mark`.
    pub const MARK: u16 = 21;
    /// `struct xfrm_user_offload`.
    pub const OFFLOAD_DEV: u16 = 28;
    /// u32, value of the output mark.
    pub const SET_MARK: u16 = 29;
    /// u32, mask of the output mark.
    pub const SET_MARK_MASK: u16 = 30;
    /// u32, number of the XFRM interface.
    pub const IF_ID: u16 = 31;
    /// u32, seconds between reports of a changed NAT mapping.
    pub const MTIMER_THRESH: u16 = 32;
    /// u8, direction of the SA.
    pub const SA_DIR: u16 = 33;
    /// u32, seconds between NAT keepalives.
    pub const NAT_KEEPALIVE_INTERVAL: u16 = 34;
    /// u32, number of the only CPU that the SA is for.
    pub const SA_PCPU: u16 = 35;
}

/// `AF_UNSPEC`.
pub const AF_UNSPEC: u16 = 0;
/// `XFRM_MODE_TRANSPORT`.
pub const MODE_TRANSPORT: u8 = 0;
/// `XFRM_MODE_TUNNEL`.
pub const MODE_TUNNEL: u8 = 1;
/// `AF_INET`.
pub const AF_INET: u16 = 2;
/// `AF_INET6`.
pub const AF_INET6: u16 = 10;

/// `IPPROTO_IPIP`.
pub const IPPROTO_IPIP: u8 = 4;
/// `IPPROTO_ESP`.
pub const IPPROTO_ESP: u8 = 50;
/// `IPPROTO_AH`.
pub const IPPROTO_AH: u8 = 51;
/// `IPPROTO_COMP`.
pub const IPPROTO_COMP: u8 = 108;

/// `XFRM_MIGRATE_STATE_CLEAR_OFFLOAD`.
pub const CLEAR_OFFLOAD: u32 = 1;
/// `XFRM_MIGRATE_STATE_UPDATE_H2H_SEL`.
pub const UPDATE_H2H_SEL: u32 = 2;
/// `XFRM_STATE_AF_UNSPEC`, in the flags of an SA.
pub const STATE_AF_UNSPEC: u8 = 32;
/// `XFRM_SA_DIR_IN`.
pub const SA_DIR_IN: u8 = 1;
/// `XFRM_SA_DIR_OUT`.
pub const SA_DIR_OUT: u8 = 2;
/// `UDP_ENCAP_ESPINUDP`.
pub const UDP_ENCAP_ESPINUDP: u16 = 2;
/// `XFRM_OFFLOAD_INBOUND`, in [`Offload::flags`].
pub const OFFLOAD_INBOUND: u8 = 2;
/// `XFRM_OFFLOAD_PACKET`, in [`Offload::flags`].
pub const OFFLOAD_PACKET: u8 = 4;

/// `xfrm_address_t`: four or sixteen bytes in network order, as the family
/// that stands beside it says.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(4))]
pub struct Address(pub [u8; 16]);

impl Address {
    /// Returns the address without what lies beyond the length of `family`.
    pub fn trimmed(mut self, family: u16) -> Self {
        if family != AF_INET6 {
            self.0[4..].fill(0);
        }
        self
    }

    /// Compares as addresses of `family`, like `xfrm_addr_equal()`.
    pub fn equals(&self, other: &Self, family: u16) -> bool {
        match family {
            AF_INET6 => self == other,
            _ => self.0[..4] == other.0[..4],
        }
    }
}

/// `struct xfrm_usersa_id`: what an SA is found by, besides its mark.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Id {
    /// Destination.
    pub daddr: Address,
    /// SPI, in network byte order; 0 for none.
    pub spi: [u8; 4],
    /// Family of the destination, `AF_*`.
    pub family: u16,
    /// `IPPROTO_*`.
    pub proto: u8,
    /// Nothing.
    pub pad: u8,
}

impl Id {
    /// Returns the destination, for people.
    pub fn destination(&self) -> IpAddr {
        let [a, b, c, d, ..] = self.daddr.0;
        match self.family {
            AF_INET => Ipv4Addr::new(a, b, c, d).into(),
            _ => Ipv6Addr::from(self.daddr.0).into(),
        }
    }
}

/// `struct xfrm_mark`: packets fit whose mark has this value under this mask.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Mark {
    /// Value.
    pub v: u32,
    /// Mask.
    pub m: u32,
}

impl Mark {
    /// Whether there is a mark at all: `{0, 0}` matches everything.
    pub fn is_set(&self) -> bool {
        (self.v | self.m) != 0
    }

    /// The mark as an SA stores it: no bit of the value outside the mask.
    pub fn masked(self) -> Self {
        Self {
            v: self.v & self.m,
            m: self.m,
        }
    }
}

/// `struct xfrm_selector`: which packets an SA is for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Selector {
    /// Destination.
    pub daddr: Address,
    /// Source.
    pub saddr: Address,
    /// Port of the destination, in network byte order, like the next three.
    pub dport: [u8; 2],
    /// Which bits of it count.
    pub dport_mask: [u8; 2],
    /// Port of the source.
    pub sport: [u8; 2],
    /// Which bits of it count.
    pub sport_mask: [u8; 2],
    /// Family of both addresses, `AF_*`.
    pub family: u16,
    /// How many bits of the destination count.
    pub prefixlen_d: u8,
    /// How many bits of the source count.
    pub prefixlen_s: u8,
    /// `IPPROTO_*`, 0 for any.
    pub proto: u8,
    /// Nothing.
    pub pad: [u8; 3],
    /// Number of the device, 0 for any.
    pub ifindex: i32,
    /// Number of a user, of no effect.
    pub user: u32,
}

impl Selector {
    /// Returns the selector with unused bytes of its addresses zeroed.
    pub fn trimmed(self) -> Self {
        Self {
            daddr: self.daddr.trimmed(self.family),
            saddr: self.saddr.trimmed(self.family),
            pad: [0; 3],
            ..self
        }
    }
}

/// `struct xfrm_usersa_info`: an SA, the fixed part of messages about it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SaInfo {
    /// Which packets it is for.
    pub sel: Selector,
    /// Destination.
    pub daddr: Address,
    /// SPI, in network byte order; 0 for none.
    pub spi: [u8; 4],
    /// `IPPROTO_*`.
    pub proto: u8,
    /// Nothing.
    pub pad: [u8; 3],
    /// Source.
    pub saddr: Address,
    /// Limits: bytes, packets, seconds since it was added and since its first
    /// use; soft before hard. Numbers of 64 bits, which messages don't align.
    pub lft: [[u32; 2]; 8],
    /// What has been used: bytes, packets; when it was added and first used.
    pub curlft: [[u32; 2]; 4],
    /// Packets refused: outside the window, replayed, forged.
    pub stats: [u32; 3],
    /// Number of the `ACQUIRE` that asked for it, or 0.
    pub seq: u32,
    /// What its policies name it by, 0 for nothing.
    pub reqid: u32,
    /// Family of both addresses, `AF_*`.
    pub family: u16,
    /// `XFRM_MODE_*`.
    pub mode: u8,
    /// Width of the window, 0 for none, or for one that an attribute tells.
    pub replay_window: u8,
    /// `XFRM_STATE_*` flags.
    pub flags: u8,
    /// Nothing.
    pub pad2: [u8; 7],
}

impl SaInfo {
    /// What the SA is found by, besides its mark.
    pub fn id(&self) -> Id {
        Id {
            daddr: self.daddr,
            spi: self.spi,
            family: self.family,
            proto: self.proto,
            pad: 0,
        }
    }
}

/// `struct xfrm_userspi_info`: the fixed part of a request for an SPI.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SpiInfo {
    /// The SA that it is for, of which some fields count.
    pub info: SaInfo,
    /// Smallest SPI to choose, in host byte order, like the next.
    pub min: u32,
    /// Largest one.
    pub max: u32,
}

/// `struct xfrm_user_migrate_state`: the fixed part of a request to migrate an SA, and
/// of its announcement (docs/uapi.md).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MigrateState {
    /// What the SA is found by now.
    pub id: Id,
    /// Its new destination.
    pub new_daddr: Address,
    /// Its new source.
    pub new_saddr: Address,
    /// The mark that it is found by now.
    pub old_mark: Mark,
    /// Its new selector; of no meaning with [`UPDATE_H2H_SEL`].
    pub new_sel: Selector,
    /// Its new reqid.
    pub new_reqid: u32,
    /// [`CLEAR_OFFLOAD`] and [`UPDATE_H2H_SEL`].
    pub flags: u32,
    /// Family of the new addresses, `AF_*`.
    pub new_family: u16,
    /// 0.
    pub reserved: u16,
}

/// `struct xfrm_encap_tmpl`: how packets are wrapped to pass a NAT.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Encap {
    /// [`UDP_ENCAP_ESPINUDP`], say; 0 asks for none.
    pub encap_type: u16,
    /// Port of the source, in network byte order, like the next.
    pub sport: [u8; 2],
    /// Port of the destination.
    pub dport: [u8; 2],
    /// Nothing.
    pub pad: [u8; 2],
    /// The address before translation.
    pub oa: Address,
}

/// `struct xfrm_user_offload`: which device is to offload an SA, and how.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Offload {
    /// Number of the device.
    pub ifindex: i32,
    /// [`OFFLOAD_INBOUND`] and [`OFFLOAD_PACKET`].
    pub flags: u8,
    /// Nothing.
    pub pad: [u8; 3],
}

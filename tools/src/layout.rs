// SPDX-License-Identifier: GPL-2.0
//! Structures and numbers of `include/uapi/linux/xfrm.h`.
//!
//! All numbers are in host order here; on the wire addresses, SPIs and ports are in network order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// AF_INET.
pub const AF_INET: u16 = 2;
/// AF_INET6.
pub const AF_INET6: u16 = 10;
/// Message: an older migration of policies together with their SAs.
pub const XFRM_MSG_MIGRATE: u16 = 33;
/// Message: the migration of one SA, since Linux 7.2.
pub const XFRM_MSG_MIGRATE_STATE: u16 = 41;
/// Multicast group that hears of both.
pub const XFRMNLGRP_MIGRATE: u32 = 7;
/// Flag of MIGRATE_STATE: the new SA has no offload.
pub const CLEAR_OFFLOAD: u32 = 1;
/// Flag of MIGRATE_STATE: derive the host-to-host selector from the new addresses.
pub const UPDATE_H2H_SEL: u32 = 2;
/// Encapsulation of ESP in UDP.
pub const UDP_ENCAP_ESPINUDP: u16 = 2;
/// Offload flag: the SA is an input SA.
pub const XFRM_OFFLOAD_INBOUND: u8 = 2;
/// Offload flag: the device handles whole packets, not only their cryptography.
pub const XFRM_OFFLOAD_PACKET: u8 = 4;

/// `xfrm_address_t`, which does not tell its family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address(pub [u8; 16]);

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        let mut bytes = [0; 16];
        match ip {
            IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes = ip.octets(),
        }
        Self(bytes)
    }
}

impl Address {
    /// The IP address, if the family is known.
    pub fn ip(self, family: u16) -> Option<IpAddr> {
        let [a, b, c, d, ..] = self.0;
        match family {
            AF_INET => Some(Ipv4Addr::new(a, b, c, d).into()),
            AF_INET6 => Some(Ipv6Addr::from(self.0).into()),
            _ => None,
        }
    }
}

/// `struct xfrm_usersa_id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaId {
    /// Destination.
    pub daddr: Address,
    /// Security parameter index.
    pub spi: u32,
    /// Family of the destination.
    pub family: u16,
    /// Protocol: ESP, AH, IPComp.
    pub proto: u8,
}

/// `struct xfrm_mark`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The value.
    pub value: u32,
    /// The bits that count.
    pub mask: u32,
}

/// `struct xfrm_selector`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the UAPI")]
pub struct Selector {
    pub daddr: Address,
    pub saddr: Address,
    pub dport: u16,
    pub dport_mask: u16,
    pub sport: u16,
    pub sport_mask: u16,
    pub family: u16,
    pub prefixlen_d: u8,
    pub prefixlen_s: u8,
    pub proto: u8,
    pub ifindex: i32,
    pub user: u32,
}

/// `struct xfrm_encap_tmpl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encap {
    /// Kind of encapsulation; 0 removes it.
    pub kind: u16,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Original address.
    pub oa: Address,
}

/// `struct xfrm_user_offload`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadDevice {
    /// The device.
    pub ifindex: i32,
    /// XFRM_OFFLOAD_*.
    pub flags: u8,
}

/// A structure of fixed size on the wire.
pub trait Wire: Sized {
    /// Its size.
    const LEN: usize;
    /// Writes it to exactly LEN zeroed bytes.
    fn write(&self, to: &mut [u8]);
    /// Reads it from at least LEN bytes.
    fn read(from: &[u8]) -> Option<Self>;
}

fn array<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..)?.first_chunk().copied()
}

pub(crate) fn u32_at(from: &[u8], at: usize) -> Option<u32> {
    array(from, at).map(u32::from_ne_bytes)
}

pub(crate) fn u16_at(from: &[u8], at: usize) -> Option<u16> {
    array(from, at).map(u16::from_ne_bytes)
}

fn port_at(from: &[u8], at: usize) -> Option<u16> {
    array(from, at).map(u16::from_be_bytes)
}

impl Wire for SaId {
    const LEN: usize = 24;

    fn write(&self, to: &mut [u8]) {
        to[0..16].copy_from_slice(&self.daddr.0);
        to[16..20].copy_from_slice(&self.spi.to_be_bytes());
        to[20..22].copy_from_slice(&self.family.to_ne_bytes());
        to[22] = self.proto;
    }

    fn read(from: &[u8]) -> Option<Self> {
        let from: &[u8; Self::LEN] = from.first_chunk()?;
        Some(Self {
            daddr: Address(array(from, 0)?),
            spi: array(from, 16).map(u32::from_be_bytes)?,
            family: u16_at(from, 20)?,
            proto: from[22],
        })
    }
}

impl Wire for Mark {
    const LEN: usize = 8;

    fn write(&self, to: &mut [u8]) {
        to[0..4].copy_from_slice(&self.value.to_ne_bytes());
        to[4..8].copy_from_slice(&self.mask.to_ne_bytes());
    }

    fn read(from: &[u8]) -> Option<Self> {
        let (value, mask) = (u32_at(from, 0)?, u32_at(from, 4)?);
        Some(Self { value, mask })
    }
}

impl Wire for Selector {
    const LEN: usize = 56;

    fn write(&self, to: &mut [u8]) {
        to[0..16].copy_from_slice(&self.daddr.0);
        to[16..32].copy_from_slice(&self.saddr.0);
        to[32..34].copy_from_slice(&self.dport.to_be_bytes());
        to[34..36].copy_from_slice(&self.dport_mask.to_be_bytes());
        to[36..38].copy_from_slice(&self.sport.to_be_bytes());
        to[38..40].copy_from_slice(&self.sport_mask.to_be_bytes());
        to[40..42].copy_from_slice(&self.family.to_ne_bytes());
        to[42] = self.prefixlen_d;
        to[43] = self.prefixlen_s;
        to[44] = self.proto;
        to[48..52].copy_from_slice(&self.ifindex.to_ne_bytes());
        to[52..56].copy_from_slice(&self.user.to_ne_bytes());
    }

    fn read(from: &[u8]) -> Option<Self> {
        let from: &[u8; Self::LEN] = from.first_chunk()?;
        Some(Self {
            daddr: Address(array(from, 0)?),
            saddr: Address(array(from, 16)?),
            dport: port_at(from, 32)?,
            dport_mask: port_at(from, 34)?,
            sport: port_at(from, 36)?,
            sport_mask: port_at(from, 38)?,
            family: u16_at(from, 40)?,
            prefixlen_d: from[42],
            prefixlen_s: from[43],
            proto: from[44],
            ifindex: array(from, 48).map(i32::from_ne_bytes)?,
            user: u32_at(from, 52)?,
        })
    }
}

impl Wire for Encap {
    const LEN: usize = 24;

    fn write(&self, to: &mut [u8]) {
        to[0..2].copy_from_slice(&self.kind.to_ne_bytes());
        to[2..4].copy_from_slice(&self.sport.to_be_bytes());
        to[4..6].copy_from_slice(&self.dport.to_be_bytes());
        to[8..24].copy_from_slice(&self.oa.0);
    }

    fn read(from: &[u8]) -> Option<Self> {
        Some(Self {
            kind: u16_at(from, 0)?,
            sport: port_at(from, 2)?,
            dport: port_at(from, 4)?,
            oa: Address(array(from, 8)?),
        })
    }
}

impl Wire for OffloadDevice {
    const LEN: usize = 8;

    fn write(&self, to: &mut [u8]) {
        to[0..4].copy_from_slice(&self.ifindex.to_ne_bytes());
        to[4] = self.flags;
    }

    fn read(from: &[u8]) -> Option<Self> {
        let from: &[u8; Self::LEN] = from.first_chunk()?;
        Some(Self {
            ifindex: array(from, 0).map(i32::from_ne_bytes)?,
            flags: from[4],
        })
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What a request asks for, as far as that can be told without the SA.

use super::refusal::Refusal;
use crate::xfrm::uapi::{self, attr, Encap, Mark, MigrateState, Offload};
use zerocopy::FromBytes;

/// The attributes of a message, whose lengths the caller has checked.
pub trait Attributes {
    /// Returns the payload of the attribute of this type, if it is there.
    fn get(&self, kind: u16) -> Option<&[u8]>;

    /// Returns the payload as a `T`; what follows a `T` is ignored.
    fn read<T: FromBytes>(&self, kind: u16) -> Option<T> {
        Some(T::read_from_prefix(self.get(kind)?).ok()?.0)
    }
}

/// What is to become of the crypto offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadChange {
    /// As the SA has it.
    Inherit,
    /// None.
    Clear,
    /// This one.
    Set(Offload),
}

/// A request that is well-formed.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The fixed part, with unused bytes of its addresses zeroed.
    pub header: MigrateState,
    /// `None`: as the SA has it. A type of 0 stands for no encapsulation.
    pub encap: Option<Encap>,
    /// What is to become of the offload.
    pub offload: OffloadChange,
    /// `None`: as the SA has it.
    pub mark: Option<Mark>,
    /// The output mark; `None`: as the SA has it.
    pub set_mark: Option<Mark>,
    /// Seconds; `None`: as the SA has it.
    pub mapping_maxage: Option<u32>,
    /// Seconds; `None`: as the SA has it.
    pub nat_keepalive: Option<u32>,
}

impl Request {
    /// Checks what can be checked before the SA is known.
    ///
    /// `ipv6` tells whether the kernel has IPv6.
    pub fn parse(
        header: &MigrateState,
        attrs: &impl Attributes,
        ipv6: bool,
    ) -> Result<Self, Refusal> {
        check_header(header, ipv6)?;

        let set_mark = match (attrs.read(attr::SET_MARK), attrs.read(attr::SET_MARK_MASK)) {
            (None, None) => None,
            (None, Some(_)) => return Err(Refusal::LoneMask),
            // "Send 0 to clear": no value and no mask is no output mark.
            (Some(0), None) => Some(Mark::default()),
            (Some(v), mask) => Some(Mark {
                v,
                m: mask.unwrap_or(u32::MAX),
            }),
        };
        let clear = header.flags & uapi::CLEAR_OFFLOAD != 0;
        let offload = match attrs.read(attr::OFFLOAD_DEV) {
            Some(_) if clear => return Err(Refusal::OffloadTwice),
            Some(offload) => OffloadChange::Set(offload),
            None if clear => OffloadChange::Clear,
            None => OffloadChange::Inherit,
        };

        Ok(Self {
            header: trimmed(header),
            encap: attrs.read(attr::ENCAP),
            offload,
            mark: attrs.read(attr::MARK),
            set_mark,
            mapping_maxage: attrs.read(attr::MTIMER_THRESH),
            nat_keepalive: attrs.read(attr::NAT_KEEPALIVE_INTERVAL),
        })
    }

    /// Whether the new selector is to be derived from the new addresses.
    pub fn host_to_host(&self) -> bool {
        self.header.flags & uapi::UPDATE_H2H_SEL != 0
    }
}

fn check_header(header: &MigrateState, ipv6: bool) -> Result<(), Refusal> {
    let unknown = header.flags & !(uapi::CLEAR_OFFLOAD | uapi::UPDATE_H2H_SEL);

    if header.id.spi == [0; 4] {
        return Err(Refusal::ZeroSpi);
    }
    if header.reserved != 0 {
        return Err(Refusal::Reserved);
    }
    if unknown != 0 {
        return Err(Refusal::UnknownFlags(unknown));
    }
    match header.new_family {
        uapi::AF_INET => {}
        uapi::AF_INET6 if ipv6 => {}
        uapi::AF_INET6 => return Err(Refusal::NoIpv6),
        _ => return Err(Refusal::Family),
    }
    if header.flags & uapi::UPDATE_H2H_SEL != 0 {
        return Ok(());
    }
    match header.new_sel.family {
        // Which family that means, only the SA can tell.
        uapi::AF_UNSPEC => Ok(()),
        uapi::AF_INET6 if !ipv6 => Err(Refusal::NoIpv6),
        family => check_prefixes(&header.new_sel, family),
    }
}

/// Checks the prefixes of `selector` as ones of `family`.
pub fn check_prefixes(selector: &uapi::Selector, family: u16) -> Result<(), Refusal> {
    let longest = selector.prefixlen_d.max(selector.prefixlen_s);

    match family {
        uapi::AF_INET if longest > 32 => Err(Refusal::Prefix4),
        uapi::AF_INET6 if longest > 128 => Err(Refusal::Prefix6),
        uapi::AF_INET | uapi::AF_INET6 => Ok(()),
        _ => Err(Refusal::SelectorFamily),
    }
}

/// Zeroes what a sender may have left behind an IPv4 address, since it would
/// reach dumps and listeners; but for a selector without family.
#[inline]
fn trimmed(header: &MigrateState) -> MigrateState {
    let new_family = header.new_family;

    MigrateState {
        id: uapi::Id {
            daddr: header.id.daddr.trimmed(header.id.family),
            pad: 0,
            ..header.id
        },
        new_daddr: header.new_daddr.trimmed(new_family),
        new_saddr: header.new_saddr.trimmed(new_family),
        new_sel: match header.new_sel.family {
            uapi::AF_UNSPEC => header.new_sel,
            _ => header.new_sel.trimmed(),
        },
        ..*header
    }
}

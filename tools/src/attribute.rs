// SPDX-License-Identifier: GPL-2.0
//! The netlink attributes of XFRM_MSG_MIGRATE_STATE.

use netlink_packet_core::{DecodeError, DefaultNla, Nla, NlaBuffer, Parseable, NLA_TYPE_MASK};

use crate::layout::{u32_at, Encap, Mark, OffloadDevice, Wire};

const XFRMA_ENCAP: u16 = 4;
const XFRMA_MARK: u16 = 21;
const XFRMA_OFFLOAD_DEV: u16 = 28;
const XFRMA_SET_MARK: u16 = 29;
const XFRMA_SET_MARK_MASK: u16 = 30;
const XFRMA_MTIMER_THRESH: u16 = 32;
const XFRMA_SA_DIR: u16 = 33;
const XFRMA_NAT_KEEPALIVE_INTERVAL: u16 = 34;

/// One attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// XFRMA_ENCAP.
    Encap(Encap),
    /// XFRMA_MARK.
    Mark(Mark),
    /// XFRMA_OFFLOAD_DEV.
    OffloadDevice(OffloadDevice),
    /// XFRMA_SET_MARK.
    SetMark(u32),
    /// XFRMA_SET_MARK_MASK.
    SetMarkMask(u32),
    /// XFRMA_MTIMER_THRESH.
    MappingMaxage(u32),
    /// XFRMA_SA_DIR, in notifications only.
    Direction(u8),
    /// XFRMA_NAT_KEEPALIVE_INTERVAL.
    NatKeepalive(u32),
    /// Any other, or one that is too short for its type.
    Other(DefaultNla),
}

impl Nla for Attribute {
    fn value_len(&self) -> usize {
        match self {
            Self::Encap(_) => Encap::LEN,
            Self::Mark(_) => Mark::LEN,
            Self::OffloadDevice(_) => OffloadDevice::LEN,
            Self::Direction(_) => 1,
            Self::SetMark(_)
            | Self::SetMarkMask(_)
            | Self::MappingMaxage(_)
            | Self::NatKeepalive(_) => 4,
            Self::Other(other) => other.value_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Encap(_) => XFRMA_ENCAP,
            Self::Mark(_) => XFRMA_MARK,
            Self::OffloadDevice(_) => XFRMA_OFFLOAD_DEV,
            Self::SetMark(_) => XFRMA_SET_MARK,
            Self::SetMarkMask(_) => XFRMA_SET_MARK_MASK,
            Self::MappingMaxage(_) => XFRMA_MTIMER_THRESH,
            Self::Direction(_) => XFRMA_SA_DIR,
            Self::NatKeepalive(_) => XFRMA_NAT_KEEPALIVE_INTERVAL,
            Self::Other(other) => other.kind(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        buffer.fill(0); // padding inside the structures
        match self {
            Self::Encap(encap) => encap.write(buffer),
            Self::Mark(mark) => mark.write(buffer),
            Self::OffloadDevice(device) => device.write(buffer),
            Self::Direction(dir) => buffer[0] = *dir,
            Self::SetMark(value)
            | Self::SetMarkMask(value)
            | Self::MappingMaxage(value)
            | Self::NatKeepalive(value) => buffer.copy_from_slice(&value.to_ne_bytes()),
            Self::Other(other) => other.emit_value(buffer),
        }
    }
}

impl Parseable<NlaBuffer<&[u8]>> for Attribute {
    fn parse(attribute: &NlaBuffer<&[u8]>) -> Result<Self, DecodeError> {
        let value = attribute.value();
        let known = match attribute.kind() {
            XFRMA_ENCAP => Encap::read(value).map(Self::Encap),
            XFRMA_MARK => Mark::read(value).map(Self::Mark),
            XFRMA_OFFLOAD_DEV => OffloadDevice::read(value).map(Self::OffloadDevice),
            XFRMA_SET_MARK => u32_at(value, 0).map(Self::SetMark),
            XFRMA_SET_MARK_MASK => u32_at(value, 0).map(Self::SetMarkMask),
            XFRMA_MTIMER_THRESH => u32_at(value, 0).map(Self::MappingMaxage),
            XFRMA_SA_DIR => value.first().copied().map(Self::Direction),
            XFRMA_NAT_KEEPALIVE_INTERVAL => u32_at(value, 0).map(Self::NatKeepalive),
            _ => None,
        };
        match known {
            Some(known) => Ok(known),
            None => DefaultNla::parse(attribute).map(Self::Other),
        }
    }
}

/// An attribute's type, without the flags beside it.
pub fn number(attribute: &impl Nla) -> u16 {
    attribute.kind() & NLA_TYPE_MASK
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;

    use super::*;
    use crate::layout::Address;

    fn there_and_back(attribute: &Attribute) -> Attribute {
        let mut bytes = vec![0xaa; attribute.buffer_len()];
        attribute.emit(&mut bytes);
        Attribute::parse(&NlaBuffer::new_checked(bytes.as_slice()).unwrap()).unwrap()
    }

    #[test]
    fn round_trips() {
        let encap = Encap {
            kind: 2,
            sport: 4500,
            dport: 4501,
            oa: Address([9; 16]),
        };
        let device = OffloadDevice {
            ifindex: 7,
            flags: 6,
        };
        for attribute in [
            Attribute::Encap(encap),
            Attribute::Mark(Mark { value: 1, mask: 2 }),
            Attribute::OffloadDevice(device),
            Attribute::SetMark(3),
            Attribute::SetMarkMask(4),
            Attribute::MappingMaxage(5),
            Attribute::Direction(2),
            Attribute::NatKeepalive(6),
            Attribute::Other(DefaultNla::new(60, vec![1, 2, 3])),
        ] {
            assert_eq!(there_and_back(&attribute), attribute);
        }
    }

    #[test]
    fn too_short() {
        for kind in 0..64 {
            let short = Attribute::Other(DefaultNla::new(kind, vec![]));
            assert_eq!(there_and_back(&short), short);
        }
    }
}

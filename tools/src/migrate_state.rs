// SPDX-License-Identifier: GPL-2.0
//! `struct xfrm_user_migrate_state` with its attributes, to bytes and back.

use netlink_packet_core::{DecodeError, Emitable, ErrorContext, NlasIterator, Parseable};

use crate::attribute::Attribute;
use crate::layout::{u16_at, u32_at, Address, Mark, SaId, Selector, Wire};

/// Length of the fixed part.
pub const BODY_LEN: usize = 132;

/// One request to migrate an SA, or the notification of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrateState {
    /// The SA as it is known now.
    pub id: SaId,
    /// The new destination.
    pub new_daddr: Address,
    /// The new source.
    pub new_saddr: Address,
    /// The mark under which the SA is known now.
    pub old_mark: Mark,
    /// The new selector.
    pub new_sel: Selector,
    /// The new reqid.
    pub new_reqid: u32,
    /// CLEAR_OFFLOAD, UPDATE_H2H_SEL.
    pub flags: u32,
    /// The family of the new addresses.
    pub new_family: u16,
    /// What the new SA does not inherit; in a notification what it has.
    pub attributes: Vec<Attribute>,
}

impl Emitable for MigrateState {
    fn buffer_len(&self) -> usize {
        BODY_LEN + self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.fill(0); // padding inside the structures
        let (body, attributes) = buffer.split_at_mut(BODY_LEN);
        self.id.write(&mut body[0..24]);
        body[24..40].copy_from_slice(&self.new_daddr.0);
        body[40..56].copy_from_slice(&self.new_saddr.0);
        self.old_mark.write(&mut body[56..64]);
        self.new_sel.write(&mut body[64..120]);
        body[120..124].copy_from_slice(&self.new_reqid.to_ne_bytes());
        body[124..128].copy_from_slice(&self.flags.to_ne_bytes());
        body[128..130].copy_from_slice(&self.new_family.to_ne_bytes());
        self.attributes.as_slice().emit(attributes);
    }
}

impl MigrateState {
    fn read_body(body: &[u8; BODY_LEN]) -> Option<Self> {
        Some(Self {
            id: SaId::read(body)?,
            new_daddr: Address(*body[24..].first_chunk()?),
            new_saddr: Address(*body[40..].first_chunk()?),
            old_mark: Mark::read(&body[56..])?,
            new_sel: Selector::read(&body[64..])?,
            new_reqid: u32_at(body, 120)?,
            flags: u32_at(body, 124)?,
            new_family: u16_at(body, 128)?,
            attributes: Vec::new(),
        })
    }
}

impl Parseable<[u8]> for MigrateState {
    fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let parts = bytes.split_first_chunk().and_then(|(body, attributes)| {
            let message = Self::read_body(body)?;
            Some((message, attributes))
        });
        let Some((mut message, attributes)) = parts else {
            return Err("body shorter than struct xfrm_user_migrate_state".into());
        };
        message.attributes = NlasIterator::new(attributes)
            .map(|attribute| Attribute::parse(&attribute?))
            .collect::<Result<_, _>>()
            .context("attributes of MIGRATE_STATE")?;
        Ok(message)
    }
}

#[cfg(test)]
pub(crate) fn sample() -> MigrateState {
    use crate::layout::{Encap, AF_INET, AF_INET6, CLEAR_OFFLOAD};
    use std::net::IpAddr;

    let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
    MigrateState {
        id: SaId {
            daddr: address("192.0.2.2"),
            spi: 0x1000,
            family: AF_INET,
            proto: 50,
        },
        new_daddr: address("2001:db8::3"),
        new_saddr: address("2001:db8::1"),
        old_mark: Mark {
            value: 0x12,
            mask: 0xff,
        },
        new_sel: Selector {
            family: AF_INET6,
            proto: 6,
            dport: 80,
            dport_mask: 0xffff,
            ..Selector::default()
        },
        new_reqid: 100,
        flags: CLEAR_OFFLOAD,
        new_family: AF_INET6,
        attributes: vec![
            Attribute::Encap(Encap {
                kind: 2,
                sport: 4500,
                dport: 4501,
                oa: Address::default(),
            }),
            Attribute::Direction(2),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let mut bytes = vec![0xaa; sample().buffer_len()];
        sample().emit(&mut bytes);
        assert_eq!(bytes.len(), 132 + 28 + 8);
        assert_eq!(bytes[0..4], [192, 0, 2, 2]);
        assert_eq!(bytes[4..16], [0; 12]);
        assert_eq!(bytes[16..20], [0, 0, 0x10, 0]);
        assert_eq!(bytes[20..22], 2u16.to_ne_bytes());
        assert_eq!(bytes[22..24], [50, 0]);
        assert_eq!((bytes[24], bytes[39], bytes[55]), (0x20, 3, 1));
        assert_eq!(bytes[56..60], 0x12u32.to_ne_bytes());
        assert_eq!(bytes[60..64], 0xffu32.to_ne_bytes());
        assert_eq!(bytes[96..100], [0, 80, 0xff, 0xff]);
        assert_eq!(bytes[104..106], 10u16.to_ne_bytes());
        assert_eq!(bytes[106..112], [0, 0, 6, 0, 0, 0]);
        assert_eq!(bytes[120..124], 100u32.to_ne_bytes());
        assert_eq!(bytes[124..128], 1u32.to_ne_bytes());
        assert_eq!(bytes[128..130], 10u16.to_ne_bytes());
        assert_eq!(bytes[130..132], [0, 0]);
        assert_eq!(bytes[132..134], 28u16.to_ne_bytes());
        assert_eq!(
            bytes[160..164],
            [5u16.to_ne_bytes(), 33u16.to_ne_bytes()].concat()
        );
        assert_eq!(bytes[164..168], [2, 0, 0, 0]);
    }

    #[test]
    fn there_and_back() {
        let mut bytes = vec![0; sample().buffer_len()];
        sample().emit(&mut bytes);
        assert_eq!(MigrateState::parse(&bytes).unwrap(), sample());
        assert!(MigrateState::parse(&bytes[..131]).is_err());
        bytes[132] = 3; // an attribute shorter than its header
        assert!(MigrateState::parse(&bytes).is_err());
    }
}

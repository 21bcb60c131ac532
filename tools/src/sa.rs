// SPDX-License-Identifier: GPL-2.0
//! `struct xfrm_usersa_info`: what a request says of an SA, and what the kernel shows of it.

use std::fmt;

use netlink_packet_core::{NlasIterator, Parseable};
use serde::Serialize;

use crate::address::show;
use crate::attribute::{number, Attribute};
use crate::layout::{u16_at, u32_at, Address, Mark};
use crate::message::XfrmMessage;
use crate::proto;

/// Length of the fixed part.
pub const LEN: usize = 224;

/// The modes, in the order of their numbers.
const MODES: &[&str] = &["transport", "tunnel", "ro", "in_trigger", "beet", "iptfs"];

/// Reads a mode.
pub fn parse_mode(word: &str) -> Option<u8> {
    let number = MODES.iter().position(|mode| *mode == word)?;
    u8::try_from(number).ok()
}

/// The attributes that hold keys or an algorithm: XFRMA_ALG_{AUTH, CRYPT, COMP, AEAD, AUTH_TRUNC}.
const ALGORITHMS: [u16; 5] = [1, 2, 3, 18, 20];

/// An SA, as far as this program needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the UAPI")]
pub struct Sa {
    pub daddr: Address,
    pub saddr: Address,
    pub spi: u32,
    pub proto: u8,
    pub family: u16,
    pub mode: u8,
    pub reqid: u32,
    pub seq: u32,
    pub mark: Option<Mark>,
    /// XFRM_SA_DIR_*, or 0.
    pub dir: u8,
    /// Whether it has keys, or an algorithm.
    pub has_algorithm: bool,
}

impl Sa {
    /// Writes the fixed part to zeroed bytes.
    pub fn write(&self, to: &mut [u8]) {
        to[56..72].copy_from_slice(&self.daddr.0);
        to[72..76].copy_from_slice(&self.spi.to_be_bytes());
        to[76] = self.proto;
        to[80..96].copy_from_slice(&self.saddr.0);
        to[204..208].copy_from_slice(&self.seq.to_ne_bytes());
        to[208..212].copy_from_slice(&self.reqid.to_ne_bytes());
        to[212..214].copy_from_slice(&self.family.to_ne_bytes());
        to[214] = self.mode;
    }

    /// Reads XFRM_MSG_NEWSA; None if it is too short.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (info, attributes) = bytes.split_first_chunk::<LEN>()?;
        let mut sa = Self {
            daddr: Address(*info[56..].first_chunk()?),
            saddr: Address(*info[80..].first_chunk()?),
            spi: info[72..].first_chunk().copied().map(u32::from_be_bytes)?,
            proto: info[76],
            family: u16_at(info, 212)?,
            mode: info[214],
            reqid: u32_at(info, 208)?,
            seq: u32_at(info, 204)?,
            ..Self::default()
        };
        for attribute in NlasIterator::new(attributes) {
            match Attribute::parse(&attribute.ok()?).ok()? {
                Attribute::Direction(dir) => sa.dir = dir,
                Attribute::Mark(mark) => sa.mark = Some(mark),
                other => sa.has_algorithm |= ALGORITHMS.contains(&number(&other)),
            }
        }
        Some(sa)
    }

    /// Reads a message, if it is XFRM_MSG_NEWSA.
    pub fn of(message: &XfrmMessage) -> Option<Self> {
        const XFRM_MSG_NEWSA: u16 = 16;
        match message {
            XfrmMessage::Other {
                kind: XFRM_MSG_NEWSA,
                payload,
            } => Self::read(payload),
            _ => None,
        }
    }

    /// Whether it waits for its keys. Those that IPComp makes for itself have none, ever.
    pub fn is_larval(&self) -> bool {
        const IPPROTO_IPIP: u8 = 4;
        const IPPROTO_IPV6: u8 = 41;
        !self.has_algorithm && ![IPPROTO_IPIP, IPPROTO_IPV6].contains(&self.proto)
    }
}

/// An SA for the reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SaView {
    src: String,
    dst: String,
    proto: String,
    spi: u32,
    reqid: u32,
    mode: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dir: Option<&'static str>,
}

impl From<&Sa> for SaView {
    fn from(sa: &Sa) -> Self {
        let mode = MODES.get(usize::from(sa.mode));
        Self {
            src: show(sa.saddr, sa.family),
            dst: show(sa.daddr, sa.family),
            proto: proto::show_xfrm(sa.proto),
            spi: sa.spi,
            reqid: sa.reqid,
            mode: mode.map_or_else(|| sa.mode.to_string(), ToString::to_string),
            dir: match sa.dir {
                1 => Some("in"),
                2 => Some("out"),
                _ => None,
            },
        }
    }
}

impl fmt::Display for SaView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "src {} dst {}\n\tproto {} spi 0x{:08x} reqid {} mode {}",
            self.src, self.dst, self.proto, self.spi, self.reqid, self.mode
        )?;
        match self.dir {
            Some(dir) => write!(f, "\n\tdir {dir}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) fn sample() -> Sa {
    use crate::layout::AF_INET;
    use std::net::IpAddr;

    let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
    Sa {
        daddr: address("192.0.2.2"),
        saddr: address("192.0.2.1"),
        spi: 0x100,
        proto: 50,
        family: AF_INET,
        mode: 1,
        reqid: 7,
        ..Sa::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(sa: &Sa, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        sa.write(&mut bytes);
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn there_and_back() {
        let bytes = bytes(&sample(), &[]);
        assert_eq!(Sa::read(&bytes), Some(sample()));
        assert_eq!(Sa::read(&bytes[1..]), None);
        assert_eq!(bytes[56..60], [192, 0, 2, 2]);
        assert_eq!(bytes[72..77], [0, 0, 1, 0, 50]);
        assert_eq!(bytes[80..84], [192, 0, 2, 1]);
    }

    #[test]
    fn attributes() {
        let (dir, aead) = ([5, 0, 33, 0, 2, 0, 0, 0], [4, 0, 18, 0]);
        let sa = Sa::read(&bytes(&sample(), &dir)).unwrap();
        assert_eq!((sa.dir, sa.is_larval()), (2, true));
        let sa = Sa::read(&bytes(&sample(), &aead)).unwrap();
        assert_eq!((sa.dir, sa.is_larval()), (0, false));
        let hidden = Sa {
            proto: 4,
            ..sample()
        };
        assert!(!hidden.is_larval());
    }

    #[test]
    fn looks_like_iproute2() {
        let mut sa = sample();
        let text = "src 192.0.2.1 dst 192.0.2.2\n\tproto esp spi 0x00000100 reqid 7 mode tunnel";
        assert_eq!(SaView::from(&sa).to_string(), text);
        (sa.dir, sa.mode) = (1, 0);
        let json = serde_json::to_string(&SaView::from(&sa)).unwrap();
        assert_eq!(
            json,
            "{\"src\":\"192.0.2.1\",\"dst\":\"192.0.2.2\",\"proto\":\"esp\",\"spi\":256,\
             \"reqid\":7,\"mode\":\"transport\",\"dir\":\"in\"}"
        );
    }

    #[test]
    fn modes() {
        assert_eq!(parse_mode("beet"), Some(4));
        assert_eq!(parse_mode("zz"), None);
    }
}

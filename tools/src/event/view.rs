// SPDX-License-Identifier: GPL-2.0
//! The parts of an SA that have their own words.

use std::fmt;

use netlink_packet_core::Nla;
use serde::Serialize;

use crate::address::show;
use crate::attribute::number;
use crate::layout::{Encap, Mark, OffloadDevice, XFRM_OFFLOAD_INBOUND, XFRM_OFFLOAD_PACKET};
use crate::link::Links;

/// A mark and its mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MarkView {
    /// The value.
    pub value: u32,
    /// The bits that count.
    pub mask: u32,
}

/// A UDP or TCP encapsulation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EncapView {
    r#type: String,
    sport: u16,
    dport: u16,
    addr: String,
}

/// Where the hardware helps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OffloadView {
    r#type: &'static str,
    dev: String,
    dir: &'static str,
}

/// An attribute that is not decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttributeView {
    /// Its type.
    pub attribute: u16,
    /// The length of its value.
    pub length: usize,
}

impl From<Mark> for MarkView {
    fn from(mark: Mark) -> Self {
        Self {
            value: mark.value,
            mask: mark.mask,
        }
    }
}

impl EncapView {
    /// Puts names to the numbers.
    pub fn new(encap: &Encap, family: u16) -> Self {
        Self {
            r#type: match encap.kind {
                0 => "none".into(),
                1 => "espinudp-nonike".into(),
                2 => "espinudp".into(),
                7 => "espintcp".into(),
                other => other.to_string(),
            },
            sport: encap.sport,
            dport: encap.dport,
            addr: show(encap.oa, family),
        }
    }
}

impl OffloadView {
    /// Puts names to the numbers.
    pub fn new(offload: &OffloadDevice, links: &dyn Links) -> Self {
        let flag = |bit| offload.flags & bit != 0;
        Self {
            r#type: match flag(XFRM_OFFLOAD_PACKET) {
                true => "packet",
                false => "crypto",
            },
            dev: links.show(offload.ifindex),
            dir: match flag(XFRM_OFFLOAD_INBOUND) {
                true => "in",
                false => "out",
            },
        }
    }
}

impl AttributeView {
    /// Leaves it at number and length.
    pub fn new(attribute: &impl Nla) -> Self {
        Self {
            attribute: number(attribute),
            length: attribute.value_len(),
        }
    }
}

impl fmt::Display for MarkView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

impl fmt::Display for EncapView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            r#type,
            sport,
            dport,
            addr,
        } = self;
        if r#type == "none" {
            return f.write_str("none");
        }
        write!(f, "{type} sport {sport} dport {dport} addr {addr}")
    }
}

impl fmt::Display for OffloadView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { r#type, dev, dir } = self;
        write!(f, "{type} dev {dev} dir {dir}")
    }
}

impl fmt::Display for AttributeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attribute {} length {}", self.attribute, self.length)
    }
}

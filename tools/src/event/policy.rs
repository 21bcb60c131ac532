// SPDX-License-Identifier: GPL-2.0
//! XFRM_MSG_MIGRATE, the older migration of policies with their SAs, as far as it shows beside ours.

use std::fmt;

use netlink_packet_core::{NetlinkHeader, NlaBuffer, NlasIterator};
use serde::Serialize;

use super::{AttributeView, SelectorView};
use crate::layout::{Selector, Wire};
use crate::link::Links;

/// Length of `struct xfrm_userpolicy_id`: selector, index, direction.
const BODY_LEN: usize = 64;
const DIRECTION_AT: usize = Selector::LEN + 4;

/// One notification; its attributes stay undecoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyMigration {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sel: Option<SelectorView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dir: Option<String>,
    attributes: Vec<AttributeView>,
    seq: u32,
    pid: u32,
}

impl PolicyMigration {
    /// Reads what is there, however short.
    pub fn new(header: &NetlinkHeader, payload: &[u8], links: &dyn Links) -> Self {
        let body = payload.split_first_chunk::<BODY_LEN>();
        let selector = body.and_then(|(body, _)| Selector::read(body));
        let attributes = body.map_or(&[][..], |(_, attributes)| attributes);
        Self {
            event: "migrate",
            sel: selector.map(|selector| SelectorView::new(&selector, selector.family, links)),
            dir: body.map(|(body, _)| direction(body[DIRECTION_AT])),
            attributes: NlasIterator::new(attributes)
                .map_while(Result::ok)
                .map(|attribute: NlaBuffer<&[u8]>| AttributeView {
                    attribute: attribute.kind(),
                    length: attribute.value_length(),
                })
                .collect(),
            seq: header.sequence_number,
            pid: header.port_number,
        }
    }
}

fn direction(dir: u8) -> String {
    match dir {
        0 => "in".into(),
        1 => "out".into(),
        2 => "fwd".into(),
        other => other.to_string(),
    }
}

impl fmt::Display for PolicyMigration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "migrate (policy)")?;
        if let (Some(sel), Some(dir)) = (&self.sel, &self.dir) {
            write!(f, " {sel} dir {dir}")?;
        }
        for attribute in &self.attributes {
            write!(f, " {attribute}")?;
        }
        write!(f, " seq {} pid {}", self.seq, self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::TestLinks;

    #[test]
    fn undecoded() {
        let mut payload = vec![0; BODY_LEN];
        payload[40..42].copy_from_slice(&2u16.to_ne_bytes());
        payload[DIRECTION_AT] = 1;
        payload.extend(12u16.to_ne_bytes());
        payload.extend(17u16.to_ne_bytes());
        payload.extend([0; 8]);
        let header = NetlinkHeader::default();
        let text = |bytes| PolicyMigration::new(&header, bytes, &TestLinks).to_string();
        assert_eq!(
            text(&payload),
            "migrate (policy) src 0.0.0.0/0 dst 0.0.0.0/0 dir out attribute 17 length 8 seq 0 pid 0"
        );
        assert_eq!(text(&payload[..20]), "migrate (policy) seq 0 pid 0");
    }
}

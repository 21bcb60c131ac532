// SPDX-License-Identifier: GPL-2.0
//! A migration as the kernel announces it, in the words of an IPsec person and as JSON.

use std::fmt;

mod policy;
mod selector;
mod view;

use netlink_packet_core::NetlinkHeader;
use serde::Serialize;

use crate::address::{family_name, show};
use crate::attribute::Attribute;
use crate::layout::{CLEAR_OFFLOAD, UPDATE_H2H_SEL};
use crate::link::Links;
use crate::migrate_state::MigrateState;
use crate::proto;

pub use policy::PolicyMigration;
pub use selector::SelectorView;
pub use view::{AttributeView, EncapView, MarkView, OffloadView};

/// One migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Migration {
    event: &'static str,
    old: OldSa,
    new: NewSa,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    flags: Vec<String>,
    seq: u32,
    pid: u32,
}

/// What the SA was known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct OldSa {
    family: String,
    dst: String,
    proto: String,
    spi: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<MarkView>,
}

/// What the SA is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct NewSa {
    family: String,
    src: String,
    dst: String,
    reqid: u32,
    sel: SelectorView,
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<MarkView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_mark: Option<MarkView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encap: Option<EncapView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offload: Option<OffloadView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mapping_maxage: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nat_keepalive: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dir: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<AttributeView>,
}

impl Migration {
    /// Puts names to the numbers of a notification.
    pub fn new(header: &NetlinkHeader, message: &MigrateState, links: &dyn Links) -> Self {
        let id = &message.id;
        let mark = Some(MarkView::from(message.old_mark));
        let mut new = NewSa {
            family: family_name(message.new_family),
            src: show(message.new_saddr, message.new_family),
            dst: show(message.new_daddr, message.new_family),
            reqid: message.new_reqid,
            sel: SelectorView::new(&message.new_sel, message.new_family, links),
            ..NewSa::default()
        };
        for attribute in &message.attributes {
            new.take(attribute, message.new_family, links);
        }
        Self {
            event: "migrate-state",
            old: OldSa {
                family: family_name(id.family),
                dst: show(id.daddr, id.family),
                proto: proto::show_xfrm(id.proto),
                spi: format!("0x{:08x}", id.spi),
                mark: mark.filter(|mark| *mark != MarkView::default()),
            },
            new,
            flags: flag_names(message.flags),
            seq: header.sequence_number,
            pid: header.port_number,
        }
    }
}

impl NewSa {
    fn take(&mut self, attribute: &Attribute, family: u16, links: &dyn Links) {
        let set_mark = self.set_mark.unwrap_or(MarkView {
            value: 0,
            mask: u32::MAX,
        });
        match *attribute {
            Attribute::Mark(mark) => self.mark = Some(mark.into()),
            Attribute::SetMark(value) => self.set_mark = Some(MarkView { value, ..set_mark }),
            Attribute::SetMarkMask(mask) => self.set_mark = Some(MarkView { mask, ..set_mark }),
            Attribute::Encap(encap) => self.encap = Some(EncapView::new(&encap, family)),
            Attribute::OffloadDevice(device) => {
                self.offload = Some(OffloadView::new(&device, links));
            }
            Attribute::MappingMaxage(seconds) => self.mapping_maxage = Some(seconds),
            Attribute::NatKeepalive(seconds) => self.nat_keepalive = Some(seconds),
            Attribute::Direction(dir) => self.dir = Some(direction(dir)),
            Attribute::Other(ref other) => self.unknown.push(AttributeView::new(other)),
        }
    }
}

fn direction(dir: u8) -> String {
    match dir {
        1 => "in".into(),
        2 => "out".into(),
        other => other.to_string(),
    }
}

fn flag_names(flags: u32) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = flags;
    for (bit, name) in [
        (CLEAR_OFFLOAD, "clear-offload"),
        (UPDATE_H2H_SEL, "update-h2h-sel"),
    ] {
        if rest & bit != 0 {
            names.push(name.into());
            rest &= !bit;
        }
    }
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names
}

impl fmt::Display for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            event, old, new, ..
        } = self;
        let OldSa {
            dst, proto, spi, ..
        } = old;
        write!(f, "{event} dst {dst} proto {proto} spi {spi}")?;
        if let Some(mark) = old.mark {
            write!(f, " mark {mark}")?;
        }
        write!(f, " -> {new}")?;
        if !self.flags.is_empty() {
            write!(f, " flags {}", self.flags.join(","))?;
        }
        write!(f, " seq {} pid {}", self.seq, self.pid)
    }
}

impl fmt::Display for NewSa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            src,
            dst,
            reqid,
            sel,
            ..
        } = self;
        write!(f, "src {src} dst {dst} reqid {reqid} sel {sel}")?;
        if let Some(mark) = self.mark {
            write!(f, " new-mark {mark}")?;
        }
        if let Some(mark) = self.set_mark {
            write!(f, " set-mark {mark}")?;
        }
        if let Some(encap) = &self.encap {
            write!(f, " encap {encap}")?;
        }
        if let Some(offload) = &self.offload {
            write!(f, " offload {offload}")?;
        }
        if let Some(seconds) = self.mapping_maxage {
            write!(f, " mapping-maxage {seconds}")?;
        }
        if let Some(seconds) = self.nat_keepalive {
            write!(f, " nat-keepalive {seconds}")?;
        }
        if let Some(dir) = &self.dir {
            write!(f, " dir {dir}")?;
        }
        for attribute in &self.unknown {
            write!(f, " {attribute}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::DefaultNla;
    use serde_json::{json, to_value};

    use super::*;
    use crate::layout::{Mark, OffloadDevice};
    use crate::link::TestLinks;
    use crate::migrate_state::sample;

    fn header() -> NetlinkHeader {
        let mut header = NetlinkHeader::default();
        (header.sequence_number, header.port_number) = (5, 77);
        header
    }

    #[test]
    fn text() {
        let migration = Migration::new(&header(), &sample(), &TestLinks);
        assert_eq!(
            migration.to_string(),
            "migrate-state dst 192.0.2.2 proto esp spi 0x00001000 mark 0x12/0xff -> \
             src 2001:db8::1 dst 2001:db8::3 reqid 100 sel src ::/0 dst ::/0 proto tcp dport 80 \
             encap espinudp sport 4500 dport 4501 addr :: dir out flags clear-offload seq 5 pid 77"
        );
    }

    #[test]
    fn shape() {
        let migration = Migration::new(&header(), &sample(), &TestLinks);
        let expected = json!({
            "event": "migrate-state",
            "old": {
                "family": "inet", "dst": "192.0.2.2", "proto": "esp", "spi": "0x00001000",
                "mark": {"value": 0x12, "mask": 0xff},
            },
            "new": {
                "family": "inet6", "src": "2001:db8::1", "dst": "2001:db8::3", "reqid": 100,
                "sel": {"family": "inet6", "src": "::/0", "dst": "::/0", "proto": "tcp", "dport": 80},
                "encap": {"type": "espinudp", "sport": 4500, "dport": 4501, "addr": "::"},
                "dir": "out",
            },
            "flags": ["clear-offload"],
            "seq": 5,
            "pid": 77,
        });
        assert_eq!(to_value(migration).unwrap(), expected);
    }

    #[test]
    fn all_attributes() {
        let mut message = sample();
        (message.flags, message.old_mark) = (6, Mark::default());
        message.attributes = vec![
            Attribute::OffloadDevice(OffloadDevice {
                ifindex: 7,
                flags: 6,
            }),
            Attribute::Mark(Mark { value: 1, mask: 2 }),
            Attribute::SetMark(3),
            Attribute::SetMarkMask(4),
            Attribute::MappingMaxage(60),
            Attribute::NatKeepalive(20),
            Attribute::Other(DefaultNla::new(60, vec![0; 12])),
        ];
        let text = Migration::new(&header(), &message, &TestLinks).to_string();
        let tail = " new-mark 0x1/0x2 set-mark 0x3/0x4 offload packet dev eth0 dir in \
                    mapping-maxage 60 nat-keepalive 20 attribute 60 length 12 \
                    flags update-h2h-sel,0x4 seq 5 pid 77";
        assert!(text.ends_with(tail), "{text}");
        assert!(!text.contains(" mark "), "{text}");
    }
}

// SPDX-License-Identifier: GPL-2.0
//! The words of `state migrate` to the message they mean.

use std::net::IpAddr;

use crate::address::{self, ip};
use crate::args::{Args, Once};
use crate::attribute::Attribute;
use crate::encap;
use crate::error::{Error, Result};
use crate::layout::{Encap, Mark, SaId, Selector, CLEAR_OFFLOAD, UPDATE_H2H_SEL};
use crate::link::Links;
use crate::mark;
use crate::migrate_state::MigrateState;
use crate::offload::{self, Offload};
use crate::proto;
use crate::selector;

/// Reads the words of `state migrate`, in any order of the keywords.
pub fn parse(args: &mut Args<'_>, links: &dyn Links) -> Result<MigrateState> {
    let mut words = Words::new();
    while let Some(keyword) = args.next() {
        words.read(keyword, args, links)?;
    }
    words.message()
}

/// What was said so far.
struct Words {
    dst: Once<IpAddr>,
    proto: Once<u8>,
    spi: Once<u32>,
    mark: Once<Mark>,
    new_dst: Once<IpAddr>,
    new_src: Once<IpAddr>,
    /// May be repeated: the kernel's own selftest of `ip xfrm state migrate` does so.
    new_reqid: Option<u32>,
    sel: Once<Selector>,
    update_h2h_sel: Once<()>,
    new: NewWords,
}

/// What the new SA shall not inherit.
struct NewWords {
    mark: Once<Mark>,
    set_mark: Once<(u32, Option<u32>)>,
    encap: Once<Encap>,
    offload: Once<Offload>,
    mapping_maxage: Once<u32>,
    nat_keepalive: Once<u32>,
}

impl Words {
    fn new() -> Self {
        Self {
            dst: Once::new("dst"),
            proto: Once::new("proto"),
            spi: Once::new("spi"),
            mark: Once::new("mark"),
            new_dst: Once::new("new-dst"),
            new_src: Once::new("new-src"),
            new_reqid: None,
            sel: Once::new("sel"),
            update_h2h_sel: Once::new("update-h2h-sel"),
            new: NewWords::new(),
        }
    }

    fn read(&mut self, keyword: &str, args: &mut Args<'_>, links: &dyn Links) -> Result<()> {
        match keyword {
            "dst" => self.dst.read(args, ip),
            "proto" => self.proto.read(args, proto::of_sa),
            "spi" => self.spi.read(args, |args| args.u32("SPI value is invalid")),
            "mark" => self.mark.read(args, mark::parse),
            "new-dst" => self.new_dst.read(args, ip),
            "new-src" => self.new_src.read(args, ip),
            "new-reqid" => {
                self.new_reqid = Some(args.u32("REQID value is invalid")?);
                Ok(())
            }
            "sel" => self.sel.read(args, |args| selector::parse(args, links)),
            "update-h2h-sel" => self.update_h2h_sel.read(args, |_| Ok(())),
            _ => self.new.read(keyword, args, links),
        }
    }

    fn message(self) -> Result<MigrateState> {
        let dst = self.dst.required()?;
        let proto = self.proto.required()?;
        let spi = self.spi.required()?;
        let new_dst = self.new_dst.required()?;
        let new_src = self.new_src.required()?;
        let new_reqid = self.new_reqid.ok_or_else(|| Error::missing("new-reqid"))?;
        let new_family = address::family(&new_dst);
        if new_family != address::family(&new_src) {
            return Err(Error::invalid(
                &new_src.to_string(),
                "the same address family is required between values after \"new-src\" and \"new-dst\"",
            ));
        }
        let mut new_sel = self.sel.optional().unwrap_or_default();
        if new_sel.family == 0 {
            new_sel.family = new_family;
        }
        let mut message = MigrateState {
            id: SaId {
                daddr: dst.into(),
                spi,
                family: address::family(&dst),
                proto,
            },
            new_daddr: new_dst.into(),
            new_saddr: new_src.into(),
            old_mark: self.mark.optional().unwrap_or_default(),
            new_sel,
            new_reqid,
            new_family,
            ..MigrateState::default()
        };
        if self.update_h2h_sel.optional().is_some() {
            message.flags |= UPDATE_H2H_SEL;
        }
        self.new.add_to(&mut message);
        Ok(message)
    }
}

impl NewWords {
    fn new() -> Self {
        Self {
            mark: Once::new("new-mark"),
            set_mark: Once::new("set-mark"),
            encap: Once::new("encap"),
            offload: Once::new("offload"),
            mapping_maxage: Once::new("mapping-maxage"),
            nat_keepalive: Once::new("nat-keepalive"),
        }
    }

    fn read(&mut self, keyword: &str, args: &mut Args<'_>, links: &dyn Links) -> Result<()> {
        match keyword {
            "new-mark" => self.mark.read(args, mark::parse),
            "set-mark" => self.set_mark.read(args, mark::parse_set),
            "encap" => self.encap.read(args, encap::parse),
            "offload" => self.offload.read(args, |args| offload::parse(args, links)),
            // The second is what a pending patch for "ip xfrm monitor" calls it.
            "mapping-maxage" | "mtimer-thresh" => self.mapping_maxage.read(args, |args| {
                args.u32(&format!("value after \"{keyword}\" is invalid"))
            }),
            "nat-keepalive" => self.nat_keepalive.read(args, |args| {
                args.u32("value after \"nat-keepalive\" is invalid")
            }),
            _ => Err(Error::invalid(keyword, "unknown")),
        }
    }

    fn add_to(self, message: &mut MigrateState) {
        let attributes = &mut message.attributes;
        let encap = self.encap.optional();
        attributes.extend(encap.map(Attribute::Encap));
        attributes.extend(self.mark.optional().map(Attribute::Mark));
        match self.offload.optional() {
            Some(Offload::Clear) => message.flags |= CLEAR_OFFLOAD,
            Some(Offload::Device(device)) => attributes.push(Attribute::OffloadDevice(device)),
            None => {}
        }
        if let Some((value, mask)) = self.set_mark.optional() {
            attributes.push(Attribute::SetMark(value));
            attributes.extend(mask.map(Attribute::SetMarkMask));
        }
        let maxage = self.mapping_maxage.optional();
        attributes.extend(maxage.map(Attribute::MappingMaxage));
        attributes.extend(self.nat_keepalive.optional().map(Attribute::NatKeepalive));
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;

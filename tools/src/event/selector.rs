// SPDX-License-Identifier: GPL-2.0
//! A selector in iproute2's words.

use std::fmt;

use serde::Serialize;

use crate::address::{family_name, show};
use crate::layout::{Address, Selector};
use crate::link::Links;
use crate::proto;

/// Which traffic an SA is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SelectorView {
    family: String,
    src: String,
    dst: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    proto: Option<String>,
    #[serde(flatten)]
    upper: Upper,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<String>,
}

/// What the upper-layer protocol makes of the two port fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Upper {
    #[serde(skip_serializing_if = "Option::is_none")]
    sport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<u32>,
}

impl SelectorView {
    /// Puts names to the numbers; a selector without a family has that of its SA.
    pub fn new(selector: &Selector, family: u16, links: &dyn Links) -> Self {
        let family = match selector.family {
            0 => family,
            own => own,
        };
        let prefix = |address: Address, length: u8| format!("{}/{length}", show(address, family));
        Self {
            family: family_name(family),
            src: prefix(selector.saddr, selector.prefixlen_s),
            dst: prefix(selector.daddr, selector.prefixlen_d),
            proto: (selector.proto != 0).then(|| proto::show_upper(selector.proto)),
            upper: Upper::new(selector),
            dev: (selector.ifindex != 0).then(|| links.show(selector.ifindex)),
        }
    }
}

impl Upper {
    fn new(selector: &Selector) -> Self {
        let source = (selector.sport_mask != 0).then_some(selector.sport);
        let destination = (selector.dport_mask != 0).then_some(selector.dport);
        let mut upper = Self::default();
        match selector.proto {
            proto::ICMP | proto::ICMPV6 | proto::MH => {
                (upper.r#type, upper.code) = (source, destination);
            }
            proto::GRE if source.is_some() || destination.is_some() => {
                let high = u32::from(selector.sport) << 16;
                upper.key = Some(high | u32::from(selector.dport));
            }
            _ => (upper.sport, upper.dport) = (source, destination),
        }
        upper
    }
}

impl fmt::Display for SelectorView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src {} dst {}", self.src, self.dst)?;
        if let Some(proto) = &self.proto {
            write!(f, " proto {proto}")?;
        }
        let upper = &self.upper;
        for (name, value) in [
            ("sport", upper.sport.map(u32::from)),
            ("dport", upper.dport.map(u32::from)),
            ("type", upper.r#type.map(u32::from)),
            ("code", upper.code.map(u32::from)),
            ("key", upper.key),
        ] {
            if let Some(value) = value {
                write!(f, " {name} {value}")?;
            }
        }
        if let Some(dev) = &self.dev {
            write!(f, " dev {dev}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{words, Args};
    use crate::link::TestLinks;

    fn through(line: &str) -> String {
        let words = words(line);
        let selector = crate::selector::parse(&mut Args::new(&words), &TestLinks).unwrap();
        SelectorView::new(&selector, 2, &TestLinks).to_string()
    }

    #[test]
    fn prints_what_it_reads() {
        for line in [
            "src 192.0.2.0/24 dst 0.0.0.0/0 proto tcp sport 80 dport 443",
            "src ::/0 dst 2001:db8::1/128 proto ipv6-icmp type 128 code 0 dev eth0",
            "src 0.0.0.0/0 dst 0.0.0.0/0 proto gre key 65538",
        ] {
            assert_eq!(through(line), line);
        }
        assert_eq!(through("proto any"), "src 0.0.0.0/0 dst 0.0.0.0/0");
    }
}

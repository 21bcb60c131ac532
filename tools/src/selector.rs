// SPDX-License-Identifier: GPL-2.0
//! Traffic selectors: iproute2's SELECTOR grammar to `struct xfrm_selector`.

use std::net::{IpAddr, Ipv4Addr};

use crate::address;
use crate::args::Args;
use crate::error::{Error, Result};
use crate::layout::Selector;
use crate::link::Links;
use crate::number;
use crate::proto;

/// Reads `[src PREFIX] [dst PREFIX] [dev DEV] [UPSPEC]` up to the first word that is none of these.
///
/// As in iproute2 the family is that of the addresses (0 where there are none), and a word that can
/// belong to the selector does.
pub fn parse(args: &mut Args<'_>, links: &dyn Links) -> Result<Selector> {
    let mut selector = Selector::default();
    let first = args.clone().value()?;
    let mut words = 0;
    loop {
        if args.accept("src") {
            let (source, length) = prefix(args, selector.family)?;
            selector.saddr = source.into();
            selector.prefixlen_s = length;
            selector.family = address::family(&source);
        } else if args.accept("dst") {
            let (destination, length) = prefix(args, selector.family)?;
            selector.daddr = destination.into();
            selector.prefixlen_d = length;
            selector.family = address::family(&destination);
        } else if args.accept("dev") {
            selector.ifindex = device(args, links)?;
        } else if !upspec(args, &mut selector)? {
            break;
        }
        words += 1;
    }
    if words == 0 {
        return Err(Error::invalid(first, "unknown"));
    }
    Ok(selector)
}

fn prefix(args: &mut Args<'_>, family: u16) -> Result<(IpAddr, u8)> {
    let word = args.value()?;
    let (ip, length) = address::parse_prefix(word)?;
    if family != 0 && family != address::family(&ip) {
        return Err(Error::invalid(
            word,
            "the same address family is required between values after \"src\" and \"dst\"",
        ));
    }
    Ok((ip, length))
}

fn device(args: &mut Args<'_>, links: &dyn Links) -> Result<i32> {
    match args.value()? {
        "none" => Ok(0),
        name => links
            .index(name)
            .ok_or_else(|| Error::invalid(name, "DEV value is invalid")),
    }
}

/// What the words of an UPSPEC ask of its protocol.
#[derive(Default)]
struct Details {
    ports: bool,
    icmp: bool,
    key: bool,
}

/// Reads all words of an UPSPEC; false if there is none.
fn upspec(args: &mut Args<'_>, selector: &mut Selector) -> Result<bool> {
    let mut details = Details::default();
    let mut found = false;
    while upspec_word(args, selector, &mut details)? {
        found = true;
    }
    details.check(selector.proto)?;
    Ok(found)
}

fn upspec_word(args: &mut Args<'_>, sel: &mut Selector, details: &mut Details) -> Result<bool> {
    if args.accept("proto") {
        let word = args.value()?;
        sel.proto = proto::parse_upper(word)
            .ok_or_else(|| Error::invalid(word, "PROTO value is invalid"))?;
    } else if args.accept("sport") {
        sel.sport = args.u16("value after \"sport\" is invalid")?;
        sel.sport_mask = port_mask(sel.sport);
        details.ports = true;
    } else if args.accept("dport") {
        sel.dport = args.u16("value after \"dport\" is invalid")?;
        sel.dport_mask = port_mask(sel.dport);
        details.ports = true;
    } else if args.accept("type") {
        sel.sport = icmp_number(args, "value after \"type\" is invalid")?;
        sel.sport_mask = u16::MAX;
        details.icmp = true;
    } else if args.accept("code") {
        sel.dport = icmp_number(args, "value after \"code\" is invalid")?;
        sel.dport_mask = u16::MAX;
        details.icmp = true;
    } else if args.accept("key") {
        let key = gre_key(args)?;
        (sel.sport, sel.dport) = ((key >> 16) as u16, key as u16);
        (sel.sport_mask, sel.dport_mask) = (u16::MAX, u16::MAX);
        details.key = true;
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// Port 0 means any port.
fn port_mask(port: u16) -> u16 {
    if port == 0 {
        0
    } else {
        u16::MAX
    }
}

fn icmp_number(args: &mut Args<'_>, why: &str) -> Result<u16> {
    let word = args.value()?;
    match number::parse_u8(word) {
        Some(value) => Ok(value.into()),
        None => Err(Error::invalid(word, why)),
    }
}

fn gre_key(args: &mut Args<'_>) -> Result<u32> {
    let word = args.value()?;
    let key = match word.contains('.') {
        true => word.parse().ok().map(|quad: Ipv4Addr| quad.to_bits()),
        false => number::parse_u32(word),
    };
    key.ok_or_else(|| Error::Usage("value after \"key\" is invalid".into()))
}

impl Details {
    fn check(&self, protocol: u8) -> Result<()> {
        use proto::{DCCP, GRE, ICMP, ICMPV6, MH, SCTP, TCP, UDP};
        let wrong = if self.ports && ![TCP, UDP, SCTP, DCCP].contains(&protocol) {
            "\"sport\" and \"dport\" are"
        } else if self.icmp && ![ICMP, ICMPV6, MH].contains(&protocol) {
            "\"type\" and \"code\" are"
        } else if self.key && protocol != GRE {
            "\"key\" is"
        } else {
            return Ok(());
        };
        Err(Error::Usage(format!(
            "{wrong} invalid with PROTO value \"{}\"",
            proto::show_upper(protocol)
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::words;
    use crate::link::TestLinks;

    fn read(line: &str) -> Result<(Selector, Vec<String>)> {
        let words = words(line);
        let mut args = Args::new(&words);
        let selector = parse(&mut args, &TestLinks)?;
        Ok((selector, args.map(String::from).collect()))
    }

    #[test]
    fn whole_selector() {
        let line = "src 192.0.2.0/24 dst 192.0.2.1 dev eth0 proto tcp sport 80 dport 0x50 spi 1";
        let (sel, rest) = read(line).unwrap();
        assert_eq!(sel.family, 2);
        assert_eq!((sel.prefixlen_s, sel.prefixlen_d), (24, 32));
        assert_eq!(sel.saddr.0[..4], [192, 0, 2, 0]);
        assert_eq!(sel.daddr.0[..4], [192, 0, 2, 1]);
        assert_eq!((sel.ifindex, sel.proto), (7, 6));
        assert_eq!((sel.sport, sel.sport_mask), (80, 0xffff));
        assert_eq!((sel.dport, sel.dport_mask), (80, 0xffff));
        assert_eq!(rest, ["spi", "1"]);
    }

    #[test]
    fn upper_layers() {
        let (sel, _) = read("proto icmp type 8 code 0").unwrap();
        assert_eq!((sel.sport, sel.sport_mask), (8, 0xffff));
        assert_eq!((sel.dport, sel.dport_mask), (0, 0xffff));
        assert_eq!(sel.family, 0, "no address, no family");
        let (sel, _) = read("proto gre key 1.2.3.4").unwrap();
        assert_eq!((sel.sport, sel.dport), (0x0102, 0x0304));
        let (sel, _) = read("proto gre key 0x10002").unwrap();
        assert_eq!((sel.sport, sel.dport), (1, 2));
        let (sel, _) = read("proto udp sport 0").unwrap();
        assert_eq!(sel.sport_mask, 0, "port 0 is any port");
        let (sel, _) = read("sport 1 proto udp src ::1").unwrap();
        assert_eq!((sel.sport, sel.family, sel.prefixlen_s), (1, 10, 128));
    }

    #[test]
    fn complaints() {
        let wrong = |why: &str, word: &str| format!("Error: argument \"{word}\" is wrong: {why}");
        let cases = [
            ("junk", wrong("unknown", "junk")),
            ("proto zz", wrong("PROTO value is invalid", "zz")),
            ("dev zz", wrong("DEV value is invalid", "zz")),
            (
                "proto icmp type 300",
                wrong("value after \"type\" is invalid", "300"),
            ),
            (
                "src 1.1.1.1 dst ::1",
                wrong(
                    "the same address family is required between values after \"src\" and \"dst\"",
                    "::1",
                ),
            ),
            (
                "proto icmp sport 1",
                "\"sport\" and \"dport\" are invalid with PROTO value \"icmp\"".into(),
            ),
            (
                "proto tcp type 3",
                "\"type\" and \"code\" are invalid with PROTO value \"tcp\"".into(),
            ),
            ("proto gre key zz", "value after \"key\" is invalid".into()),
            ("src", Error::incomplete().to_string()),
            ("", Error::incomplete().to_string()),
        ];
        for (line, complaint) in cases {
            assert_eq!(read(line).unwrap_err().to_string(), complaint, "{line:?}");
        }
    }
}

// SPDX-License-Identifier: GPL-2.0
//! Protocol names: iproute2's table for SAs, and the IP protocols a selector may name.

use std::fs;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::number;

/// SA protocols: iproute2's XFRM-PROTO.
const XFRM: &[(&str, u8)] = &[
    ("esp", 50),
    ("ah", 51),
    ("comp", COMP),
    ("route2", 43),
    ("hao", 60),
    ("ipsec-any", 255),
];

/// The protocols that iproute2's selector grammar names, for systems without /etc/protocols.
const IP: &[(&str, u8)] = &[
    ("icmp", ICMP),
    ("tcp", TCP),
    ("udp", UDP),
    ("dccp", DCCP),
    ("gre", GRE),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", ICMPV6),
    ("sctp", SCTP),
    ("mobility-header", MH),
];

/// IPPROTO_COMP.
pub const COMP: u8 = 108;
/// IPPROTO_ICMP.
pub const ICMP: u8 = 1;
/// IPPROTO_TCP.
pub const TCP: u8 = 6;
/// IPPROTO_UDP.
pub const UDP: u8 = 17;
/// IPPROTO_DCCP.
pub const DCCP: u8 = 33;
/// IPPROTO_GRE.
pub const GRE: u8 = 47;
/// IPPROTO_ICMPV6.
pub const ICMPV6: u8 = 58;
/// IPPROTO_SCTP.
pub const SCTP: u8 = 132;
/// IPPROTO_MH.
pub const MH: u8 = 135;

/// Reads the protocol of an SA.
pub fn parse_xfrm(word: &str) -> Option<u8> {
    by_name(XFRM, word)
}

/// Reads the protocol of an SA, which must be there.
pub fn of_sa(args: &mut Args<'_>) -> Result<u8> {
    let word = args.value()?;
    parse_xfrm(word).ok_or_else(|| Error::invalid(word, "XFRM-PROTO value is invalid"))
}

/// The name of an SA's protocol, or its number.
pub fn show_xfrm(number: u8) -> String {
    by_number(XFRM, number).unwrap_or_else(|| number.to_string())
}

/// Reads the upper-layer protocol of a selector: `any`, a name or a number.
pub fn parse_upper(word: &str) -> Option<u8> {
    if word == "any" {
        return Some(0);
    }
    by_name(IP, word)
        .or_else(|| in_file(&fs::read_to_string("/etc/protocols").ok()?, word))
        .or_else(|| number::parse_u8(word))
}

/// The name of a selector's upper-layer protocol, or its number.
pub fn show_upper(number: u8) -> String {
    by_number(IP, number).unwrap_or_else(|| number.to_string())
}

fn by_name(table: &[(&str, u8)], word: &str) -> Option<u8> {
    let entry = table.iter().find(|(name, _)| *name == word);
    entry.map(|(_, number)| *number)
}

fn by_number(table: &[(&str, u8)], number: u8) -> Option<String> {
    let entry = table.iter().find(|(_, candidate)| *candidate == number);
    entry.map(|(name, _)| (*name).into())
}

/// Looks a name or alias up in the text of protocols(5): `name number alias... # comment`.
fn in_file(text: &str, word: &str) -> Option<u8> {
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, number, aliases @ ..] = fields.as_slice() else {
            continue;
        };
        if *name == word || aliases.contains(&word) {
            return number.parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sa_protocols() {
        assert_eq!(parse_xfrm("esp"), Some(50));
        assert_eq!(parse_xfrm("ipsec-any"), Some(255));
        assert_eq!(parse_xfrm("50"), None, "iproute2 takes names only");
        assert_eq!(show_xfrm(108), "comp");
        assert_eq!(show_xfrm(4), "4");
    }

    #[test]
    fn upper_protocols() {
        assert_eq!(parse_upper("any"), Some(0));
        assert_eq!(parse_upper("tcp"), Some(6));
        assert_eq!(parse_upper("0x11"), Some(17));
        assert_eq!(parse_upper("nonesuch"), None);
        assert_eq!(show_upper(58), "ipv6-icmp");
    }

    #[test]
    fn protocols_file() {
        let text = "# tcp 1\nospf\t89\tOSPFIGP # routing\nbroken\n";
        assert_eq!(in_file(text, "ospf"), Some(89));
        assert_eq!(in_file(text, "OSPFIGP"), Some(89));
        assert_eq!(in_file(text, "tcp"), None);
        assert_eq!(in_file(text, "routing"), None);
    }
}

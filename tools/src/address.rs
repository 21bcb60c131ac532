// SPDX-License-Identifier: GPL-2.0
//! IP addresses: words to `xfrm_address_t` and back, together with the family it does not hold.

use std::net::IpAddr;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::layout::{Address, AF_INET, AF_INET6};
use crate::number;

/// Reads an address of either family.
pub fn parse(word: &str) -> Result<IpAddr> {
    word.parse().map_err(|_| {
        Error::Usage(format!(
            "Error: any valid address is expected rather than \"{word}\"."
        ))
    })
}

/// Reads an address that must be there.
pub fn ip(args: &mut Args<'_>) -> Result<IpAddr> {
    parse(args.value()?)
}

/// Reads `ADDR[/PLEN]`, a host where there is no length.
pub fn parse_prefix(word: &str) -> Result<(IpAddr, u8)> {
    let wrong = || {
        Error::Usage(format!(
            "Error: any valid prefix is expected rather than \"{word}\"."
        ))
    };
    let (address, length) = match word.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (word, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits = bits(&address);
    let length = match length {
        Some(length) => number::parse_u8(length).ok_or_else(wrong)?,
        None => bits,
    };
    if length > bits {
        return Err(wrong());
    }
    Ok((address, length))
}

fn bits(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address family's number.
pub fn family(address: &IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// An address as text; of an unknown family, all its bytes in hexadecimal.
pub fn show(address: Address, family: u16) -> String {
    match address.ip(family) {
        Some(ip) => ip.to_string(),
        None => format!("{:032x}", u128::from_be_bytes(address.0)),
    }
}

/// The address family's name, as `ip -j` prints it.
pub fn family_name(family: u16) -> String {
    match family {
        AF_INET => "inet".into(),
        AF_INET6 => "inet6".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let (address, length) = parse_prefix("192.0.2.0/24").unwrap();
        assert_eq!((address.to_string().as_str(), length), ("192.0.2.0", 24));
        assert_eq!(parse_prefix("192.0.2.1").unwrap().1, 32);
        assert_eq!(parse_prefix("2001:db8::1").unwrap().1, 128);
        assert_eq!(parse_prefix("::/0").unwrap().1, 0);
        for word in ["", "/24", "1.1.1.1/", "1.1.1.1/33", "::/129", "1.1.x.2"] {
            let error = parse_prefix(word).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("Error: any valid prefix is expected rather than \"{word}\".")
            );
        }
    }

    #[test]
    fn both_ways() {
        for word in ["192.0.2.1", "2001:db8::1"] {
            let ip = parse(word).unwrap();
            assert_eq!(show(Address::from(ip), family(&ip)), word);
        }
        assert!(parse("192.0.2.1/32").is_err());
        assert_eq!(show(Address::default(), 0), "0".repeat(32));
    }
}

// SPDX-License-Identifier: GPL-2.0
//! Encapsulations: `none` or `espinudp SPORT DPORT OADDR`.

use crate::address;
use crate::args::Args;
use crate::error::{Error, Result};
use crate::layout::{Encap, UDP_ENCAP_ESPINUDP};

/// Reads an encapsulation; `none` is the template of type 0, which asks to remove it.
///
/// The kernel migrates to no other type than espinudp, so no other is offered.
pub fn parse(args: &mut Args<'_>) -> Result<Encap> {
    match args.value()? {
        "none" => Ok(Encap::default()),
        "espinudp" => Ok(Encap {
            kind: UDP_ENCAP_ESPINUDP,
            sport: args.u16("SPORT value after \"encap\" is invalid")?,
            dport: args.u16("DPORT value after \"encap\" is invalid")?,
            oa: address::parse(args.value()?)?.into(),
        }),
        word => Err(Error::invalid(word, "ENCAP-TYPE value is invalid")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::words;

    fn read(line: &str) -> Result<Encap> {
        parse(&mut Args::new(&words(line)))
    }

    #[test]
    fn kinds() {
        assert_eq!(read("none").unwrap(), Encap::default());
        let encap = read("espinudp 4500 0x1195 192.0.2.1").unwrap();
        assert_eq!(encap.kind, 2);
        assert_eq!((encap.sport, encap.dport), (4500, 4501));
        assert_eq!(encap.oa.0[..5], [192, 0, 2, 1, 0]);
    }

    #[test]
    fn complaints() {
        let wrong = |why: &str| format!("Error: argument \"zz\" is wrong: {why}");
        for (line, complaint) in [
            ("zz", wrong("ENCAP-TYPE value is invalid")),
            (
                "espinudp zz",
                wrong("SPORT value after \"encap\" is invalid"),
            ),
            (
                "espinudp 1 zz",
                wrong("DPORT value after \"encap\" is invalid"),
            ),
            (
                "espinudp 1 2 zz",
                "Error: any valid address is expected rather than \"zz\".".into(),
            ),
            ("espinudp 1 2", Error::incomplete().to_string()),
        ] {
            assert_eq!(read(line).unwrap_err().to_string(), complaint, "{line:?}");
        }
    }
}

// SPDX-License-Identifier: GPL-2.0
//! Offloads: `none` or `[crypto | packet] dev DEV dir {in | out}`.

use crate::args::Args;
use crate::error::{Error, Result};
use crate::layout::{OffloadDevice, XFRM_OFFLOAD_INBOUND, XFRM_OFFLOAD_PACKET};
use crate::link::Links;

/// What becomes of the offload of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// It ends.
    Clear,
    /// This device does it.
    Device(OffloadDevice),
}

/// Reads an offload.
pub fn parse(args: &mut Args<'_>, links: &dyn Links) -> Result<Offload> {
    if args.accept("none") {
        return Ok(Offload::Clear);
    }
    let mut flags = 0;
    if args.accept("packet") {
        flags |= XFRM_OFFLOAD_PACKET;
    } else {
        args.accept("crypto");
    }
    keyword(args, "dev", "value after \"offload\" is invalid")?;
    let name = args.value()?;
    let ifindex = links
        .index(name)
        .ok_or_else(|| Error::invalid(name, "value after \"offload dev\" is invalid"))?;
    keyword(args, "dir", "value after \"offload dir\" is invalid")?;
    match args.value()? {
        "in" => flags |= XFRM_OFFLOAD_INBOUND,
        "out" => {}
        word => return Err(Error::invalid(word, "DIR value is invalid")),
    }
    Ok(Offload::Device(OffloadDevice { ifindex, flags }))
}

fn keyword(args: &mut Args<'_>, keyword: &str, why: &str) -> Result<()> {
    match args.value()? {
        word if word == keyword => Ok(()),
        word => Err(Error::invalid(word, why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::words;
    use crate::link::TestLinks;

    fn read(line: &str) -> Result<Offload> {
        parse(&mut Args::new(&words(line)), &TestLinks)
    }

    #[test]
    fn kinds() {
        assert_eq!(read("none").unwrap(), Offload::Clear);
        for (line, flags) in [
            ("dev eth0 dir out", 0),
            ("crypto dev eth0 dir in", 2),
            ("packet dev eth0 dir out", 4),
            ("packet dev eth0 dir in", 6),
        ] {
            let ifindex = 7;
            let expected = Offload::Device(OffloadDevice { ifindex, flags });
            assert_eq!(read(line).unwrap(), expected, "{line:?}");
        }
    }

    #[test]
    fn complaints() {
        let wrong = |why: &str| format!("Error: argument \"zz\" is wrong: {why}");
        for (line, complaint) in [
            ("zz", wrong("value after \"offload\" is invalid")),
            (
                "dev zz dir in",
                wrong("value after \"offload dev\" is invalid"),
            ),
            (
                "dev eth0 zz",
                wrong("value after \"offload dir\" is invalid"),
            ),
            ("dev eth0 dir zz", wrong("DIR value is invalid")),
            ("dev eth0", Error::incomplete().to_string()),
        ] {
            assert_eq!(read(line).unwrap_err().to_string(), complaint, "{line:?}");
        }
    }
}

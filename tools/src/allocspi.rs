// SPDX-License-Identifier: GPL-2.0
//! The words of `state allocspi` to XFRM_MSG_ALLOCSPI, with the defaults of `ip xfrm state allocspi`.

use std::net::IpAddr;

use netlink_packet_core::Emitable;

use crate::address::{self, ip};
use crate::args::{Args, Once};
use crate::attribute::Attribute;
use crate::error::{Error, Result};
use crate::layout::Mark;
use crate::mark;
use crate::message::XfrmMessage;
use crate::proto::{self, COMP};
use crate::sa::{self, Sa};

const XFRM_MSG_ALLOCSPI: u16 = 22;

/// A request for an SPI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllocSpi {
    sa: Sa,
    min: u32,
    max: u32,
}

impl From<AllocSpi> for XfrmMessage {
    fn from(request: AllocSpi) -> Self {
        let AllocSpi { sa, min, max } = request;
        let mut payload = vec![0; sa::LEN];
        sa.write(&mut payload);
        payload.extend(min.to_ne_bytes());
        payload.extend(max.to_ne_bytes());

        let mut attributes: Vec<_> = sa.mark.map(Attribute::Mark).into_iter().collect();
        if sa.dir != 0 {
            attributes.push(Attribute::Direction(sa.dir));
        }
        let fixed = payload.len();
        payload.resize(fixed + attributes.as_slice().buffer_len(), 0);
        attributes.as_slice().emit(&mut payload[fixed..]);
        Self::Other {
            kind: XFRM_MSG_ALLOCSPI,
            payload,
        }
    }
}

/// Reads the words of `state allocspi`, in any order of the keywords.
pub fn parse(args: &mut Args<'_>) -> Result<AllocSpi> {
    let mut words = Words::new();
    while let Some(keyword) = args.next() {
        words.read(keyword, args)?;
    }
    words.request()
}

struct Words {
    src: Once<IpAddr>,
    dst: Once<IpAddr>,
    proto: Once<u8>,
    mode: Once<u8>,
    mark: Once<Mark>,
    reqid: Once<u32>,
    seq: Once<u32>,
    min: Once<u32>,
    max: Once<u32>,
    dir: Once<u8>,
}

impl Words {
    fn new() -> Self {
        Self {
            src: Once::new("src"),
            dst: Once::new("dst"),
            proto: Once::new("proto"),
            mode: Once::new("mode"),
            mark: Once::new("mark"),
            reqid: Once::new("reqid"),
            seq: Once::new("seq"),
            min: Once::new("min"),
            max: Once::new("max"),
            dir: Once::new("dir"),
        }
    }

    fn read(&mut self, keyword: &str, args: &mut Args<'_>) -> Result<()> {
        match keyword {
            "src" => self.src.read(args, ip),
            "dst" => self.dst.read(args, ip),
            "proto" => self.proto.read(args, proto::of_sa),
            "mode" => self.mode.read(args, mode),
            "mark" => self.mark.read(args, mark::parse),
            "reqid" => self
                .reqid
                .read(args, |args| args.u32("REQID value is invalid")),
            "seq" => self.seq.read(args, |args| args.u32("SEQ value is invalid")),
            "min" => self
                .min
                .read(args, |args| args.u32("value after \"min\" is invalid")),
            "max" => self
                .max
                .read(args, |args| args.u32("value after \"max\" is invalid")),
            "dir" => self.dir.read(args, dir),
            _ => Err(Error::invalid(keyword, "unknown")),
        }
    }

    fn request(self) -> Result<AllocSpi> {
        let dst = self.dst.required()?;
        let proto = self.proto.required()?;
        let src = self.src.optional();
        if src.is_some_and(|src| address::family(&src) != address::family(&dst)) {
            return Err(Error::invalid(
                &dst.to_string(),
                "the same address family is required between values after \"src\" and \"dst\"",
            ));
        }
        let (min, max) = match (self.min.optional(), self.max.optional()) {
            (Some(min), Some(max)) if min > max => {
                return Err(Error::invalid(
                    &min.to_string(),
                    "value after \"min\" is larger than \"max\" value",
                ));
            }
            (Some(min), Some(max)) => (min, max),
            (Some(_), None) => return Err(Error::missing("max")),
            (None, Some(_)) => return Err(Error::missing("min")),
            (None, None) if proto == COMP => (0xc000, 0xffff),
            (None, None) => (0x100, 0x0fff_ffff),
        };
        Ok(AllocSpi {
            sa: Sa {
                daddr: dst.into(),
                saddr: src.map(Into::into).unwrap_or_default(),
                proto,
                family: address::family(&dst),
                mode: self.mode.optional().unwrap_or_default(),
                reqid: self.reqid.optional().unwrap_or_default(),
                seq: self.seq.optional().unwrap_or_default(),
                mark: self.mark.optional(),
                dir: self.dir.optional().unwrap_or_default(),
                ..Sa::default()
            },
            min,
            max,
        })
    }
}

fn mode(args: &mut Args<'_>) -> Result<u8> {
    let word = args.value()?;
    sa::parse_mode(word).ok_or_else(|| Error::invalid(word, "MODE value is invalid"))
}

fn dir(args: &mut Args<'_>) -> Result<u8> {
    match args.value()? {
        "in" => Ok(1),
        "out" => Ok(2),
        word => Err(Error::invalid(word, "DIR value is not \"in\" or \"out\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::words;

    const ID: &str = "dst 192.0.2.2 proto esp";

    fn read(line: &str) -> Result<AllocSpi> {
        parse(&mut Args::new(&words(line)))
    }

    fn payload(line: &str) -> Vec<u8> {
        match read(line).unwrap().into() {
            XfrmMessage::Other { kind: 22, payload } => payload,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn shortest_request() {
        let bytes = payload(ID);
        assert_eq!(bytes.len(), 232);
        let sa = Sa::read(&bytes[..sa::LEN]).unwrap();
        assert_eq!((sa.spi, sa.proto, sa.family, sa.dir), (0, 50, 2, 0));
        assert_eq!(bytes[224..228], 0x100u32.to_ne_bytes());
        assert_eq!(bytes[228..], 0x0fff_ffffu32.to_ne_bytes());
        let bytes = payload("dst 192.0.2.2 proto comp");
        assert_eq!(bytes[224..228], 0xc000u32.to_ne_bytes());
        assert_eq!(bytes[228..], 0xffffu32.to_ne_bytes());
    }

    #[test]
    fn all_words() {
        let line = format!(
            "src 192.0.2.1 {ID} mode tunnel mark 1 mask 3 reqid 7 seq 9 min 0x100 max 256 dir in"
        );
        let request = read(&line).unwrap();
        assert_eq!(
            request,
            AllocSpi {
                sa: Sa {
                    spi: 0,
                    seq: 9,
                    mark: Some(Mark { value: 1, mask: 3 }),
                    dir: 1,
                    ..sa::sample()
                },
                min: 256,
                max: 256,
            }
        );
        let attributes = payload(&line).split_off(232);
        assert_eq!(
            attributes,
            [12, 0, 21, 0, 1, 0, 0, 0, 3, 0, 0, 0, 5, 0, 33, 0, 1, 0, 0, 0]
        );
    }

    #[test]
    fn complaints() {
        for (words, complaint) in [
            ("min 1", "Error: argument \"max\" is required"),
            ("max 1", "Error: argument \"min\" is required"),
            (
                "min 2 max 1",
                "Error: argument \"2\" is wrong: value after \"min\" is larger than \"max\" value",
            ),
            (
                "dir fwd",
                "Error: argument \"fwd\" is wrong: DIR value is not \"in\" or \"out\"",
            ),
            (
                "mode zz",
                "Error: argument \"zz\" is wrong: MODE value is invalid",
            ),
            ("spi 1", "Error: argument \"spi\" is wrong: unknown"),
            (
                "src 2001:db8::1",
                "Error: argument \"192.0.2.2\" is wrong: the same address family is required \
                 between values after \"src\" and \"dst\"",
            ),
            (
                "dir in dir out",
                "Error: duplicate \"dir\": \"out\" is the second value.",
            ),
        ] {
            let error = read(&format!("{ID} {words}")).unwrap_err();
            assert_eq!(error.to_string(), complaint);
        }
        let error = read("dst 192.0.2.2").unwrap_err();
        assert_eq!(error.to_string(), "Error: argument \"proto\" is required");
    }
}

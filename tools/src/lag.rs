// SPDX-License-Identifier: GPL-2.0
//! Bonds whose SAs the module has on all slaves, as it tells in debugfs.
//!
//! `rust/lag_offload/show.rs` has the format. Lines that are new to this program are passed over.

use std::fmt;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::proto;

/// What `lag show` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    bonds: Vec<Bond>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Bond {
    bond: String,
    ifindex: u32,
    offload: bool,
    /// Why it does not offload.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    slaves: Vec<String>,
    /// What each slave has of all SAs.
    totals: Vec<Total>,
    sas: Vec<Sa>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Total {
    slave: String,
    sas: u32,
    #[serde(flatten)]
    counted: Option<Counted>,
}

/// What a slave says that it has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Counted {
    packets: u64,
    bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Sa {
    dst: String,
    proto: String,
    spi: u32,
    dir: String,
    handles: Vec<Handle>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Handle {
    slave: String,
    handle: u64,
    #[serde(flatten)]
    counted: Option<Counted>,
    /// The upper half of extended sequence numbers that it was told last.
    #[serde(skip_serializing_if = "Option::is_none")]
    esn: Option<u32>,
}

impl Report {
    /// Reads the module's list, and keeps what is in this namespace.
    pub fn parse(text: &str, netns: u64) -> Self {
        let mut report = Self::default();
        let mut here = false;
        for line in text.lines() {
            if let ["bond", name, "ifindex", ifindex, "netns", number] = *words(line) {
                here = number.parse() == Ok(netns);
                if here {
                    report.bonds.push(Bond {
                        bond: name.into(),
                        ifindex: ifindex.parse().unwrap_or_default(),
                        offload: true,
                        ..Bond::default()
                    });
                }
            } else if let (true, Some(bond)) = (here, report.bonds.last_mut()) {
                bond.read(line);
            }
        }
        report.bonds.iter_mut().for_each(Bond::sum);
        report
    }

    /// Keeps this bond only.
    pub fn keep(&mut self, name: &str) -> Result<()> {
        self.bonds.retain(|bond| bond.bond == name);
        if self.bonds.is_empty() {
            return Err(Error::invalid(name, "no bond of the module's"));
        }
        Ok(())
    }
}

fn words(line: &str) -> Box<[&str]> {
    line.split_whitespace().collect()
}

fn number(text: &str) -> u64 {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).unwrap_or_default()
}

impl Bond {
    /// Reads a line about it.
    fn read(&mut self, line: &str) {
        if let Some(reason) = line.strip_prefix("reason ") {
            self.offload = false;
            self.reason = Some(reason.into());
            return;
        }
        match *words(line) {
            ["slave", name] => self.slaves.push(name.into()),
            ["sa", proto, dst, spi, dir] => self.sas.push(Sa {
                dst: dst.into(),
                proto: proto
                    .parse()
                    .map_or_else(|_| proto.into(), proto::show_xfrm),
                spi: number(spi) as u32,
                dir: dir.into(),
                handles: Vec::new(),
            }),
            ["handle", slave, handle] => {
                if let Some(sa) = self.sas.last_mut() {
                    sa.handles.push(Handle {
                        slave: slave.into(),
                        handle: number(handle),
                        ..Handle::default()
                    });
                }
            }
            ["counted", slave, packets, bytes] => {
                if let (Some(handle), Ok(packets), Ok(bytes)) =
                    (self.last_on(slave), packets.parse(), bytes.parse())
                {
                    handle.counted = Some(Counted { packets, bytes });
                }
            }
            ["esn", slave, half] => {
                if let Some(handle) = self.last_on(slave) {
                    handle.esn = Some(number(half) as u32);
                }
            }
            _ => {}
        }
    }

    /// Returns the last SA on a slave, if that is what the last handle is of.
    fn last_on(&mut self, slave: &str) -> Option<&mut Handle> {
        let last = self.sas.last_mut()?.handles.last_mut()?;
        (last.slave == slave).then_some(last)
    }

    /// Sums up what each slave has.
    fn sum(&mut self) {
        let total = |slave: &String| {
            let handles = self.sas.iter().flat_map(|sa| &sa.handles);
            let mut total = Total {
                slave: slave.clone(),
                ..Total::default()
            };
            for handle in handles.filter(|handle| handle.slave == *slave) {
                total.sas += 1;
                if let Some(counted) = handle.counted {
                    let sum = total.counted.get_or_insert_default();
                    sum.packets += counted.packets;
                    sum.bytes += counted.bytes;
                }
            }
            total
        };
        self.totals = self.slaves.iter().map(total).collect();
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " packets {} bytes {}", self.packets, self.bytes)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, bond) in self.bonds.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{bond}")?;
        }
        if self.bonds.is_empty() {
            f.write_str("no bonds")?;
        }
        Ok(())
    }
}

impl fmt::Display for Bond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slaves = match self.slaves.len() {
            0 => "none".into(),
            _ => self.slaves.join(" "),
        };
        match &self.reason {
            Some(reason) => write!(f, "{}: offload no: {reason}", self.bond)?,
            None => write!(f, "{}: offload yes", self.bond)?,
        }
        write!(f, "\n    slaves {slaves}")?;
        for Total {
            slave,
            sas,
            counted,
        } in &self.totals
        {
            write!(f, "\n        {slave} SAs {sas}")?;
            counted.map_or(Ok(()), |counted| write!(f, "{counted}"))?;
        }
        write!(f, "\n    SAs {}", self.sas.len())?;
        for sa in &self.sas {
            let Sa {
                dst,
                proto,
                spi,
                dir,
                ..
            } = sa;
            write!(f, "\n    dst {dst} proto {proto} spi 0x{spi:08x} dir {dir}")?;
            for on in &sa.handles {
                write!(f, "\n        {} handle {:#x}", on.slave, on.handle)?;
                on.counted
                    .map_or(Ok(()), |counted| write!(f, "{counted}"))?;
                on.esn.map_or(Ok(()), |esn| write!(f, " esn 0x{esn:08x}"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "bond bond0 ifindex 5 netns 4026531840\n\
        slave eth0\nslave eth1\nnews of a later version\n\
        sa 50 192.0.2.10 0x100 out\nhandle eth0 0x80000000\ncounted eth0 7 700\nesn eth0 0x1\n\
        handle eth1 0x80000002\ncounted eth1 1 100\nesn eth1 0x1\n\
        sa 50 192.0.2.10 0x101 out\nhandle eth0 0x80000001\ncounted eth0 3 300\n\
        bond bond0 ifindex 7 netns 1\nslave eth9\n\
        bond bond1 ifindex 6 netns 4026531840\nreason the mode is neither 802.3ad nor balance-xor\n";

    #[test]
    fn text() {
        let text = "bond0: offload yes\n    slaves eth0 eth1\n        \
            eth0 SAs 2 packets 10 bytes 1000\n        eth1 SAs 1 packets 1 bytes 100\n    SAs 2\n    \
            dst 192.0.2.10 proto esp spi 0x00000100 dir out\n        \
            eth0 handle 0x80000000 packets 7 bytes 700 esn 0x00000001\n        \
            eth1 handle 0x80000002 packets 1 bytes 100 esn 0x00000001\n    \
            dst 192.0.2.10 proto esp spi 0x00000101 dir out\n        \
            eth0 handle 0x80000001 packets 3 bytes 300\n\
            bond1: offload no: the mode is neither 802.3ad nor balance-xor\n    slaves none\n    SAs 0";
        assert_eq!(Report::parse(TEXT, 4026531840).to_string(), text);
        assert_eq!(Report::parse(TEXT, 2).to_string(), "no bonds");
    }

    #[test]
    fn json() {
        let json = "{\"bonds\":[{\"bond\":\"bond0\",\"ifindex\":7,\"offload\":true,\
            \"slaves\":[\"eth9\"],\"totals\":[{\"slave\":\"eth9\",\"sas\":0}],\"sas\":[]}]}";
        assert_eq!(
            serde_json::to_string(&Report::parse(TEXT, 1)).unwrap(),
            json
        );
        let on = serde_json::to_value(Report::parse(TEXT, 4026531840)).unwrap();
        assert_eq!(on["bonds"][0]["totals"][0]["packets"], 10);
        assert_eq!(on["bonds"][0]["sas"][0]["handles"][1]["bytes"], 100);
        assert_eq!(on["bonds"][0]["sas"][0]["handles"][1]["esn"], 1);
    }

    #[test]
    fn one() {
        let mut report = Report::parse(TEXT, 4026531840);
        report.keep("bond1").unwrap();
        assert_eq!(report.bonds.len(), 1);
        assert!(report.keep("bond0").is_err());
    }
}

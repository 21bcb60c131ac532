// SPDX-License-Identifier: GPL-2.0
//! The SPIs of a network namespace: whom a new one may be shared with, and who shares one now.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::proto;
use crate::sa::Sa;

/// What `spi show` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `net.xfrm_next.spi_scope`; none without the module.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<u8>,
    sas: usize,
    larval: usize,
    duplicates: Vec<Duplicate>,
}

/// An SPI that several SAs of a protocol have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Duplicate {
    spi: u32,
    proto: String,
    sas: usize,
}

impl Report {
    /// Counts these SAs.
    pub fn new(scope: Option<u8>, sas: &[Sa]) -> Self {
        let mut counts = BTreeMap::new();
        for sa in sas.iter().filter(|sa| sa.spi != 0) {
            *counts.entry((sa.spi, sa.proto)).or_default() += 1;
        }
        Self {
            scope,
            sas: sas.len(),
            larval: sas.iter().filter(|sa| sa.is_larval()).count(),
            duplicates: counts
                .into_iter()
                .filter(|&(_, sas)| sas > 1)
                .map(|((spi, proto), sas)| Duplicate {
                    spi,
                    proto: proto::show_xfrm(proto),
                    sas,
                })
                .collect(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match self.scope {
            Some(0) => "0: one per destination and protocol",
            Some(1) => "1: inbound one per protocol, others per destination and protocol",
            Some(2) => "2: one per protocol",
            Some(_) => "unknown to this program",
            None => "the kernel's own: one per protocol",
        };
        write!(f, "scope {rule}\nSAs {}, larval {}", self.sas, self.larval)?;
        for Duplicate { spi, proto, sas } in &self.duplicates {
            write!(f, "\nproto {proto} spi 0x{spi:08x} SAs {sas}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sa::sample;

    fn report() -> Report {
        let mut sas = vec![sample(); 5];
        sas[1].has_algorithm = true;
        sas[2].proto = 51;
        sas[3].spi = 0;
        sas[4].spi = 0;
        Report::new(Some(1), &sas)
    }

    #[test]
    fn counts() {
        assert_eq!(
            report().to_string(),
            "scope 1: inbound one per protocol, others per destination and protocol\n\
             SAs 5, larval 4\nproto esp spi 0x00000100 SAs 2"
        );
    }

    #[test]
    fn without_anything() {
        let report = Report::new(None, &[]);
        let text = "scope the kernel's own: one per protocol\nSAs 0, larval 0";
        assert_eq!(report.to_string(), text);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(json, "{\"sas\":0,\"larval\":0,\"duplicates\":[]}");
    }
}

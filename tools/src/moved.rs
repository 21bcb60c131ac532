// SPDX-License-Identifier: GPL-2.0
//! The SAs that are also found at addresses which they have left, as the module lists them.
//!
//! `rust/xfrm/replaced/old_address.rs` has the format: keywords, and a value behind each. Those that
//! are new to this program are passed over.

use std::fmt;

use serde::Serialize;

use crate::event::MarkView;
use crate::number;
use crate::proto;

/// What `moved show` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Report(Vec<Moved>);

/// An SA at an old address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Moved {
    /// The old address.
    dst: String,
    proto: String,
    spi: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<MarkView>,
    #[serde(rename = "new-dst")]
    new_dst: String,
    /// For how long it is found there still.
    msecs: u32,
}

impl Report {
    /// Reads the module's list.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().map(Moved::parse).collect())
    }
}

impl Moved {
    fn parse(line: &str) -> Self {
        let words: Vec<_> = line.split_whitespace().collect();
        let mut moved = Self::default();
        for pair in words.chunks_exact(2) {
            let (keyword, value) = (pair[0], pair[1]);
            let number = |text| number::parse_u32(text).unwrap_or_default();
            match keyword {
                "dst" => moved.dst = value.into(),
                "proto" => moved.proto = proto::show_xfrm(number(value) as u8),
                "spi" => moved.spi = number(value),
                "mark" => {
                    moved.mark = value.split_once('/').map(|(value, mask)| MarkView {
                        value: number(value),
                        mask: number(mask),
                    });
                }
                "new-dst" => moved.new_dst = value.into(),
                "msecs" => moved.msecs = number(value),
                _ => {}
            }
        }
        moved.mark = moved.mark.filter(|mark| *mark != MarkView::default());
        moved
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, moved) in self.0.iter().enumerate() {
            let line = if n == 0 { "" } else { "\n" };
            let Moved {
                dst, proto, spi, ..
            } = moved;
            write!(f, "{line}dst {dst} proto {proto} spi 0x{spi:08x}")?;
            if let Some(mark) = moved.mark {
                write!(f, " mark {mark}")?;
            }
            write!(f, " new-dst {} msecs {}", moved.new_dst, moved.msecs)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_module_tells() {
        let report = Report::parse(
            "dst 192.0.2.2 proto 50 spi 0x00001001 mark 0x0/0x0 new-dst 2001:db8::2 msecs 4999\n\
             dst 192.0.2.3 proto 108 spi 0x0000c001 mark 0x1/0xff new-dst 192.0.2.4 msecs 0 new 1\n",
        );
        assert_eq!(
            report.to_string(),
            "dst 192.0.2.2 proto esp spi 0x00001001 new-dst 2001:db8::2 msecs 4999\n\
             dst 192.0.2.3 proto comp spi 0x0000c001 mark 0x1/0xff new-dst 192.0.2.4 msecs 0"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            json[1],
            serde_json::json!({"dst": "192.0.2.3", "proto": "comp", "spi": 0xc001,
                "mark": {"value": 1, "mask": 255}, "new-dst": "192.0.2.4", "msecs": 0})
        );
        assert_eq!(Report::parse("").to_string(), "");
    }
}

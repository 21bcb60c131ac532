// SPDX-License-Identifier: GPL-2.0
//! What the module has counted in this network namespace.
//!
//! `rust/xfrm/stats.rs` has the names; whichever there are is shown.

use std::fmt;

use serde::{Serialize, Serializer};

/// What `show` shows, in the module's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report(Vec<(String, u64)>);

impl Report {
    /// Reads lines of a name and a number.
    pub fn parse(text: &str) -> Self {
        let counter = |line: &str| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            Some((name.into(), value.trim().parse().ok()?))
        };
        Self(text.lines().filter_map(counter).collect())
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, value)) in self.0.iter().enumerate() {
            let line = if n == 0 { "" } else { "\n" };
            write!(f, "{line}{name:<24} {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_module_tells() {
        let report = Report::parse("XfrmMigrateState        \t12\nXfrmAllocSpi            \t0\n");
        let text = "XfrmMigrateState         12\nXfrmAllocSpi             0";
        assert_eq!(report.to_string(), text);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(json, "{\"XfrmMigrateState\":12,\"XfrmAllocSpi\":0}");
    }
}

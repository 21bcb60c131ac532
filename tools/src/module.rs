// SPDX-License-Identifier: GPL-2.0
//! What `xfrm_next.ko` says of itself in sysfs and, for each network namespace, in sysctl files.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};

/// The module's name.
pub const NAME: &str = "xfrm_next";

/// The module as this network namespace sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Module {
    /// Whether it is loaded.
    pub loaded: bool,
    /// Its version, where it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether its MIGRATE_STATE handler serves this network namespace.
    pub migrate_state: bool,
}

impl Module {
    /// Asks the running system.
    pub fn read() -> Self {
        Self::read_under(Path::new("/"))
    }

    fn read_under(root: &Path) -> Self {
        let read = |path: String| {
            let text = fs::read_to_string(root.join(path)).ok()?;
            Some(text.trim().to_owned())
        };
        let version = read(format!("sys/module/{NAME}/version"));
        let serves = read(format!("proc/sys/net/{NAME}/migrate_state"));
        Self {
            loaded: version.is_some() || serves.is_some(),
            version,
            migrate_state: serves.as_deref() == Some("1"),
        }
    }

    /// `net.xfrm_next.spi_scope` of this network namespace, if the module is loaded.
    pub fn spi_scope() -> Option<u8> {
        let text = fs::read_to_string(format!("/proc/sys/net/{NAME}/spi_scope")).ok()?;
        text.trim().parse().ok()
    }

    /// Reads what the module tells in `/proc/net` of this network namespace.
    pub fn proc_net(file: &str) -> Result<String> {
        let path = format!("/proc/thread-self/net/{NAME}_{file}");
        let what = "Cannot read the module's file in /proc/net (is it loaded?)";
        fs::read_to_string(path).map_err(Error::system(what))
    }

    /// Name and version.
    pub fn title(&self) -> String {
        match &self.version {
            Some(version) => format!("{NAME} {version}"),
            None => NAME.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_files() {
        let root = std::env::temp_dir().join(format!("xfrm-next-test-{}", std::process::id()));
        assert_eq!(Module::read_under(&root), Module::default());
        let (sys, net) = ("sys/module/xfrm_next", "proc/sys/net/xfrm_next");
        fs::create_dir_all(root.join(sys)).unwrap();
        fs::create_dir_all(root.join(net)).unwrap();
        fs::write(root.join(sys).join("version"), "0.1.0\n").unwrap();
        for (content, serves) in [("1\n", true), ("0\n", false)] {
            fs::write(root.join(net).join("migrate_state"), content).unwrap();
            let module = Module::read_under(&root);
            assert!(module.loaded);
            assert_eq!(module.title(), "xfrm_next 0.1.0");
            assert_eq!(module.migrate_state, serves);
        }
        fs::remove_dir_all(&root).unwrap();
    }
}

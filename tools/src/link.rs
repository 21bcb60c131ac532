// SPDX-License-Identifier: GPL-2.0
//! Network devices by name and by index.

use std::os::unix::net::UnixDatagram;

use rustix::net::netdevice;

/// Where device names are looked up; tests have their own.
pub trait Links {
    /// The index of a named device.
    fn index(&self, name: &str) -> Option<i32>;
    /// The name of an indexed device.
    fn name(&self, index: i32) -> Option<String>;

    /// The name, or `ifN` as iproute2 prints a device that is gone.
    fn show(&self, index: i32) -> String {
        self.name(index).unwrap_or_else(|| format!("if{index}"))
    }
}

/// The devices of the network namespace this program runs in.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceLinks;

impl Links for NamespaceLinks {
    fn index(&self, name: &str) -> Option<i32> {
        let socket = UnixDatagram::unbound().ok()?;
        let index = netdevice::name_to_index(&socket, name).ok()?;
        i32::try_from(index).ok()
    }

    fn name(&self, index: i32) -> Option<String> {
        let socket = UnixDatagram::unbound().ok()?;
        let index = u32::try_from(index).ok()?;
        netdevice::index_to_name(&socket, index).ok()
    }
}

/// One device, eth0 with index 7.
#[cfg(test)]
pub(crate) struct TestLinks;

#[cfg(test)]
impl Links for TestLinks {
    fn index(&self, name: &str) -> Option<i32> {
        (name == "eth0").then_some(7)
    }

    fn name(&self, index: i32) -> Option<String> {
        (index == 7).then(|| "eth0".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_devices() {
        assert_eq!(NamespaceLinks.index("nonesuch-device0"), None);
        assert_eq!(NamespaceLinks.name(-1), None);
        assert_eq!(TestLinks.show(9), "if9");
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What the bonds of all namespaces have, for `xfrm-next lag show`.
//!
//! A line for each thing, and what belongs to it in the lines that follow:
//!
//! ```text
//! bond NAME ifindex NUMBER netns INODE
//! reason TEXT                                  unless it offloads
//! slave NAME
//! sa PROTOCOL DESTINATION SPI DIRECTION
//! handle SLAVE HANDLE
//! counted SLAVE PACKETS BYTES                  if its driver tells
//! esn SLAVE UPPER_HALF                         told last, of extended sequence numbers
//! ```

use super::lag::Lag;
use crate::{
    net::{bonding::Bond, Rtnl},
    xfrm::offload::{lower::Sa, upper::Upper, uppers::Uppers},
};
use kernel::{debugfs, fmt, sync::Arc};

/// The contents of the file.
pub struct Shown(pub(super) Arc<Uppers<Lag>>);

impl debugfs::Writer for Shown {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.each(|upper, rtnl| bond(upper, rtnl, f))
    }
}

fn bond(upper: &Upper<Lag>, rtnl: &Rtnl, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let device = upper.device();
    let name = device.name(rtnl);
    let (ifindex, netns) = (device.ifindex(), device.net(rtnl).inode());
    writeln!(f, "bond {name} ifindex {ifindex} netns {netns}")?;
    let mut lag = upper.lock();
    if let Some(reason) = Bond::of(device).and_then(|bond| lag.data().reason(device, bond)) {
        writeln!(f, "reason {reason}")?;
    }
    for slave in lag.data().slaves() {
        writeln!(f, "slave {}", slave.name(rtnl))?;
    }
    for sa in lag.sas() {
        write_sa(sa.sa(), f)?;
        sa.update_stats();
        sa.each(|on| {
            let name = on.lower.name(rtnl);
            writeln!(f, "handle {name} {:#x}", on.handle)?;
            if let Some((packets, bytes)) = on.counted {
                writeln!(f, "counted {name} {packets} {bytes}")?;
            }
            on.upper_half
                .map_or(Ok(()), |half| writeln!(f, "esn {name} {half:#x}"))
        })?;
    }
    Ok(())
}

fn write_sa(sa: &Sa, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let id = sa.id();
    let spi = u32::from_be_bytes(id.spi);
    let dir = if sa.is_inbound() { "in" } else { "out" };
    writeln!(f, "sa {} {} {spi:#x} {dir}", id.proto, id.destination())
}

// SPDX-License-Identifier: GPL-2.0

//! Whether a bond offloads, and if not, why.

use crate::net::{
    bonding::{Bond, Mode},
    device::Esp,
    Device,
};
use core::fmt;

/// Why SAs of a bond are not ours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The bond's own driver has them.
    ActiveBackup,
    /// The mode is another one.
    Mode,
    /// The administrator hasn't asked for it, or a slave can't.
    Off,
    /// The bond leaves it to devices to segment packets of ESP, for a moment.
    Segmentation,
    /// There is nobody to have the SAs. Anybody can make such a bond, in a namespace of their
    /// own, and all wait while its SAs are flushed.
    NoSlaves,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ActiveBackup => "mode active-backup is handled by the bonding driver",
            Self::Mode => "the mode is neither 802.3ad nor balance-xor",
            Self::Off => "esp-hw-offload of the bond is off",
            Self::Segmentation => "tx-esp-segmentation of the bond is on",
            Self::NoSlaves => "it has no slaves",
        })
    }
}

/// Whether a bond uses all its slaves, and any of them for any packet.
pub fn uses_all(bond: Bond<'_>) -> bool {
    matches!(bond.mode(), Mode::Xor | Mode::Lacp)
}

/// Says why SAs of a bond can't be on all its slaves now, if so. Any context.
pub fn obstacle(bond: Bond<'_>) -> Option<Reason> {
    match bond.mode() {
        Mode::ActiveBackup => Some(Reason::ActiveBackup),
        Mode::Other => Some(Reason::Mode),
        Mode::Xor | Mode::Lacp => None,
    }
}

/// Says why new SAs of a bond are not ours, if so. Any context.
///
/// Segments are made before ESP. A slave that doesn't segment all that the bond does
/// would have it done by software, after the packet has been given its number: the
/// segments, all with that number, would be encrypted with one nonce.
pub fn reason(device: &Device, bond: Bond<'_>) -> Option<Reason> {
    let esp = device.esp();
    obstacle(bond)
        .or((!esp.offloads()).then_some(Reason::Off))
        .or((!esp.segmentation().is_none()).then_some(Reason::Segmentation))
}

/// What the bond does of ESP by having all its slaves do it.
pub fn shared_esp(device: &Device) -> Esp {
    match Bond::of(device) {
        Some(bond) if uses_all(bond) => device.esp(),
        _ => Esp::NONE,
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Bonds, as far as they can be read. The driver exports nothing.
//!
//! C header: `include/net/bonding.h`

use super::Device;
use crate::raw;

/// How a bond uses its slaves. What isn't named is `Other`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One at a time.
    ActiveBackup,
    /// By a hash of each packet.
    Xor,
    /// By a hash of each packet, as negotiated with the peer.
    Lacp,
    /// Any other way.
    Other,
}

/// A device that is a bond.
///
/// # Invariants
///
/// It was made by the bonding driver, whose `struct bonding` is its private data as
/// long as it lives.
///
/// # Examples
///
/// ```ignore
/// fn sends_by_all(device: &Device) -> bool {
///     Bond::of(device).is_some_and(|bond| matches!(bond.mode(), Mode::Xor | Mode::Lacp))
/// }
/// ```
#[derive(Clone, Copy)]
pub struct Bond<'a>(&'a Device);

impl<'a> Bond<'a> {
    /// Returns `None` if the device is no bond. Any context.
    ///
    /// Mirrors `netif_is_bond_master()`.
    pub fn of(device: &'a Device) -> Option<Self> {
        // INVARIANT: Only the bonding driver sets both flags.
        // SAFETY: The device is valid. Its flags say what it is, but for a moment
        // in which the bond becomes one of another type, and is none to us.
        unsafe { raw::xfrm_next_is_bond(device.as_ptr()) }.then_some(Self(device))
    }

    /// Returns the device. Any context.
    pub fn device(self) -> &'a Device {
        self.0
    }

    /// Returns the mode of now. It changes only while there are no slaves, and
    /// not always with an event. Any context.
    pub fn mode(self) -> Mode {
        // SAFETY: By the type invariant.
        match unsafe { raw::xfrm_next_bond_mode(self.0.as_ptr()) } as u32 {
            raw::BOND_MODE_ACTIVEBACKUP => Mode::ActiveBackup,
            raw::BOND_MODE_XOR => Mode::Xor,
            raw::BOND_MODE_8023AD => Mode::Lacp,
            _ => Mode::Other,
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! SAs that are offloaded to a bond, on all its slaves.
//!
//! In modes 802.3ad and balance-xor a bond decides packet by packet which slave
//! sends. By then the packet has been left to hardware to be encrypted, so each
//! slave has to know the SA: one that doesn't would send it as it is. So every
//! slave holds every SA ([`lag`]), under a handle of its own.
//!
//! The administrator asks for it by `ethtool -K BOND esp-hw-offload on`; then the
//! slaves are asked for the same ([`features`]). What makes an SA ours is decided
//! when it is added ([`verdict`]); when the bond can't any more, its SAs are
//! flushed. The mode can change without an event, so it is read again wherever it matters.
//! How the bond hashes packets doesn't: which slave sends is the same to an SA that is on all.
//!
//! Locks, outermost first: RTNL or `xfrm_cfg_mutex` -> that of the bond -> that of the SA's
//! replica -> the drivers'. Under those of [`Uppers`] and [`Members`] nothing is locked.

#![forbid(unsafe_code)]

mod features;
mod lag;
mod members;
mod show;
mod verdict;

use crate::{
    net::{
        bonding::Bond,
        device::Esp,
        not_supported,
        notifier::{Event, Registration, Watch},
        warn_ratelimited, Device, ExtAck, RcuBarrier, Rtnl, TextBarrier,
    },
    xfrm::offload::{upper::Upper, upper_calls, uppers::Uppers},
};
use kernel::{debugfs, prelude::*, sync::Arc};
use lag::Lag;
use members::Members;
use show::Shown;

/// Offloading for bonds; dropping it gives them back to their driver.
#[pin_data]
pub struct Service {
    // Dropped in this order: nobody looks; bonds are given back, whose slaves are
    // watched to the end; no events; and nobody is in our text any more.
    #[pin]
    shown: debugfs::File<Shown>,
    _directory: debugfs::Dir,
    _closing: Closing,
    #[pin]
    notifier: Registration<Watcher>,
    _bonds: Arc<Uppers<Lag>>,
    _freed: RcuBarrier,
}

impl Service {
    /// Takes over all bonds that are and will be. Takes RTNL.
    pub fn new(text: Arc<TextBarrier>) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let bonds = upper_calls::uppers(text)?;
            let members = Members::new()?;
            let directory = debugfs::Dir::new(c"xfrm_next");
            Ok(try_pin_init!(Self {
                _freed: RcuBarrier,
                _bonds: bonds.clone(),
                _closing: Closing(bonds.clone()),
                notifier <- Registration::new(Watcher { bonds: bonds.clone(), members }),
                shown <- directory.read_only_file(c"lag", Shown(bonds)),
                _directory: directory.clone(),
            }))
        })
    }
}

/// Gives all bonds back when it is dropped, and takes none any more.
struct Closing(Arc<Uppers<Lag>>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Follows what happens to bonds and slaves.
struct Watcher {
    bonds: Arc<Uppers<Lag>>,
    members: Arc<Members>,
}

impl Watch for Watcher {
    fn event(
        &self,
        rtnl: &Rtnl,
        device: &Device,
        event: Event<'_>,
        extack: &mut ExtAck<'_>,
    ) -> Result {
        match event {
            Event::Appears => {
                if let Some(bond) = Bond::of(device) {
                    self.appears(rtnl, bond);
                }
            }
            Event::Goes => {
                self.bonds.give_back(device, rtnl);
                // It has left, if bonding knows what it does.
                if let Some(bond) = self.master(device) {
                    lag::leave(&mut bond.lock(), device);
                }
                self.sweep(device);
            }
            Event::Down(locked) => {
                if let Some(borrowed) = self.sweep(device) {
                    locked.want_esp(rtnl, Esp::NONE, borrowed);
                }
            }
            Event::Changes => self.flush_unfit(rtnl, device),
            Event::Features => self.features(rtnl, device),
            Event::Joins(upper) => {
                if let Some(bond) = self.find(upper) {
                    if let Some(borrowed) = self.sweep(device) {
                        features::disable(rtnl, device, borrowed);
                    }
                    self.flush_unfit(rtnl, upper);
                    return self.joins(rtnl, &bond, device, extack);
                }
            }
            Event::Leaves(upper) => {
                if let Some(bond) = self.find(upper) {
                    lag::leave(&mut bond.lock(), device);
                }
            }
        }
        Ok(())
    }
}

impl Watcher {
    fn appears(&self, rtnl: &Rtnl, bond: Bond<'_>) {
        let device = bond.device();
        let lag = || {
            let mut lag = Lag::new(&self.members);
            let mut slaves = rtnl.lowers(device);
            slaves.try_for_each(|slave| lag.note(device, slave))?;
            Ok(lag)
        };
        if let Err(e) = self.bonds.take(bond, lag, rtnl) {
            let name = device.name(rtnl);
            return warn_ratelimited!("{name}: can't take over its IPsec offload: {e:?}\n");
        }
        self.features(rtnl, device);
    }

    /// Takes the SAs from a slave that has left, of whichever bond it was. Returns what is to be
    /// taken back of ESP, if it has.
    fn sweep(&self, slave: &Device) -> Option<Esp> {
        let bond = self.master(slave)?;
        let swept = lag::sweep(&mut bond.lock(), Some(slave));
        swept
            .map(|(_, borrowed)| borrowed)
            .filter(|esp| !esp.is_none())
    }

    /// Returns the bond that a device is a slave of, also when it isn't linked any more.
    fn master(&self, slave: &Device) -> Option<Arc<Upper<Lag>>> {
        self.bonds.find(self.members.bond(slave)?)
    }

    fn find(&self, device: &Device) -> Option<Arc<Upper<Lag>>> {
        self.bonds.find(device.identity())
    }

    /// Flushes the SAs of a bond that can't have them on all slaves any more.
    fn flush_unfit(&self, rtnl: &Rtnl, device: &Device) {
        let Some(bond) = self.find(device) else {
            return;
        };
        let unfit = Bond::of(device).is_none_or(|bond| verdict::obstacle(bond).is_some());
        if unfit && !bond.lock().is_empty() {
            bond.flush(rtnl);
        }
    }

    fn features(&self, rtnl: &Rtnl, device: &Device) {
        if let Some(bond) = self.find(device) {
            // Bonding computes the features after a slave has stopped sending.
            let sweep = || lag::sweep(&mut bond.lock(), None);
            while let Some((slave, borrowed)) = sweep() {
                features::disable(rtnl, &slave, borrowed);
            }
            features::of_bond(rtnl, &bond);
            return self.flush_unfit(rtnl, device);
        }
        let master = rtnl.master(device).and_then(|master| self.find(master));
        if let Some(bond) = master {
            features::of_slave(rtnl, &bond, device);
        }
    }

    /// Lets a slave join, with all SAs of the bond, or refuses it.
    fn joins(
        &self,
        rtnl: &Rtnl,
        bond: &Upper<Lag>,
        slave: &Device,
        extack: &mut ExtAck<'_>,
    ) -> Result {
        let esp = verdict::shared_esp(bond.device());
        let borrowed = features::enable(rtnl, slave, esp);
        let result = {
            let mut lag = bond.lock();
            // The mode may have changed since, without an event.
            lag.data().esp = esp;
            match lag::check(&mut lag, slave, esp) {
                Ok(()) => {
                    let joined = lag::join(&mut lag, bond.device(), slave, esp, extack);
                    lag.data().borrow(slave, borrowed);
                    joined.inspect_err(|_| {
                        extack.set_weak(format_args!("The slave can't take the bond's SAs"));
                    })
                }
                Err(misfit) => {
                    // The text is cut off at 80 characters.
                    extack.set(format_args!("Slave can't join ESP offload: {misfit}"));
                    Err(not_supported())
                }
            }
        };
        if result.is_err() {
            features::disable(rtnl, slave, borrowed);
        }
        result
    }
}

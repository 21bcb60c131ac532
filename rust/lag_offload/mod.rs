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
//! flushed. Mode and hash can change without an event, so they are read again
//! wherever it matters.
//!
//! Locks, outermost first: RTNL -> that of [`Bonds`]; these, or `xfrm_cfg_mutex` ->
//! that of the bond -> that of the SA's replica -> the drivers'.

#![forbid(unsafe_code)]

mod features;
mod lag;
mod show;
mod verdict;

use crate::{
    net::{
        bonding::Bond,
        not_supported,
        notifier::{Event, Registration, Watch},
        warn_ratelimited, Device, ExtAck, RcuBarrier, Rtnl, TextBarrier,
    },
    xfrm::offload::{takeover::Takeover, upper::Upper, upper_calls::Exit},
};
use kernel::{
    debugfs, new_mutex,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc, Mutex,
    },
    time::{delay::fsleep, Delta},
};
use lag::Lag;
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
    _exit: Arc<Exit<Lag>>,
    _freed: RcuBarrier,
}

impl Service {
    /// Takes over all bonds that are and will be. Takes RTNL.
    pub fn new(text: Arc<TextBarrier>) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let exit = Exit::new(text)?;
            let bonds = Arc::pin_init(Bonds::new(exit.clone()), GFP_KERNEL)?;
            let shown = Shown(bonds.clone());
            let watcher = Watcher(bonds.clone());
            let closing = Closing(bonds);
            let directory = debugfs::Dir::new(c"xfrm_next");
            Ok(try_pin_init!(Self {
                _freed: RcuBarrier,
                _exit: exit,
                _closing: closing,
                notifier <- Registration::new(watcher),
                shown <- directory.read_only_file(c"lag", shown),
                _directory: directory.clone(),
            }))
        })
    }
}

/// Gives all bonds back when it is dropped, and takes none any more.
struct Closing(Arc<Bonds>);

impl Drop for Closing {
    fn drop(&mut self) {
        while !self.0.close(&Rtnl::lock()) {
            // An SA is on its way to where it can be flushed.
            fsleep(Delta::from_millis(10));
        }
    }
}

/// The bonds that have been taken over.
#[pin_data]
struct Bonds {
    #[pin]
    list: Mutex<KVec<Takeover<Lag>>>,
    closed: Atomic<bool>,
    exit: Arc<Exit<Lag>>,
}

impl Bonds {
    fn new(exit: Arc<Exit<Lag>>) -> impl PinInit<Self> {
        pin_init!(Self {
            list <- new_mutex!(KVec::new(), "xfrm_next_bonds"),
            closed: Atomic::new(false),
            exit,
        })
    }

    /// Takes no more bonds, and gives those back that have no SAs; whether that were all.
    fn close(&self, rtnl: &Rtnl) -> bool {
        self.closed.store(true, ordering::Relaxed);
        let all: usize = self.list.lock().len();
        for _ in 0..all {
            let oldest = self.list.lock().remove(0);
            // As in `give_back`.
            if let Ok(Err(busy)) = oldest.map(|taken| taken.give_back(rtnl)) {
                let _ = self.list.lock().push_within_capacity(busy);
            }
        }
        self.list.lock().is_empty()
    }

    fn find(&self, device: &Device) -> Option<Arc<Upper<Lag>>> {
        let list = self.list.lock();
        let mut all = list.iter().map(Takeover::upper);
        all.find(|upper| upper.device().is(device)).cloned()
    }

    /// Takes a bond over, with the slaves that it has.
    fn take(&self, rtnl: &Rtnl, bond: Bond<'_>) -> Result {
        let device = bond.device();
        let mut list = self.list.lock();
        let known = list.iter().any(|taken| taken.upper().device().is(device));
        if known || self.closed.load(ordering::Relaxed) {
            return Ok(());
        }
        list.reserve(1, GFP_KERNEL)?;
        let mut lag = Lag::new();
        rtnl.lowers(device).try_for_each(|slave| lag.note(slave))?;
        list.push(Takeover::new(&self.exit, bond, lag, rtnl)?, GFP_KERNEL)?;
        Ok(())
    }

    /// Gives a bond back that is about to go, as soon as it has no SAs.
    fn give_back(&self, rtnl: &Rtnl, device: &Device) {
        let taken = {
            let mut list = self.list.lock();
            let mut all = list.iter();
            let index = all.position(|taken| taken.upper().device().is(device));
            index.and_then(|index| list.remove(index).ok())
        };
        // There is room, since it was there before; nobody else adds under RTNL.
        if let Some(Err(busy)) = taken.map(|taken| taken.give_back(rtnl)) {
            let _ = self.list.lock().push_within_capacity(busy);
        }
    }
}

/// Follows what happens to bonds and slaves.
struct Watcher(Arc<Bonds>);

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
                self.0.give_back(rtnl, device);
                self.sweep(device);
            }
            Event::Down => self.sweep(device),
            Event::Changes => self.flush_unfit(rtnl, device),
            Event::Features => self.features(rtnl, device),
            Event::Joins(upper) => {
                if let Some(bond) = self.0.find(upper) {
                    self.flush_unfit(rtnl, upper);
                    return self.joins(rtnl, &bond, device, extack);
                }
            }
            Event::Leaves(upper) => {
                if let Some(bond) = self.0.find(upper) {
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
        if let Err(e) = self.0.take(rtnl, bond) {
            let name = device.name(rtnl);
            return warn_ratelimited!("{name}: can't take over its IPsec offload: {e:?}\n");
        }
        self.features(rtnl, device);
    }

    /// Takes the SAs from a slave that has left, of whichever bond it was.
    fn sweep(&self, slave: &Device) {
        for taken in self.0.list.lock().iter() {
            lag::sweep(&mut taken.upper().lock(), Some(slave));
        }
    }

    /// Flushes the SAs of a bond that can't have them on all slaves any more.
    fn flush_unfit(&self, rtnl: &Rtnl, device: &Device) {
        let Some(bond) = self.0.find(device) else {
            return;
        };
        let unfit = Bond::of(device).is_none_or(|bond| verdict::obstacle(bond).is_some());
        if unfit && !bond.lock().is_empty() {
            bond.flush(rtnl);
        }
    }

    fn features(&self, rtnl: &Rtnl, device: &Device) {
        if let Some(bond) = self.0.find(device) {
            // Bonding computes the features after a slave has stopped sending.
            lag::sweep(&mut bond.lock(), None);
            features::of_bond(rtnl, &bond);
            return self.flush_unfit(rtnl, device);
        }
        let master = rtnl.master(device).and_then(|master| self.0.find(master));
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
            lag::sweep(&mut lag, Some(slave));
            match lag::check(&mut lag, slave, esp) {
                Ok(()) => lag::join(&mut lag, slave, esp, extack).inspect_err(|_| {
                    extack.set_weak(format_args!("The slave can't take the bond's SAs"));
                }),
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

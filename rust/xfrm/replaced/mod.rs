// SPDX-License-Identifier: GPL-2.0

//! SAs that have been replaced while packets were in flight on them.
//!
//! Such an SA is in no table any more, so nothing finds it; but it is valid still, so that
//! what had found it before finishes ([`in_flight`]), with the numbers and the window of
//! the newest SA of its line ([`lineage`]). When nobody refers to it, after a second at the
//! latest, or when there are too many of one line, it is ended ([`deferred`]): dead, with a
//! window that takes nothing.
//!
//! Locks: [`State::lock`] of the replaced SA -> that of the newest -> the lineage.
//!
//! [`State::lock`]: super::State::lock

mod deferred;
mod in_flight;
mod kept;
mod lineage;
mod replay;
mod window;

pub(in crate::xfrm) use lineage::{is_kept, Lineage, Room};
pub(in crate::xfrm) use window::close_window;

use crate::{
    net::{
        namespace::{PerNamespace, Registration, Setup, Slot, SlotName},
        work::Delayed,
        Namespace,
    },
    redirect::{Redirect, Redirector},
};
use deferred::Deferred;
use in_flight::{Overflow, Recheck};
use kernel::{list::ListArc, prelude::*};

/// SAs can be replaced while this is there. Dropping it ends all that are kept; may sleep.
#[pin_data]
pub struct Replaced {
    // Dropped in this order: all SAs are ended, then nobody has to answer for them.
    #[pin]
    namespaces: Registration<PerNet>,
    #[pin]
    recheck: Redirect<Recheck>,
    #[pin]
    overflow: Redirect<Overflow>,
}

impl Replaced {
    /// Starts to answer for replaced SAs. May sleep. One at a time may exist.
    ///
    /// Fails with `EBUSY` if there is one, `ENOMEM`, or as [`Redirect::new`] does.
    pub fn new(redirector: &Redirector) -> impl PinInit<Self, Error> + '_ {
        try_pin_init!(Self {
            namespaces <- Registration::new(),
            recheck <- Redirect::new(Recheck, redirector),
            overflow <- Redirect::new(Overflow, redirector),
        })
    }

    /// Sees to it that a lineage ends that has begun. Doesn't sleep.
    ///
    /// # Safety
    ///
    /// Its SAs are of `net`.
    pub(in crate::xfrm) unsafe fn defer(&self, net: &Namespace, lineage: ListArc<Lineage>) {
        self.namespaces.with(net, |deferred| {
            if deferred.add(lineage) {
                deferred.ask();
            }
        });
    }
}

/// What each namespace has: a worker, and what that looks at.
struct PerNet;

static SLOT: Slot = Slot::new();

impl PerNamespace for PerNet {
    type Data<'net> = Delayed<Deferred>;

    const SLOT: SlotName = SLOT.name();

    fn new(_net: Setup<'_>) -> impl PinInit<Delayed<Deferred>, Error> {
        Delayed::new(Deferred::new())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! SAs that have been replaced while packets were in flight on them.
//!
//! Such an SA is in no table any more, so nothing finds it; but it is valid still, so that
//! what had found it before finishes ([`in_flight`]), with the numbers and the window of
//! the newest SA of its line ([`lineage`]). When nobody refers to it, after a second at the
//! latest, or when there are too many of one line, it is ended ([`deferred`]): dead, with a
//! window that takes nothing.
//!
//! For as long as `net.xfrm_next.migrate_grace` says, received packets still find it at the
//! address that it had ([`old_address`]), and it is kept for these, too.
//!
//! Locks: [`State::lock`] of the replaced SA -> that of the newest -> the lineage -> the old
//! addresses, or the list of lineages.
//!
//! [`State::lock`]: super::State::lock

mod deferred;
mod in_flight;
mod kept;
mod lineage;
mod old_address;
mod replay;
mod window;

pub(in crate::xfrm) use deferred::Deferred;
pub(in crate::xfrm) use lineage::{is_kept, Room};
pub(in crate::xfrm) use window::close_window;

use crate::{
    net::{
        namespace::{PerNamespace, Registration, Setup, Slot, SlotName},
        sysctl,
        work::Delayed,
        Namespace,
    },
    redirect::{Redirect, Redirector},
    xfrm::stats::Counter,
};
use deferred::Files;
use in_flight::{Overflow, Recheck};
use kernel::{prelude::*, sync::Arc};
use old_address::Lookup;

/// SAs can be replaced while this is there. Dropping it ends all that are kept; may sleep.
#[pin_data]
pub struct Replaced {
    // Dropped in this order: no SA is found any more, then all are ended, then nobody has to
    // answer for them.
    #[pin]
    lookup: Redirect<Lookup>,
    namespaces: Arc<Registration<PerNet>>,
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
        pin_init::pin_init_scope(move || {
            let namespaces = Arc::pin_init(Registration::new(), GFP_KERNEL)?;
            Ok(try_pin_init!(Self {
                recheck <- Redirect::new(Recheck, redirector),
                overflow <- Redirect::new(Overflow, redirector),
                lookup <- Redirect::new(Lookup(namespaces.clone()), redirector),
                namespaces,
            }))
        })
    }

    /// Counts one in `net`. Any context.
    pub fn count(&self, net: &Namespace, counter: Counter) {
        self.namespaces
            .with(net, |deferred| deferred.stats().count(counter));
    }

    /// Lets `f` use what `net` has for replaced SAs.
    pub(in crate::xfrm) fn with<R>(
        &self,
        net: &Namespace,
        f: impl FnOnce(&Delayed<Deferred<'_>>) -> R,
    ) -> R {
        self.namespaces.with(net, |deferred| f(deferred))
    }
}

/// What each namespace has: a worker, and what that looks at.
struct PerNet;

static SLOT: Slot = Slot::new();

static FILES: Files = Files {
    grace: grace_in(c"net/xfrm_next"),
    moved: c"xfrm_next_moved",
    stat: c"xfrm_next_stat",
};

const fn grace_in(directory: &'static CStr) -> sysctl::Definition {
    sysctl::Definition {
        directory,
        name: c"migrate_grace",
        default: 5_000,
        min: 0,
        max: 60_000,
    }
}

/// What the first namespace has, once more for a test.
#[cfg(CONFIG_KUNIT = "y")]
pub(in crate::xfrm) fn for_test() -> Result<Pin<KBox<Deferred<'static>>>> {
    static FILES: Files = Files {
        grace: grace_in(c"net/xfrm_next_kunit"),
        moved: c"xfrm_next_kunit_moved",
        stat: c"xfrm_next_kunit_stat",
    };

    let first = Namespace::first();
    KBox::pin_init(Deferred::new(first.into(), &FILES), GFP_KERNEL)
}

impl PerNamespace for PerNet {
    type Data<'net> = Delayed<Deferred<'net>>;

    const SLOT: SlotName = SLOT.name();

    fn new<'net>(net: Setup<'net>) -> impl PinInit<Delayed<Deferred<'net>>, Error> {
        Delayed::new(Deferred::new(net, &FILES))
    }
}

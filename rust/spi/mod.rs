// SPDX-License-Identifier: GPL-2.0

//! SPIs that are unique as far as a namespace wants it.
//!
//! `net.xfrm_next.spi_scope` says with which SAs a newly allocated SPI may not
//! be shared ([`policy`]). The SPIs of the range that was asked for are tried in
//! a random order, each once ([`candidates`]), and each is looked up in the
//! kernel's table of SPIs or, if other destinations matter, in an [`index`].
//!
//! Locks, outermost first: `xfrm_cfg_mutex` of the namespace, which all who ask
//! for SPIs hold -> [`Known::index`] -> lock of the SA -> `xfrm_state_lock`.
//!
//! Mirrors `xfrm_alloc_userspi()` of `net/xfrm/xfrm_user.c` and
//! `xfrm_alloc_spi()` of `net/xfrm/xfrm_state.c`; docs/spi-scope.md says where
//! it differs.

#![forbid(unsafe_code)]

mod candidates;
#[cfg(CONFIG_KUNIT = "y")]
mod cases;
mod index;
mod policy;
mod request;
mod search;

use crate::{
    net::{
        namespace::{PerNamespace, Registration, Setup, Slot, SlotName},
        netlink, sysctl,
        work::{Delayed, Work},
        ExtAck,
    },
    redirect::{Redirect, Redirector},
    xfrm::{
        messages,
        replaced::Replaced,
        spi::{
            entry::{self, AllocSpi, SpiTarget, UserSpiTarget},
            larval, Arrivals,
        },
        state::config::Config,
        uapi, State,
    },
};
use candidates::Candidates;
use core::ops::RangeInclusive;
use index::Index;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex},
    time::Msecs,
};
use policy::Scope;
use request::Request;
use search::{Outcome, Search};

/// Giving out SPIs; dropping it gives that back to the kernel.
#[pin_data]
pub struct Service {
    #[pin]
    netlink: Redirect<UserSpiTarget<Allocator>>,
    #[pin]
    others: Redirect<SpiTarget<Allocator>>,
}

impl Service {
    /// Starts to give out SPIs in all namespaces. May sleep.
    pub fn new(redirector: &Redirector, replaced: Arc<Replaced>) -> impl PinInit<Self, Error> + '_ {
        pin_init::pin_init_scope(move || {
            messages::check_size::<uapi::SpiInfo>(uapi::MSG_ALLOCSPI)?;
            let allocator = Allocator {
                spis: Arc::pin_init(Registration::new(), GFP_KERNEL)?,
                replaced,
            };
            Ok(try_pin_init!(Self {
                netlink <- Redirect::new(UserSpiTarget(allocator.clone()), redirector),
                others <- Redirect::new(SpiTarget(allocator), redirector),
            }))
        })
    }
}

/// What each namespace has.
#[pin_data]
struct Spis<'net> {
    /// A [`Scope`].
    #[pin]
    scope: sysctl::Int<'net>,
    #[pin]
    known: Delayed<Known<'net>>,
}

/// What is known of a namespace's SAs.
#[pin_data]
struct Known<'net> {
    /// The SAs that the index doesn't know yet.
    #[pin]
    arrivals: Arrivals<'net>,
    #[pin]
    index: Mutex<Index>,
}

/// Gives the memory back of SAs that have gone, once that the index has some.
impl Work for Known<'_> {
    const DELAY: Msecs = 10_000;

    fn run(&self) -> Option<Msecs> {
        // Who asks for an SPI may have it for long.
        let Some(mut index) = self.index.try_lock() else {
            return Some(Self::DELAY);
        };
        index.shrink(&self.arrivals);
        (!index.is_empty()).then_some(Self::DELAY)
    }
}

static SPIS: Slot = Slot::new();

static SCOPE: sysctl::Definition = sysctl::Definition {
    directory: c"net/xfrm_next",
    name: c"spi_scope",
    default: Scope::DEFAULT,
    min: Scope::MIN,
    max: Scope::MAX,
};

impl PerNamespace for Spis<'static> {
    type Data<'net> = Spis<'net>;

    const SLOT: SlotName = SPIS.name();

    fn new<'net>(net: Setup<'net>) -> impl PinInit<Spis<'net>, Error> {
        try_pin_init!(Spis {
            scope <- sysctl::Int::new(net, &SCOPE),
            known <- Delayed::new(try_pin_init!(Known {
                arrivals <- Arrivals::new(net),
                index <- new_mutex!(Index::new(), "xfrm_next_spis"),
            })),
        })
    }
}

/// Gives out the SPIs of all namespaces.
#[derive(Clone)]
struct Allocator {
    spis: Arc<Registration<Spis<'static>>>,
    /// Counts them.
    replaced: Arc<Replaced>,
}

impl AllocSpi for Allocator {
    fn serve(&self, config: &Config<'_>, mut message: netlink::Request<'_>) -> Result {
        let extack = &mut message.extack;
        let request = Request::parse(message.body, &message.attributes, extack)?;
        let state = larval::find_or_make(config.net(), &request.wanted).ok_or_else(|| {
            extack.set(format_args!("Target ACQUIRE not found"));
            ENOENT
        })?;
        self.give(config, &state, request.range, request.dir, extack)?;
        let reply = larval::message(&state, message.portid, message.seq)?;
        messages::unicast(config.net(), reply, message.portid)
    }

    fn allocate(
        &self,
        config: &Config<'_>,
        state: &State,
        range: RangeInclusive<u32>,
        mut extack: ExtAck<'_>,
    ) -> Result {
        self.give(config, state, range, None, &mut extack)
    }
}

impl Allocator {
    /// Gives the SA an SPI of the range, unless it has one, and the direction that was
    /// asked for.
    ///
    /// Fails with `ENOENT` if none is free or the SA is dead, `ERESTARTSYS` if
    /// there is a signal.
    fn give(
        &self,
        config: &Config<'_>,
        state: &State,
        range: RangeInclusive<u32>,
        dir: Option<u8>,
        extack: &mut ExtAck<'_>,
    ) -> Result {
        let net = config.net();
        let outcome = self.spis.with(net, |spis| {
            let mut index = spis.known.index.lock();
            let was_empty = index.is_empty();
            let rule = Scope::new(spis.scope.get()).rule(dir);
            let arrivals = &spis.known.arrivals;
            let search = Search::new(net, state, (rule, dir), &mut index, arrivals);
            let outcome = search.run(Candidates::new(range, entry::random()));
            if was_empty {
                spis.known.ask();
            }
            outcome
        });
        self.replaced.count(net, outcome.counter());
        match outcome {
            Outcome::Done => Ok(()),
            Outcome::Dead => {
                extack.set(format_args!("Target ACQUIRE is in DEAD state"));
                Err(ENOENT)
            }
            Outcome::Taken => {
                extack.set(format_args!("No SPI available in the requested range"));
                Err(ENOENT)
            }
            Outcome::Interrupted => Err(ERESTARTSYS),
        }
    }
}

#[kernel::macros::kunit_tests(xfrm_next_spi)]
mod tests {
    use super::{cases::CASES, *};
    use crate::xfrm::uapi::Id;

    fn id(last: u8) -> Id {
        let mut id = Id {
            spi: [0, 0, 1, 0],
            family: uapi::AF_INET,
            proto: uapi::IPPROTO_ESP,
            ..Id::default()
        };
        id.daddr.0[3] = last;
        id
    }

    #[test]
    fn table() {
        for case in &CASES {
            for value in 0..3u8 {
                let rule = Scope::new(value.into()).rule(case.request);
                assert!(rule.forbids(&id(1), &id(1), case.sa));
                let refused = rule.forbids(&id(1), &id(2), case.sa);
                assert_eq!(refused, case.refused[usize::from(value)]);
            }
        }
    }

    #[test]
    fn each_spi_comes_once() {
        let mut seen = [0u8; 256];
        for spi in Candidates::new(0x100..=0x1ff, entry::random()) {
            seen[spi as usize & 0xff] += 1;
        }
        assert_eq!(seen, [1; 256]);
    }
}

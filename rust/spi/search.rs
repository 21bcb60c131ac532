// SPDX-License-Identifier: GPL-2.0

//! Finding an SPI for an SA and giving it, in one step.
//!
//! Mirrors `xfrm_alloc_spi()` of `net/xfrm/xfrm_state.c`.

use super::{
    candidates::Candidates,
    index::{Index, Seen},
    policy::Rule,
};
use crate::{
    net::{work::yield_cpu, Namespace},
    xfrm::{spi::Arrivals, state::SpiHash, stats::Counter, uapi::Id, State, Table},
};
use kernel::pr_warn_once;

/// What has become of it.
pub enum Outcome {
    /// The SA has an SPI.
    Done,
    /// The SA has been deleted.
    Dead,
    /// Other SAs have all of the range.
    Taken,
    /// There is a signal.
    Interrupted,
}

impl Outcome {
    /// Returns what counts it.
    pub fn counter(&self) -> Counter {
        match self {
            Self::Done => Counter::SpiGiven,
            Self::Taken => Counter::SpiTaken,
            Self::Dead | Self::Interrupted => Counter::SpiFailed,
        }
    }
}

/// What has become of an attempt.
enum Attempt {
    /// It is the last one.
    Ends(Outcome),
    /// Others may lock the tables before it goes on.
    GoesOn,
    /// More has to be read before.
    Unread,
    /// A chain has been walked in vain: the index is to forget it, as [`Index::forget`] says.
    Gone(Seen, u32),
    /// The index is to forget all.
    Stale,
}

/// Who has a candidate.
enum Holder {
    Nobody,
    Somebody,
    /// As [`Attempt::Gone`].
    Gone(Seen),
}

/// How many candidates are tried with the tables locked.
const AT_ONCE: usize = 16;
/// How many SAs are looked at with the tables locked, and the rest of two chains.
const LOOKS: usize = 512;

/// The search for one SA.
pub struct Search<'a> {
    net: &'a Namespace,
    /// The SA, which is of this namespace, as the index and the arrivals are.
    state: &'a State,
    /// Whom it may not share the SPI with.
    rule: Rule,
    /// The direction that the SA gets with the SPI.
    dir: Option<u8>,
    index: &'a mut Index,
    arrivals: &'a Arrivals<'a>,
    /// Whether there is no memory for the index, so that all SAs are looked
    /// through each time.
    walks: bool,
    /// The candidate to be tried again.
    again: Option<u32>,
    /// Whether the index has been told to forget all, which once is enough for.
    shrunk: bool,
}

impl<'a> Search<'a> {
    /// Prepares to give `state` an SPI that nobody has whom `rule` names, and a direction with it.
    /// It is of the namespace, and so are the index and the arrivals.
    pub fn new(
        net: &'a Namespace,
        state: &'a State,
        (rule, dir): (Rule, Option<u8>),
        index: &'a mut Index,
        arrivals: &'a Arrivals<'a>,
    ) -> Self {
        Self {
            net,
            state,
            rule,
            dir,
            index,
            arrivals,
            walks: false,
            again: None,
            shrunk: false,
        }
    }

    /// Tries the candidates until one is given. May sleep.
    pub fn run(mut self, mut candidates: Candidates) -> Outcome {
        loop {
            let room = if self.asks_index() {
                self.index.make_room()
            } else {
                Ok(())
            };
            match self.attempt(&mut candidates) {
                Attempt::Ends(outcome) => return outcome,
                Attempt::GoesOn if kernel::current!().signal_pending() => {
                    return Outcome::Interrupted;
                }
                Attempt::GoesOn => (),
                Attempt::Unread if room.is_err() => {
                    pr_warn_once!("no memory for the index of SPIs: looking at each SA instead\n");
                    self.walks = true;
                }
                Attempt::Unread => (),
                Attempt::Gone(seen, chains) => self.index.forget(&seen, chains),
                Attempt::Stale => {
                    self.index.shrink(self.arrivals);
                    self.shrunk = true;
                }
            }
            yield_cpu();
        }
    }

    /// Tries some candidates under one hold of the locks, and gives the SA the
    /// first that is free.
    #[inline]
    fn attempt(&mut self, candidates: &mut Candidates) -> Attempt {
        let locked = self.state.lock();
        if locked.is_dead() {
            return Attempt::Ends(Outcome::Dead);
        }
        let table = Table::lock(self.net);
        if self.state.has_spi() {
            if let Some(dir) = self.dir {
                locked.change_dir(dir, &table);
            }
            return Attempt::Ends(Outcome::Done);
        }
        if self.asks_index() {
            if !self.index.read(self.arrivals, &table) {
                return Attempt::Unread;
            }
            if !self.shrunk && self.index.is_stale(&table) {
                return Attempt::Stale;
            }
        }
        let mut wanted = self.state.id();
        let mut looks = 0;
        for _ in 0..AT_ONCE {
            let Some(spi) = self.again.take().or_else(|| candidates.next()) else {
                return Attempt::Ends(Outcome::Taken);
            };
            wanted.spi = spi.to_be_bytes();
            match self.holder(&table, &wanted, &mut looks) {
                Holder::Nobody => {
                    locked.give_spi(wanted.spi, self.dir, &table);
                    return Attempt::Ends(Outcome::Done);
                }
                Holder::Gone(seen) => {
                    self.again = Some(spi);
                    return Attempt::Gone(seen, table.chains());
                }
                Holder::Somebody => (),
            }
            if looks > LOOKS {
                break;
            }
        }
        Attempt::GoesOn
    }

    /// Whether the index says what is free.
    fn asks_index(&self) -> bool {
        self.rule.looks_beyond_destination() && !self.walks
    }

    /// Returns who stands in the way; `looks` counts the SAs that have been looked at.
    fn holder(&self, table: &Table<'_>, wanted: &Id, looks: &mut usize) -> Holder {
        let mut forbids = |sa: &State| {
            *looks += 1;
            // Most others have another one.
            sa.spi() == wanted.spi && self.rule.forbids(wanted, &sa.id(), sa.dir())
        };

        if self.walks {
            return match table.iter().any(forbids) {
                true => Holder::Somebody,
                false => Holder::Nobody,
            };
        }
        // The index knows of all SAs, but doesn't tell outbound ones by their destination.
        let own = (self.rule != Rule::Namespace).then(|| SpiHash::of(wanted));
        if own.is_some_and(|own| table.chain(own).any(&mut forbids)) {
            return Holder::Somebody;
        }
        let Some(seen) = self.index.first(self.rule, wanted) else {
            return Holder::Nobody;
        };
        let walked = own.is_some_and(|own| table.is_one_chain(own, seen.hash()));
        if !walked && table.chain(seen.hash()).any(forbids) {
            return Holder::Somebody;
        }
        Holder::Gone(seen)
    }
}

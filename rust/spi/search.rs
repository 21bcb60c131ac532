// SPDX-License-Identifier: GPL-2.0

//! Finding an SPI for an SA and giving it, in one step.
//!
//! Mirrors `xfrm_alloc_spi()` of `net/xfrm/xfrm_state.c`.

use super::{candidates::Candidates, index::Index, policy::Rule};
use crate::{
    net::Namespace,
    xfrm::{state::Locked, uapi::Id, Arrivals, State, Table},
};
use kernel::pr_warn_once;

/// What has become of an attempt, or of all.
pub enum Outcome {
    /// The SA has an SPI.
    Done,
    /// The SA has been deleted.
    Dead,
    /// Another SA stands in the way.
    Taken,
    /// There is a signal.
    Interrupted,
}

/// How many candidates are tried with the tables locked.
const AT_ONCE: usize = 16;

/// The search for one SA.
pub struct Search<'a> {
    net: &'a Namespace,
    state: &'a State,
    rule: Rule,
    index: &'a mut Index,
    arrivals: &'a Arrivals<'a>,
    /// Whether there is no memory for the index, so that all SAs are looked
    /// through each time.
    walks: bool,
}

impl<'a> Search<'a> {
    /// Prepares to give `state` an SPI that nobody has whom `rule` names. It is of
    /// the namespace, and so are the index and the arrivals.
    pub fn new(
        net: &'a Namespace,
        state: &'a State,
        rule: Rule,
        index: &'a mut Index,
        arrivals: &'a Arrivals<'a>,
    ) -> Self {
        Self {
            net,
            state,
            rule,
            index,
            arrivals,
            walks: false,
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
                None if room.is_err() => {
                    pr_warn_once!("no memory for the index of SPIs: looking at each SA instead\n");
                    self.walks = true;
                }
                None => (),
                Some(Outcome::Taken) if kernel::current!().signal_pending() => {
                    return Outcome::Interrupted;
                }
                Some(Outcome::Taken) if !candidates.is_empty() => (),
                Some(outcome) => return outcome,
            }
        }
    }

    /// Tries some candidates under one hold of the locks, and gives the SA the
    /// first that is free; `None` if more has to be read before.
    fn attempt(&mut self, candidates: &mut Candidates) -> Option<Outcome> {
        let locked = self.state.lock();
        if let Some(outcome) = self.settled(&locked) {
            return Some(outcome);
        }
        let table = Table::lock(self.net);
        if self.asks_index() && !self.index.read(self.arrivals, &table) {
            return None;
        }
        let mut wanted = self.state.id();
        for spi in candidates.take(if self.walks { 1 } else { AT_ONCE }) {
            wanted.spi = spi.to_be_bytes();
            if !self.is_taken(&table, &wanted) {
                locked.give_spi(wanted.spi, &table);
                return Some(Outcome::Done);
            }
        }
        Some(Outcome::Taken)
    }

    /// Whether the index says what is free.
    fn asks_index(&self) -> bool {
        self.rule.looks_beyond_destination() && !self.walks
    }

    /// Whether the SA needs no SPI, whatever is free.
    fn settled(&self, locked: &Locked<'_>) -> Option<Outcome> {
        if locked.is_dead() {
            Some(Outcome::Dead)
        } else if self.state.has_spi() {
            Some(Outcome::Done)
        } else {
            None
        }
    }

    /// Whether somebody stands in the way.
    fn is_taken(&mut self, table: &Table<'_>, wanted: &Id) -> bool {
        let forbids = |sa: &State| self.rule.forbids(wanted, &sa.id(), sa.dir());

        if !self.rule.looks_beyond_destination() {
            table.with_id(wanted).any(forbids)
        } else if self.asks_index() {
            self.index.forbids(table, self.rule, wanted)
        } else {
            table.iter().any(forbids)
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Which SPIs of a namespace may be taken.
//!
//! The kernel finds SAs by destination, SPI and protocol together. To tell who
//! has an SPI wherever it goes, the index holds all these triples, those with one
//! SPI side by side. It reads SAs that have come before it is asked, and isn't told
//! of those that have gone: a triple that it finds is looked up in the kernel's
//! own table, and forgotten if there is no such SA any more. So an index that
//! has read all arrivals never misses an SA, and never believes in a gone one.

use super::policy::Rule;
use crate::xfrm::{
    uapi::{Address, Id},
    Arrivals, State, Table,
};
use kernel::{
    prelude::*,
    rbtree::{CursorMut, RBTree, RBTreeNodeReservation},
};

/// A triple; in the order of the SPIs within a tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// From the top: SPI in host byte order (32 bits), protocol, family (16
    /// each). One number is quickly compared.
    head: u64,
    daddr: u128,
}

impl Key {
    /// No triple comes before this one.
    const FIRST: Self = Self { head: 0, daddr: 0 };

    fn new(id: &Id) -> Self {
        Self {
            head: Self::first(id).head | u64::from(id.family),
            daddr: u128::from_ne_bytes(id.daddr.trimmed(id.family).0),
        }
    }

    /// No triple with the SPI and the protocol of `id` comes before this one.
    fn first(id: &Id) -> Self {
        Self {
            head: u64::from(u32::from_be_bytes(id.spi)) << 32 | u64::from(id.proto) << 16,
            daddr: 0,
        }
    }

    /// In which tree it is.
    fn tree(&self) -> usize {
        // 2^64 divided by the golden ratio: the upper bits of the product are
        // spread well, however the SPIs were chosen.
        ((self.head >> 16).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TREES_BITS)) as usize
    }

    fn id(&self) -> Id {
        Id {
            daddr: Address(self.daddr.to_ne_bytes()),
            spi: ((self.head >> 32) as u32).to_be_bytes(),
            family: self.head as u16,
            proto: (self.head >> 16) as u8,
            pad: 0,
        }
    }
}

/// In how many trees the triples are, by SPI and protocol, so that few steps
/// lead to one: 8 KiB for each namespace that needs the index.
const TREES: usize = 1 << TREES_BITS;
const TREES_BITS: u32 = 10;

/// More triples than twice the SAs, and these, are not kept for long.
const SLACK: usize = 64;
/// How many triples are looked up then, or trees left behind, whenever one is
/// added.
const TIDY: usize = 32;

/// The triples of one namespace: 64 bytes for each that has been read.
pub struct Index {
    /// All of them, or none before there was something to be read.
    trees: KVVec<RBTree<Key, ()>>,
    len: usize,
    /// Memory for the next one, whose tree is there.
    spare: Option<RBTreeNodeReservation<Key, ()>>,
    /// Where tidying goes on: a tree, and a triple or what comes before all.
    tidied: (usize, Key),
}

impl Index {
    /// Makes an index that has read nothing.
    pub fn new() -> Self {
        Self {
            trees: KVVec::new(),
            len: 0,
            spare: None,
            tidied: (0, Key::FIRST),
        }
    }

    /// Gets the memory to read one SA, if it isn't there. May sleep.
    ///
    /// Fails with `ENOMEM`.
    pub fn make_room(&mut self) -> Result {
        if self.trees.is_empty() {
            let mut trees = KVVec::with_capacity(TREES, GFP_KERNEL)?;
            for _ in 0..TREES {
                trees.push(RBTree::new(), GFP_KERNEL)?;
            }
            self.trees = trees;
        }
        if self.spare.is_none() {
            self.spare = Some(RBTreeNodeReservation::new(GFP_KERNEL)?);
        }
        Ok(())
    }

    /// Reads arrivals, as far as there is memory for them. `table` is that of
    /// the namespace, here and below. Returns whether all have been read.
    pub fn read(&mut self, arrivals: &Arrivals<'_>, table: &Table<'_>) -> bool {
        while let Some(spare) = self.spare.take() {
            let Some(state) = arrivals.next(table) else {
                self.spare = Some(spare);
                return true;
            };
            self.spare = self.add(state, spare);
            if self.len > 2 * table.len() as usize + SLACK {
                self.tidy(table);
            }
        }
        arrivals.is_empty(table)
    }

    /// Adds the triple of an SA; returns what isn't needed, because there is
    /// such a triple.
    fn add(
        &mut self,
        state: &State,
        room: RBTreeNodeReservation<Key, ()>,
    ) -> Option<RBTreeNodeReservation<Key, ()>> {
        let key = Key::new(&state.id());
        let same = self.trees[key.tree()]
            .insert(room.into_node(key, ()))
            .map(|node| node.into_reservation());
        if same.is_none() {
            self.len += 1;
        }
        same
    }

    /// Whether an SA stands in the way of `wanted`. All arrivals must have been
    /// read, with `table` locked since.
    pub fn forbids(&mut self, table: &Table<'_>, rule: Rule, wanted: &Id) -> bool {
        let first = Key::first(wanted);
        let Some(tree) = self.trees.get_mut(first.tree()) else {
            return false;
        };
        let mut cursor = tree.cursor_lower_bound_mut(&first);
        while let Some(at) = cursor {
            let id = at.current().0.id();
            if (id.spi, id.proto) != (wanted.spi, wanted.proto) {
                break;
            }
            let mut gone = true;
            for sa in table.with_id(&id) {
                if rule.forbids(wanted, &id, sa.dir()) {
                    return true;
                }
                gone = false;
            }
            cursor = step(at, gone, &mut self.len);
        }
        false
    }

    /// Looks some triples up, going round and round. Each addition that makes
    /// this necessary adds one and takes away all gone ones out of these, so
    /// there never are many more than are allowed.
    fn tidy(&mut self, table: &Table<'_>) {
        for _ in 0..TIDY {
            let (tree, from) = self.tidied;
            let next = self.trees[tree]
                .cursor_lower_bound_mut(&from)
                .and_then(|at| {
                    let gone = table.with_id(&at.current().0.id()).next().is_none();
                    step(at, gone, &mut self.len)
                });
            self.tidied = match next {
                Some(at) => (tree, *at.current().0),
                None => ((tree + 1) % TREES, Key::FIRST),
            };
        }
    }
}

/// Goes on to the next triple, and takes this one away if its SA is gone.
fn step<'a>(
    at: CursorMut<'a, Key, ()>,
    gone: bool,
    len: &mut usize,
) -> Option<CursorMut<'a, Key, ()>> {
    if !gone {
        return at.move_next();
    }
    *len -= 1;
    at.remove_current().0
}

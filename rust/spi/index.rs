// SPDX-License-Identifier: GPL-2.0

//! Who may have an SPI, wherever it goes.
//!
//! The kernel finds SAs by destination, SPI and protocol together. The index says, for an
//! SPI and a protocol, in which chains of the kernel's table such SAs have been seen: those
//! marked as outbound, and others. It reads SAs that have come before it is asked, and isn't
//! told of those that have gone: whoever asks walks the first of these chains, and if there
//! is no such SA any more, has the whole chain forgotten, so that none is walked in vain
//! twice. So an index that has read all arrivals never misses an SA, and what it believes
//! is looked at.

use super::policy::Rule;
use crate::{
    net::work::yield_cpu,
    xfrm::{
        spi::{Arrivals, Next},
        state::SpiHash,
        uapi::{Id, SA_DIR_OUT},
        State, Table,
    },
};
use core::mem;
use kernel::{
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
};

/// Where SAs have been seen that share an SPI, a protocol and a hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// From the top: SPI in host byte order (32 bits), protocol, and whether they are marked
    /// as outbound.
    head: u64,
    /// Their [`SpiHash`], the lowest bit first: hashes of one chain are side by side,
    /// however many chains there are.
    hash: u32,
}

impl Key {
    fn new(id: &Id, outbound: bool, hash: u32) -> Self {
        let spi = u32::from_be_bytes(id.spi);
        Self {
            head: u64::from(spi) << 32 | u64::from(id.proto) << 8 | u64::from(outbound),
            hash,
        }
    }

    /// In which tree it is.
    fn tree(&self) -> usize {
        // 2^64 divided by the golden ratio: the upper bits of the product are
        // spread well, however the SPIs were chosen.
        (self.head.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TREES_BITS)) as usize
    }
}

/// A chain of the kernel's table in which SAs with an SPI have been seen.
pub struct Seen(Key);

impl Seen {
    /// Returns the hash by which [`Table::chain`] finds it.
    pub fn hash(&self) -> SpiHash {
        SpiHash(self.0.hash.reverse_bits())
    }
}

/// In how many trees the keys are, by their heads, so that few steps lead to one:
/// 8 KiB for each namespace that needs the index.
const TREES: usize = 1 << TREES_BITS;
const TREES_BITS: u32 = 10;

/// More keys than twice the SAs, and these, are not kept while SPIs are asked for.
const SLACK: usize = 64;
/// How many SAs are read with the tables locked, if that needs no memory.
const AT_ONCE: usize = 64;

/// What has been seen in one namespace: 64 bytes for each SA that has been read, at most.
pub struct Index {
    /// All keys, or no trees before there was something to be read.
    trees: KVVec<RBTree<Key, ()>>,
    len: usize,
    /// Memory for the next one, whose tree is there.
    spare: Option<RBTreeNodeReservation<Key, ()>>,
}

impl Index {
    /// Makes an index that has read nothing.
    pub fn new() -> Self {
        Self {
            trees: KVVec::new(),
            len: 0,
            spare: None,
        }
    }

    /// Whether it keeps no memory.
    pub fn is_empty(&self) -> bool {
        self.trees.is_empty()
    }

    /// Gets the memory to read one SA, if it isn't there: it counts as the caller's. May
    /// sleep.
    ///
    /// Fails with `ENOMEM`.
    pub fn make_room(&mut self) -> Result {
        if self.trees.is_empty() {
            let mut trees = KVVec::with_capacity(TREES, GFP_KERNEL_ACCOUNT)?;
            for _ in 0..TREES {
                trees.push(RBTree::new(), GFP_KERNEL_ACCOUNT)?;
            }
            self.trees = trees;
        }
        if self.spare.is_none() {
            self.spare = Some(RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?);
        }
        Ok(())
    }

    /// Reads arrivals, as far as there is memory for them. `table` is that of
    /// the namespace. Returns whether all have been read.
    pub fn read(&mut self, arrivals: &Arrivals<'_>, table: &Table<'_>) -> bool {
        for _ in 0..AT_ONCE {
            match arrivals.next(table) {
                Next::Nothing => return true,
                Next::Passed => return false,
                Next::Unread(unread) => match self.spare.take() {
                    Some(room) => self.spare = self.add(unread.read(), room),
                    None => return false,
                },
            }
        }
        false
    }

    /// Adds the key of an SA; returns what isn't needed, because it is there.
    fn add(
        &mut self,
        state: &State,
        room: RBTreeNodeReservation<Key, ()>,
    ) -> Option<RBTreeNodeReservation<Key, ()>> {
        let id = state.id();
        let hash = SpiHash::of(&id).0.reverse_bits();
        let key = Key::new(&id, state.dir() == SA_DIR_OUT, hash);
        let same = self.trees[key.tree()]
            .insert(room.into_node(key, ()))
            .map(|node| node.into_reservation());
        if same.is_none() {
            self.len += 1;
        }
        same
    }

    /// Returns the first chain in which an SA could be that stands in the way of `wanted`
    /// and has another destination. All arrivals must have been read, with the table
    /// locked since.
    pub fn first(&self, rule: Rule, wanted: &Id) -> Option<Seen> {
        let marked: &[bool] = match rule {
            Rule::Destination => &[],
            Rule::Inbound => &[false],
            Rule::Namespace => &[false, true],
        };
        marked.iter().find_map(|&outbound| {
            let first = Key::new(wanted, outbound, 0);
            let cursor = self.trees.get(first.tree())?.cursor_lower_bound(&first)?;
            let key = *cursor.current().0;
            (key.head == first.head).then_some(Seen(key))
        })
    }

    /// Forgets a chain in which there is no such SA any more. `chains` is that of the table when
    /// it was walked; what has come since has not been read.
    pub fn forget(&mut self, seen: &Seen, chains: u32) {
        let chain = chains.reverse_bits();
        let first = Key {
            hash: seen.0.hash & chain,
            ..seen.0
        };
        let end = Key {
            hash: seen.0.hash | !chain,
            ..seen.0
        };
        let tree = &mut self.trees[first.tree()];
        let mut cursor = tree.cursor_lower_bound_mut(&first);
        while let Some(at) = cursor.filter(|at| *at.current().0 <= end) {
            cursor = at.remove_current().0;
            self.len -= 1;
            yield_cpu();
        }
    }

    /// Whether there are far more keys than `table` has SAs.
    pub fn is_stale(&self, table: &Table<'_>) -> bool {
        self.len > 2 * table.len() as usize + SLACK
    }

    /// Forgets all, so that it is to be read again, if there are many more keys than SAs, or
    /// no SAs. `arrivals` are those that it has read. Sleeps.
    pub fn shrink(&mut self, arrivals: &Arrivals<'_>) {
        let states = arrivals.states() as usize;
        if self.len > 2 * states || states == 0 {
            self.len = 0;
            self.spare = None;
            for tree in mem::take(&mut self.trees) {
                drop(tree);
                yield_cpu();
            }
            arrivals.restart();
        }
    }
}

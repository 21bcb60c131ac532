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

    /// In which tree it is: outbound ones are in that of the others.
    fn tree(&self) -> usize {
        // 2^64 divided by the golden ratio: the upper bits of the product are spread well, if
        // SPIs are in the lower half.
        let head = (self.head & !1).rotate_left(32);
        (head.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TREES_BITS)) as usize
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

/// In how many trees the keys are, by SPI and protocol, so that few steps lead to one:
/// 16 KiB for each namespace that needs the index.
const TREES: usize = 1 << TREES_BITS;
const TREES_BITS: u32 = 11;

/// More keys than twice the SAs, and these, are not kept while SPIs are asked for.
const SLACK: usize = 64;
/// How many SAs are read with the tables locked, if that needs no memory.
const AT_ONCE: usize = 64;

/// Memory for a key.
type Room = RBTreeNodeReservation<Key, ()>;

/// What has been seen in one namespace: 64 bytes for each SA that has been read, at most.
pub struct Index {
    /// All keys, or no trees before there was something to be read.
    trees: KVVec<RBTree<Key, ()>>,
    len: usize,
    /// Memory for the next one, whose tree is there.
    spare: Option<Room>,
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
    fn add(&mut self, state: &State, room: Room) -> Option<Room> {
        let id = state.id();
        let hash = SpiHash::of(&id).0.reverse_bits();
        self.insert(Key::new(&id, state.dir() == SA_DIR_OUT, hash), room)
    }

    #[inline]
    fn insert(&mut self, key: Key, room: Room) -> Option<Room> {
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
        if rule == Rule::Destination {
            return None;
        }
        let first = Key::new(wanted, false, 0);
        let end = Key::new(wanted, rule == Rule::Namespace, u32::MAX);
        let cursor = self.trees.get(first.tree())?.cursor_lower_bound(&first)?;
        let key = *cursor.current().0;
        (key <= end).then_some(Seen(key))
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
        // What follows the last one of a tree is the one before.
        while let Some(at) = tree.cursor_lower_bound_mut(&first) {
            if *at.current().0 > end {
                break;
            }
            at.remove_current();
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
            for mut tree in mem::take(&mut self.trees) {
                while let Some(first) = tree.cursor_front_mut() {
                    first.remove_current();
                    yield_cpu();
                }
            }
            arrivals.restart();
        }
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(xfrm_next_index)]
mod tests {
    use super::*;
    use crate::xfrm::uapi::IPPROTO_ESP;

    fn id(spi: u32) -> Id {
        Id {
            spi: spi.to_be_bytes(),
            proto: IPPROTO_ESP,
            ..Id::default()
        }
    }

    fn insert(index: &mut Index, id: &Id, outbound: bool, hash: u32) -> Result {
        index.make_room()?;
        let room = index.spare.take().ok_or(ENOMEM)?;
        index.spare = index.insert(Key::new(id, outbound, hash.reverse_bits()), room);
        Ok(())
    }

    fn first(index: &Index, rule: Rule, id: &Id) -> Option<u32> {
        index.first(rule, id).map(|seen| seen.hash().0)
    }

    #[test]
    fn one_chain_is_forgotten() -> Result {
        const CHAINS: u32 = 7;
        let tree = |id: &Id| Key::new(id, false, 0).tree();
        let one = id(0x1000);
        // Two that are in its tree, one on each side.
        let mut others = (1..0x1000).rev().map(id);
        let lower = others
            .find(|other| tree(other) == tree(&one))
            .ok_or(ENOENT)?;
        let mut others = (0x1001..).map(id);
        let higher = others
            .find(|other| tree(other) == tree(&one))
            .ok_or(ENOENT)?;

        for which in [&[&lower][..], &[&higher], &[&lower, &higher], &[]] {
            let mut index = Index::new();
            for other in which {
                insert(&mut index, other, false, 3)?;
            }
            // 3, 11 and 19 are in one chain of eight.
            for hash in [3, 11, 19, 4] {
                insert(&mut index, &one, false, hash)?;
            }
            insert(&mut index, &one, true, 3)?;
            let before = index.len;
            let seen = loop {
                let seen = index.first(Rule::Inbound, &one).ok_or(ENOENT)?;
                if seen.hash().0 & CHAINS == 3 {
                    break seen;
                }
                index.forget(&seen, CHAINS);
            };
            index.forget(&seen, CHAINS);
            assert!(before - index.len >= 3);
            for other in which {
                assert_eq!(first(&index, Rule::Inbound, other), Some(3));
            }
            assert!(first(&index, Rule::Inbound, &one).is_none_or(|hash| hash == 4));
            // Outbound ones are known apart from others.
            assert!(first(&index, Rule::Namespace, &one).is_some());
            assert_eq!(first(&index, Rule::Destination, &one), None);
        }
        Ok(())
    }
}

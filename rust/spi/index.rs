// SPDX-License-Identifier: GPL-2.0

//! Which SPIs of a namespace may be taken.
//!
//! The kernel finds SAs by destination, SPI and protocol together. To tell who
//! has an SPI wherever it goes, the index holds all these triples in the order
//! of the SPIs. It reads SAs that have come before it is asked, and isn't told
//! of those that have gone: a triple that it finds is looked up in the kernel's
//! own table, and forgotten if there is no such SA any more. So an index that
//! has read all arrivals never misses an SA, and never believes in a gone one.

use super::policy::Rule;
use crate::{
    net::Namespace,
    xfrm::{
        lookup::Table,
        uapi::{Address, Id},
        Arrivals, State,
    },
};
use kernel::{
    prelude::*,
    rbtree::{CursorMut, RBTree, RBTreeNodeReservation},
};

/// A triple, in the order of the SPIs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// From the top: SPI in host byte order (32 bits), protocol, family (16
    /// each). One number is quickly compared.
    head: u64,
    daddr: u128,
}

impl Key {
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

/// More triples than twice the SAs, and these, are not kept for long.
const SLACK: usize = 64;
/// How many triples are looked up then whenever one is added.
const TIDY: usize = 4;

/// The triples of one namespace: 64 bytes for each that has been read.
pub struct Index {
    triples: RBTree<Key, ()>,
    len: usize,
    /// Memory for the next one.
    spare: Option<RBTreeNodeReservation<Key, ()>>,
    /// Where tidying goes on.
    tidied: Key,
}

impl Index {
    /// Makes an index that has read nothing.
    pub fn new() -> Self {
        Self {
            triples: RBTree::new(),
            len: 0,
            spare: None,
            tidied: Key::first(&Id::default()),
        }
    }

    /// Reads all arrivals, with the tables locked for one at a time. May sleep.
    ///
    /// Fails with `ENOMEM`; then some haven't been read.
    pub fn read(&mut self, arrivals: &Arrivals, net: &Namespace) -> Result {
        loop {
            let spare = match self.spare.take() {
                Some(spare) => spare,
                None => RBTreeNodeReservation::new(GFP_KERNEL)?,
            };
            let table = Table::lock(net);
            let Some(state) = arrivals.next(&table) else {
                self.spare = Some(spare);
                return Ok(());
            };
            self.spare = self.add(state, spare);
            if self.len > 2 * table.len() as usize + SLACK {
                self.tidy(&table);
            }
        }
    }

    /// Adds the triple of an SA; returns what isn't needed, because there is
    /// such a triple.
    fn add(
        &mut self,
        state: &State,
        room: RBTreeNodeReservation<Key, ()>,
    ) -> Option<RBTreeNodeReservation<Key, ()>> {
        let node = room.into_node(Key::new(&state.id()), ());
        let same = self
            .triples
            .insert(node)
            .map(|node| node.into_reservation());
        if same.is_none() {
            self.len += 1;
        }
        same
    }

    /// Whether an SA stands in the way of `wanted`. All arrivals must have been
    /// read, with `table` locked since.
    pub fn forbids(&mut self, table: &Table<'_>, rule: Rule, wanted: &Id) -> bool {
        let mut cursor = self.triples.cursor_lower_bound_mut(&Key::first(wanted));
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
    /// this necessary adds one and takes away all gone ones out of `TIDY`, so
    /// there never are many more than are allowed.
    fn tidy(&mut self, table: &Table<'_>) {
        let mut cursor = self.triples.cursor_lower_bound_mut(&self.tidied);
        for _ in 0..TIDY {
            let Some(at) = cursor else { break };
            let id = at.current().0.id();
            let gone = table.with_id(&id).next().is_none();
            cursor = step(at, gone, &mut self.len);
        }
        self.tidied = cursor.map_or(Key::first(&Id::default()), |at| *at.current().0);
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

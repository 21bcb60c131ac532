// SPDX-License-Identifier: GPL-2.0

//! Replaced SAs that are found at the addresses they had, by packets that come late.
//!
//! RFC 4301 lets a receiver find a unicast SA by its SPI, and a peer that hasn't heard of a
//! move (RFC 4555) goes on sending to the address that was left. Nobody but received packets
//! finds an SA here: not requests, nor dumps.
//!
//! Mirrors `xfrm_input_state_lookup()` of `net/xfrm/xfrm_state.c`, without its cache.

use super::{
    kept::{age, Kept},
    lineage, PerNet,
};
use crate::{
    net::{
        bh,
        namespace::{Registration, Setup},
        proc, sysctl, Namespace,
    },
    raw,
    redirect::{Arguments, Be32, Gate, Target, U32, U8},
    xfrm::{
        state::lookup,
        stats::Counter,
        uapi::{self, Address, Id, Mark},
        State,
    },
};
use core::{
    array,
    ptr::{self, NonNull},
};
use kernel::{
    ffi::c_ushort,
    new_spinlock,
    prelude::*,
    rbtree::{CursorMut, RBTree, RBTreeNodeReservation},
    seq_file::SeqFile,
    sync::{
        aref::ARef,
        atomic::{ordering, Atomic},
        Arc, SpinLock,
    },
    time::{msecs_to_jiffies, Jiffies, Msecs},
};

/// How many SAs are looked at that have the same destination and SPI, or seem to.
const LOOKS: usize = 64;
/// By so many kinds of SPIs and destinations packets are told apart that needn't look here.
const KINDS: usize = 128;

/// By what an SA is found: most of its id, where it is in memory, and as what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    id: u64,
    state: usize,
    answers: Answers,
}

impl Key {
    /// None is less.
    const LEAST: Self = Self {
        id: 0,
        state: 0,
        answers: Answers::Itself,
    };

    /// The first that SAs with this id may have.
    fn first(id: &Id) -> Self {
        let [low, high] =
            [0, 8].map(|at| u64::from_ne_bytes(array::from_fn(|n| id.daddr.0[at + n])));
        let daddr = (low ^ high ^ (low ^ high) >> 32) as u32;
        let spi = u32::from_be_bytes(id.spi) ^ u32::from(id.proto);
        Self {
            id: u64::from(spi) << 32 | u64::from(daddr),
            state: 0,
            answers: Answers::Itself,
        }
    }
}

/// A replaced SA in the tree.
///
/// # Invariants
///
/// `state` is kept ([`Kept`]), and taken out before it isn't any more.
struct Entry {
    state: NonNull<State>,
    answers: Answers,
    /// What packets have that find it.
    id: Id,
}

/// Who handles the packets for which a replaced SA is found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answers {
    /// The SA itself.
    Itself,
    /// The tunnel of its successor, without IPsec: for IPComp, what it doesn't compress.
    Tunnel,
}

// SAFETY: What is kept may be sent, and used by anybody.
unsafe impl Send for Entry {}
// SAFETY: As above.
unsafe impl Sync for Entry {}

impl Entry {
    /// Those of an SA that is kept.
    fn of(state: &State) -> impl Iterator<Item = Self> + use<> {
        let id = state.id();
        // INVARIANT: As the caller sees to; and whoever ends it calls `OldAddresses::remove` first.
        let itself = Self {
            state: state.into(),
            answers: Answers::Itself,
            id,
        };
        // Over IPv6, that has numbers of its own, which are forgotten with it.
        let tunnel = id.proto == uapi::IPPROTO_COMP
            && id.family == uapi::AF_INET
            && state.mode() == uapi::MODE_TUNNEL;
        let saddr = state.saddr().0;
        let tunnel = tunnel.then(|| Self {
            answers: Answers::Tunnel,
            id: Id {
                spi: [saddr[0], saddr[1], saddr[2], saddr[3]],
                proto: uapi::IPPROTO_IPIP,
                ..id
            },
            ..itself
        });
        [Some(itself), tunnel].into_iter().flatten()
    }

    fn state(&self) -> &State {
        // SAFETY: By the type invariant it has a reference.
        unsafe { self.state.as_ref() }
    }

    fn key(&self) -> Key {
        Key {
            state: self.state.addr().get(),
            answers: self.answers,
            ..Key::first(&self.id)
        }
    }
}

/// Memory for an SA to be found at its old address.
pub(super) struct Room([Option<RBTreeNodeReservation<Key, Entry>>; 2]);

impl Room {
    /// Gets it; also for the tunnel of IPComp, if there is one. May sleep. Fails with `ENOMEM`.
    pub(super) fn new(tunnel: bool) -> Result<Self> {
        let new = || RBTreeNodeReservation::new(GFP_KERNEL);
        let tunnel = if tunnel { Some(new()?) } else { None };
        Ok(Self([Some(new()?), tunnel]))
    }
}

/// What packets are told apart by that needn't look here: less than [`KINDS`].
pub(super) struct Kind(usize);

impl Kind {
    /// That of the end of the destination and the SPI, both in network byte order.
    fn new(daddr_xor_spi: u32) -> Self {
        Self(u32::from_be(daddr_xor_spi) as usize % KINDS)
    }

    /// That of packets which find an SA by this id.
    pub(super) fn of(id: &Id) -> Self {
        let at = if id.family == uapi::AF_INET6 { 12 } else { 0 };
        Self::new(u32::from_ne_bytes(array::from_fn(|n| {
            id.daddr.0[at + n] ^ id.spi[n]
        })))
    }
}

/// The SAs of a namespace that are found at old addresses. Its lock is the innermost.
#[pin_data]
pub(super) struct OldAddresses<'net> {
    /// For how long, in milliseconds.
    #[pin]
    grace: sysctl::Int<'net>,
    #[pin]
    tree: SpinLock<RBTree<Key, Entry>>,
    /// How many, or are expected.
    len: Atomic<usize>,
    /// Of these, how many by kind.
    of_kind: [Atomic<u32>; KINDS],
}

impl<'net> OldAddresses<'net> {
    /// Makes it, with none. May sleep. Fails with `ENOMEM`.
    pub(super) fn new(
        net: Setup<'net>,
        grace: &'static sysctl::Definition,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            grace <- sysctl::Int::new(net, grace),
            tree <- new_spinlock!(RBTree::new(), "xfrm_next_old_addresses"),
            len: Atomic::new(0),
            of_kind: [const { Atomic::new(0) }; KINDS],
        })
    }

    /// Whether they are at all. Any context.
    pub(super) fn finds(&self) -> bool {
        self.grace.get() != 0
    }

    /// Returns for how long they are. Any context.
    pub(super) fn grace(&self) -> Jiffies {
        msecs_to_jiffies(self.grace.get() as Msecs)
    }

    /// Returns that in seconds, rounded up to more. Any context.
    fn grace_secs(&self) -> u32 {
        self.grace.get() as u32 / 1000 + 1
    }

    /// Whether there are none now. Any context.
    pub(super) fn is_empty(&self) -> bool {
        self.len.load(ordering::Relaxed) == 0
    }

    /// Whether there may be one for packets of this kind. Any context.
    pub(super) fn may_have(&self, kind: impl FnOnce() -> Kind) -> bool {
        !self.is_empty() && self.of_kind[kind().0].load(ordering::Relaxed) != 0
    }

    fn count_in(&self, id: &Id) {
        self.of_kind[Kind::of(id).0].add(1, ordering::Relaxed);
        self.len.add(1, ordering::Relaxed);
    }

    fn count_out(&self, id: &Id) {
        self.len.fetch_sub(1, ordering::Relaxed);
        self.of_kind[Kind::of(id).0].fetch_sub(1, ordering::Relaxed);
    }

    /// Has packets look here for this SA from now on, until what is returned is dropped: so that
    /// none looks at the kernel's tables alone, just before it goes from there to here. Any
    /// context.
    pub(super) fn expect<'a>(&'a self, state: &'a State) -> Expected<'a> {
        Entry::of(state).for_each(|entry| self.count_in(&entry.id));
        Expected(self, state)
    }

    /// Lets an SA be found at its address, when it is found there in the kernel's tables no more.
    /// Bottom halves must be off.
    ///
    /// # Safety
    ///
    /// It is locked until it is [`Kept`].
    pub(super) unsafe fn add(&self, state: &State, room: Room) {
        // Who leaves last has what comes late.
        self.give_up(&state.id(), state.mark(), |_| true);
        let mut tree = self.tree.lock();
        // INVARIANT: Whoever finds it there takes its lock first.
        for (entry, room) in Entry::of(state).zip(room.0.into_iter().flatten()) {
            self.count_in(&entry.id);
            // There is no such key: no other SA is in that memory.
            let _ = tree.insert(room.into_node(entry.key(), entry));
        }
    }

    /// Lets an SA be found no more, if it is.
    pub(super) fn remove(&self, kept: &Kept) {
        if !kept.is_found() {
            return;
        }
        let _off = bh::off();
        let mut tree = self.tree.lock();
        kept.set_found(false);
        for entry in Entry::of(kept.state()) {
            // Another SA may have its place already.
            if tree.remove_node(&entry.key()).is_some() {
                self.count_out(&entry.id);
            }
        }
    }

    /// Returns the SA for packets with this id and `mark`, if one is found whose time isn't over.
    ///
    /// # Safety
    ///
    /// Bottom halves are off.
    unsafe fn find(&self, id: &Id, mark: u32) -> Option<ARef<State>> {
        let grace = self.grace();
        for _ in 0..LOOKS {
            let (old, answers, key): (ARef<State>, _, _) = {
                let mut tree = self.tree.lock();
                let place = at(&mut tree, id, |entry| entry.state().takes(mark))?;
                let (key, entry) = place.current();
                (entry.state().into(), entry.answers, *key)
            };
            let newest = |newest: &ARef<State>| match answers {
                Answers::Itself => None,
                Answers::Tunnel => Some(newest.clone()),
            };
            // SAFETY: The caller promises it.
            match unsafe { lineage::follow(&old, grace, newest) } {
                Some(None) => return Some(old),
                // The caller has a packet of this family.
                Some(Some(newest)) => {
                    return newest.tunnel().filter(|t| t.id().family == id.family)
                }
                None => {}
            }
            // It never will be found; another one may.
            let node = self.tree.lock().remove_node(&key);
            node.inspect(|_| self.count_out(id));
        }
        None
    }

    /// Lets the SA be found no more that has this id and mark, and is an `other` one: another has
    /// its place now. Any context but hard interrupts; takes `xfrm_state_lock`.
    pub(super) fn give_up(&self, id: &Id, mark: Mark, other: impl Fn(&State) -> bool) {
        let _off = bh::off();
        let mut tree = self.tree.lock();
        let is_there = |entry: &Entry| {
            entry.answers == Answers::Itself && entry.state().mark() == mark && other(entry.state())
        };
        let found = at(&mut tree, id, is_there).map(|place| {
            let state: ARef<State> = place.current().1.state().into();
            (state, place.remove_current().1)
        });
        drop(tree);
        if let Some((state, _node)) = found {
            self.count_out(id);
            // SAFETY: The caller has the namespace of these.
            unsafe { state.leave_caches() };
        }
    }
}

/// An SA that is found at an old address, as a reader of the list sees it.
#[derive(Clone, Copy)]
pub(super) struct Moved {
    key: Key,
    id: Id,
    mark: Mark,
    /// Where it is now, and for how many milliseconds still it is found there; none if it isn't
    /// any more, or is the tunnel of one that is listed itself.
    now: Option<(Id, u32)>,
}

impl proc::List for OldAddresses<'_> {
    const FOR_ADMIN: bool = true;

    type Item = Moved;

    fn after(&self, last: Option<&Moved>) -> Option<Moved> {
        let from = last.map_or(Key::LEAST, |last| last.key);
        let _off = bh::off();
        let (old, key, id): (ARef<State>, _, _) = {
            let mut tree = self.tree.lock();
            let mut place = tree.cursor_lower_bound_mut(&from)?;
            if last.is_some() && *place.current().0 == from {
                place = place.move_next()?;
            }
            let (key, entry) = place.current();
            (entry.state().into(), *key, entry.id)
        };
        let grace = self.grace();
        let now = |newest: &ARef<State>| {
            // SAFETY: It may be called anywhere.
            let left = unsafe { raw::xfrm_next_jiffies_to_msecs(grace.saturating_sub(age(&old))) };
            (newest.id(), left)
        };
        Some(Moved {
            key,
            id,
            mark: old.mark(),
            now: match key.answers {
                // SAFETY: They are.
                Answers::Itself => unsafe { lineage::follow(&old, grace, now) },
                Answers::Tunnel => None,
            },
        })
    }

    fn show(moved: &Moved, file: &SeqFile) {
        let Some((now, left)) = moved.now else {
            return;
        };
        let (id, mark) = (&moved.id, moved.mark);
        file.call_printf(format_args!(
            "dst {} proto {} spi {:#010x} mark {:#x}/{:#x} new-dst {} msecs {left}\n",
            id.destination(),
            id.proto,
            u32::from_be_bytes(id.spi),
            mark.v,
            mark.m,
            now.destination(),
        ));
    }
}

/// See [`OldAddresses::expect`].
pub(in crate::xfrm) struct Expected<'a>(&'a OldAddresses<'a>, &'a State);

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        Entry::of(self.1).for_each(|entry| self.0.count_out(&entry.id));
    }
}

/// Returns the first place in the tree with what has this id and is `wanted`.
fn at<'a>(
    tree: &'a mut RBTree<Key, Entry>,
    id: &Id,
    wanted: impl Fn(&Entry) -> bool,
) -> Option<CursorMut<'a, Key, Entry>> {
    let first = Key::first(id);
    let mut place = tree.cursor_lower_bound_mut(&first)?;
    for _ in 0..LOOKS {
        let (key, entry) = place.current();
        if key.id != first.id {
            return None;
        }
        if entry.id == *id && wanted(entry) {
            return Some(place);
        }
        place = place.move_next()?;
    }
    None
}

/// Finds an SA also at the addresses that it had. Redirects `xfrm_input_state_lookup()`, which
/// is called in bottom halves, by who receives a packet.
pub(super) struct Lookup(pub(super) Arc<Registration<PerNet>>);

static LOOKUP_GATE: Gate = Gate::new();

// SAFETY: The replacement has the function's own type, and takes and keeps the
// pass of the gate.
unsafe impl Target for Lookup {
    const NAME: &'static CStr = c"xfrm_input_state_lookup";
    const MODULE: Option<&'static CStr> = None;
    type Function = unsafe extern "C" fn(
        *mut raw::net,
        U32,
        *const raw::xfrm_address_t,
        Be32,
        U8,
        c_ushort,
    ) -> *mut raw::xfrm_state;
    const REPLACEMENT: Self::Function = input_state_lookup;

    fn gate() -> &'static Gate {
        &LOOKUP_GATE
    }

    fn serves(&self, arguments: &Arguments<'_>) -> bool {
        // SAFETY: The function's first argument is a namespace, which whoever receives keeps.
        let net = unsafe { Namespace::from_raw(arguments.first()) };
        // SAFETY: The third one is an address of the family that the sixth names.
        let kind = || Kind::new(unsafe { arguments.daddr_xor_spi() });
        self.0.with(net, |work| work.old_addresses().may_have(kind))
    }
}

/// # Safety
///
/// As for `xfrm_input_state_lookup()`: bottom halves are off, and `daddr` has as many bytes as
/// the family needs, wherever it is.
unsafe extern "C" fn input_state_lookup(
    net: *mut raw::net,
    mark: U32,
    daddr: *const raw::xfrm_address_t,
    spi: Be32,
    proto: U8,
    family: c_ushort,
) -> *mut raw::xfrm_state {
    // SAFETY: The call has been redirected here.
    let pass = unsafe { Lookup::pass() };
    // SAFETY: The arguments are the caller's.
    let (net, daddr) = unsafe {
        let daddr = match family {
            uapi::AF_INET6 => daddr.cast::<[u8; 16]>().read(),
            _ => {
                let [a, b, c, d] = daddr.cast::<[u8; 4]>().read();
                [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
            }
        };
        (Namespace::from_raw(net), Address(daddr))
    };
    let id = Id {
        daddr,
        spi: spi.0.to_ne_bytes(),
        family,
        proto: proto.0,
        pad: 0,
    };

    // Not by the cache of this CPU, which may still have one that has been replaced.
    let found = lookup::find(net, &id, mark.0, |_| true);
    let found = pass.target().0.with(net, |work| match found {
        Some(state) => {
            if state.is_younger(work.old_addresses().grace_secs()) {
                // It may have been found just before it was replaced.
                let other = |old: &State| !ptr::eq(old, &*state);
                work.old_addresses().give_up(&id, state.mark(), other);
            }
            Some(state)
        }
        None => {
            // SAFETY: The caller promises it.
            let late = unsafe { work.old_addresses().find(&id, mark.0) };
            late.inspect(|_| work.stats().count(Counter::OldAddress))
        }
    });
    found.map_or(ptr::null_mut(), |state| {
        ARef::into_raw(state).as_ptr().cast()
    })
}

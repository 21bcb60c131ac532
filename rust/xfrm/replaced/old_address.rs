// SPDX-License-Identifier: GPL-2.0

//! Replaced SAs that are found at the addresses they had, by packets that come late.
//!
//! RFC 4301 lets a receiver find a unicast SA by its SPI, and a peer that hasn't heard of a
//! move (RFC 4555) goes on sending to the address that was left. Nobody but received packets
//! finds an SA here: not requests, nor dumps.
//!
//! Mirrors `xfrm_input_state_lookup()` of `net/xfrm/xfrm_state.c`, for what that doesn't find.

use super::{kept::Kept, lineage, PerNet};
use crate::{
    net::{bh, namespace::Registration, Namespace},
    raw,
    redirect::{Arguments, Be32, Gate, Target, U32, U8},
    xfrm::{
        uapi::{self, Id, Mark},
        State,
    },
};
use core::{
    array,
    ptr::{self, NonNull},
    slice,
};
use kernel::{
    ffi::c_ushort,
    new_spinlock,
    prelude::*,
    rbtree::{CursorMut, RBTree, RBTreeNodeReservation},
    sync::{
        aref::ARef,
        atomic::{ordering, Atomic},
        Arc, SpinLock,
    },
    time::Jiffies,
};

/// How many SAs are looked at that have the same destination and SPI, or seem to.
const LOOKS: usize = 64;
/// By so many kinds of SPIs packets are told apart that needn't look here.
const KINDS: usize = 128;

/// By what an SA is found: most of its id, where it is in memory, and as what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    id: u64,
    state: usize,
    answers: Answers,
}

impl Key {
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
        // Over IPv6, that has numbers of its own, which are forgotten with it.
        let tunnel = id.proto == uapi::IPPROTO_COMP
            && id.family == uapi::AF_INET
            && state.mode() == uapi::MODE_TUNNEL;
        let (state, answers) = (
            state.into(),
            [Some(Answers::Itself), tunnel.then_some(Answers::Tunnel)],
        );
        // INVARIANT: As the caller sees to; and whoever ends it calls `OldAddresses::remove` first.
        let entry = move |answers| Self { state, answers };
        answers.into_iter().flatten().map(entry)
    }

    fn state(&self) -> &State {
        // SAFETY: By the type invariant it has a reference.
        unsafe { self.state.as_ref() }
    }

    /// Returns what packets have that find it.
    fn id(&self) -> Id {
        let id = self.state().id();
        match self.answers {
            Answers::Itself => id,
            Answers::Tunnel => {
                let saddr = self.state().saddr().0;
                Id {
                    spi: [saddr[0], saddr[1], saddr[2], saddr[3]],
                    proto: uapi::IPPROTO_IPIP,
                    ..id
                }
            }
        }
    }

    fn key(&self) -> Key {
        Key {
            state: self.state.addr().get(),
            answers: self.answers,
            ..Key::first(&self.id())
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

/// The SAs of a namespace that are found at old addresses. Its lock is the innermost.
#[pin_data]
pub(super) struct OldAddresses {
    #[pin]
    tree: SpinLock<RBTree<Key, Entry>>,
    /// How many, or are expected.
    len: Atomic<usize>,
    /// Of these, how many by the kind of their SPI.
    of_kind: [Atomic<u32>; KINDS],
}

impl OldAddresses {
    /// Makes it, with none.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            tree <- new_spinlock!(RBTree::new(), "xfrm_next_old_addresses"),
            len: Atomic::new(0),
            of_kind: [const { Atomic::new(0) }; KINDS],
        })
    }

    /// Whether there are none now. Any context.
    pub(super) fn is_empty(&self) -> bool {
        self.len.load(ordering::Relaxed) == 0
    }

    /// Whether there may be one for packets with this SPI. Any context.
    pub(super) fn may_have(&self, spi: impl FnOnce() -> [u8; 4]) -> bool {
        !self.is_empty() && self.kind(spi()).load(ordering::Relaxed) != 0
    }

    fn kind(&self, spi: [u8; 4]) -> &Atomic<u32> {
        &self.of_kind[usize::from(spi[3]) % KINDS]
    }

    fn count_in(&self, spi: [u8; 4]) {
        self.kind(spi).add(1, ordering::Relaxed);
        self.len.add(1, ordering::Relaxed);
    }

    fn count_out(&self, spi: [u8; 4]) {
        self.len.fetch_sub(1, ordering::Relaxed);
        self.kind(spi).fetch_sub(1, ordering::Relaxed);
    }

    /// Has packets look here for this SA from now on, until what is returned is dropped: so that
    /// none looks at the kernel's tables alone, just before it goes from there to here. Any
    /// context.
    pub(super) fn expect<'a>(&'a self, state: &'a State) -> Expected<'a> {
        Entry::of(state).for_each(|entry| self.count_in(entry.id().spi));
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
            self.count_in(entry.id().spi);
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
                self.count_out(entry.id().spi);
            }
        }
    }

    /// Returns the SA for packets with this id and `mark`, if one is found that has been replaced
    /// for less than `grace`. Bottom halves must be off.
    fn find(&self, id: &Id, mark: u32, grace: Jiffies) -> Option<ARef<State>> {
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
            match lineage::follow(&old, grace, newest) {
                Some(None) => return Some(old),
                // The caller has a packet of this family.
                Some(Some(newest)) => {
                    return newest.tunnel().filter(|t| t.id().family == id.family)
                }
                None => {}
            }
            // It never will be found; another one may.
            let node = self.tree.lock().remove_node(&key);
            node.inspect(|_| self.count_out(id.spi));
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
            self.count_out(id.spi);
            // SAFETY: The caller has the namespace of these.
            unsafe { state.leave_caches() };
        }
    }
}

/// See [`OldAddresses::expect`].
pub(in crate::xfrm) struct Expected<'a>(&'a OldAddresses, &'a State);

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        Entry::of(self.1).for_each(|entry| self.0.count_out(entry.id().spi));
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
        if entry.id() == *id && wanted(entry) {
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
    const REPLACEMENT: Self::Function = lookup;

    fn gate() -> &'static Gate {
        &LOOKUP_GATE
    }

    fn serves(&self, arguments: &Arguments<'_>) -> bool {
        // SAFETY: The function's first argument is a namespace, which whoever receives keeps.
        let net = unsafe { Namespace::from_raw(arguments.first()) };
        let spi = || arguments.fourth().to_ne_bytes();
        self.0.with(net, |work| work.old_addresses().may_have(spi))
    }
}

/// # Safety
///
/// As for `xfrm_input_state_lookup()`: bottom halves are off, and `daddr` has as many bytes as
/// the family needs, wherever it is.
unsafe extern "C" fn lookup(
    net: *mut raw::net,
    mark: U32,
    daddr: *const raw::xfrm_address_t,
    spi: Be32,
    proto: U8,
    family: c_ushort,
) -> *mut raw::xfrm_state {
    // SAFETY: The call has been redirected here.
    let pass = unsafe { Lookup::pass() };
    // SAFETY: The arguments are the caller's; ours alone are not redirected. What is found comes
    // with a reference.
    let ask = || unsafe {
        State::owned(raw::xfrm_input_state_lookup(
            net, mark.0, daddr, spi.0, proto.0, family,
        ))
    };
    let mut found = ask();
    if let Some(old) = found.take_if(|state| lineage::is_kept(state)) {
        // This CPU waited for the tables when it was replaced, and then put it into its cache.
        // SAFETY: The caller keeps the namespace.
        unsafe { old.leave_caches() };
        found = ask();
    }
    // SAFETY: As above.
    let (net, daddr) = unsafe {
        let size = if family == uapi::AF_INET6 { 16 } else { 4 };
        let daddr = slice::from_raw_parts(daddr.cast(), size);
        (Namespace::from_raw(net), daddr)
    };
    let mut id = Id {
        spi: spi.0.to_ne_bytes(),
        family,
        proto: proto.0,
        ..Id::default()
    };
    id.daddr.0[..daddr.len()].copy_from_slice(daddr);

    let found = pass.target().0.with(net, |work| match found {
        Some(state) => {
            if state.is_younger(work.grace_secs()) {
                // It may have been found just before it was replaced.
                let other = |old: &State| !ptr::eq(old, &*state);
                work.old_addresses().give_up(&id, state.mark(), other);
            }
            Some(state)
        }
        None => work.old_addresses().find(&id, mark.0, work.grace()),
    });
    found.map_or(ptr::null_mut(), |state| {
        ARef::into_raw(state).as_ptr().cast()
    })
}

// SPDX-License-Identifier: GPL-2.0

//! SAs that have been replaced while packets were in flight on them.
//!
//! A retired SA is in no table any more, so nothing finds it; but it is valid
//! still, so that what had found it before finishes; [`in_flight`] says how.
//! When nobody handles packets by it any more it is buried: dead, with a window
//! that takes nothing.
//!
//! Locks: lock of the retired SA -> lock of the successor -> the yard.
//!
//! [`in_flight`]: super::in_flight

use super::{
    in_flight::{Overflow, Recheck},
    State,
};
use crate::{
    net::{
        namespace::{PerNamespace, Registration, Slot},
        Namespace,
    },
    raw,
    redirect::Redirect,
};
use core::{pin::Pin, ptr::NonNull};
use kernel::{
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
    sync::{
        aref::ARef,
        atomic::{ordering, Atomic},
    },
    time::{Delta, Instant, Monotonic},
    types::Opaque,
};

/// What is known of retired SAs.
struct Yard {
    /// By the address of the retired one.
    successors: RBTree<usize, ARef<State>>,
    /// Those that may be buried, by their places.
    ripe: RBTree<u64, ARef<State>>,
}

kernel::sync::global_lock! {
    // SAFETY: `Retirement::new` initializes it before the first use.
    unsafe(uninit) static YARD: SpinLock<Option<Yard>> = None;
}

/// Lets `f` work on the yard. Bottom halves must be off.
fn with_yard<R>(f: impl FnOnce(&mut Yard) -> R) -> R {
    f(YARD.lock().get_or_insert_with(|| Yard {
        successors: RBTree::new(),
        ripe: RBTree::new(),
    }))
}

/// SAs can be retired while this is there.
#[pin_data(PinnedDrop)]
pub struct Retirement {
    #[pin]
    recheck: Redirect<Recheck>,
    #[pin]
    overflow: Redirect<Overflow>,
    #[pin]
    namespaces: Registration<Mourner>,
}

impl Retirement {
    /// Starts to answer for retired SAs. May sleep. One at a time may exist.
    pub fn new() -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            // SAFETY: Called once, when the module is loaded.
            unsafe { YARD.init() };
            Ok(try_pin_init!(Self {
                recheck <- Redirect::new(Recheck),
                overflow <- Redirect::new(Overflow),
                namespaces <- Registration::new(),
            }))
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Retirement {
    fn drop(self: Pin<&mut Self>) {
        // Nobody retires any more. The redirections end when all are buried.
        bury_all();
    }
}

/// How long an SA stays retired at least. Bottom halves are done with it after
/// two grace periods; a process that sends may have been preempted, or sleep,
/// after it has chosen the SA.
const PATIENCE: Delta = Delta::from_millis(100);

/// How many have been retired, and how many of them have been buried. It is done
/// in the same order, so that a successor is there as long as it is asked.
static RETIRED: Atomic<u64> = Atomic::new(0);
static BURIED: Atomic<u64> = Atomic::new(0);

/// How many want them to be buried without patience.
static HURRY: Atomic<i32> = Atomic::new(0);

/// Waits until all that have been retired before are buried. Sleeps.
fn bury_all() {
    let last = RETIRED.load(ordering::Acquire);

    HURRY.fetch_add(1, ordering::Full);
    while BURIED.load(ordering::Acquire) < last {
        // SAFETY: It may be called wherever one may sleep.
        unsafe { raw::rcu_barrier() }
    }
    HURRY.fetch_sub(1, ordering::Full);
}

/// Sees to it that no retired SA outlives its namespace.
struct Mourner;

static MOURNER: Slot = Slot::new();

impl PerNamespace for Mourner {
    const SLOT: &'static Slot = &MOURNER;

    fn new(_net: &Namespace) -> impl PinInit<Self, Error> + '_ {
        // SAFETY: There is nothing to be initialized.
        unsafe { pin_init::pin_init_from_closure(|_| Ok(())) }
    }
}

impl Drop for Mourner {
    fn drop(&mut self) {
        bury_all();
    }
}

/// Room for one SA to be retired in, so that it can't fail then.
pub struct Grave {
    successor: RBTreeNodeReservation<usize, ARef<State>>,
    burial: KBox<Burial>,
}

/// What is to be done after a grace period.
#[repr(C)]
struct Burial {
    rcu: Opaque<raw::callback_head>,
    since: Instant<Monotonic>,
    /// How many have been retired before.
    place: u64,
    /// The SA, with the reference that the tables had.
    old: Option<ARef<State>>,
    ripe: RBTreeNodeReservation<u64, ARef<State>>,
}

impl Grave {
    /// Makes room. May sleep. Fails with `ENOMEM`.
    pub fn new() -> Result<Self> {
        let burial = Burial {
            rcu: Opaque::zeroed(),
            since: Instant::now(),
            place: 0,
            old: None,
            ripe: RBTreeNodeReservation::new(GFP_KERNEL)?,
        };
        Ok(Self {
            successor: RBTreeNodeReservation::new(GFP_KERNEL)?,
            burial: KBox::new(burial, GFP_KERNEL)?,
        })
    }

    /// Names the successor of `old`, whose lock is held, before it can be
    /// found. Afterwards the SA has to be retired.
    pub(super) fn succeed(self, old: NonNull<State>, new: ARef<State>) -> Named {
        let node = self.successor.into_node(key(old.as_ptr()), new);
        with_yard(|yard| drop(yard.successors.insert(node)));
        Named(self.burial)
    }
}

/// An SA with a successor, that is still to be retired.
pub(super) struct Named(KBox<Burial>);

impl Named {
    /// Retires `old`: takes it out of all tables, frees it from its limits and
    /// timers, which its successor has now, and buries it after a grace period.
    ///
    /// # Safety
    ///
    /// `old` must be the SA that has been named, locked, valid, in the tables,
    /// and without a device.
    pub(super) unsafe fn retire(mut self, old: *mut raw::xfrm_state) {
        // SAFETY: The caller promises it. The reference of the tables goes to
        // the burial, and the box is given back by `bury`.
        unsafe {
            unhash(old);
            release(old);
            self.0.place = RETIRED.fetch_add(1, ordering::Relaxed);
            self.0.since = Instant::now();
            self.0.old = Some(ARef::from_raw(NonNull::new_unchecked(old.cast())));
            raw::xfrm_next_call_rcu(KBox::into_raw(self.0).cast(), Some(forget));
        }
    }
}

fn key(state: *const State) -> usize {
    state.addr()
}

/// RCU calls this after a grace period, in a bottom half: nobody finds the SA
/// in the tables any more. Those who had found it there may have put it into
/// caches or routes, though, and it has been found there since.
///
/// # Safety
///
/// `head` is that of a `Burial` which `retire` has given away.
unsafe extern "C" fn forget(head: *mut raw::callback_head) {
    // SAFETY: It is the first field of the burial, which stays what it is.
    unsafe {
        if let Some(old) = &(*head.cast::<Burial>()).old {
            let _locked = old.lock();
            uncache(old.as_ptr());
            outdate_routes(old.as_ptr());
        }
        raw::xfrm_next_call_rcu(head, Some(ripen));
    }
}

/// RCU calls this after another grace period, in a bottom half: of those who
/// handle packets by the SA only processes can be left, for whom it waits.
///
/// # Safety
///
/// `head` is that of a `Burial` which `forget` has passed on.
unsafe extern "C" fn ripen(head: *mut raw::callback_head) {
    // SAFETY: It is the first field of the burial, which is now ours.
    let burial = unsafe { KBox::from_raw(head.cast::<Burial>()) };

    if burial.since.elapsed() < PATIENCE && HURRY.load(ordering::Relaxed) == 0 {
        // SAFETY: It is given away again, as `forget` did.
        return unsafe { raw::xfrm_next_call_rcu(KBox::into_raw(burial).cast(), Some(ripen)) };
    }
    let burial = KBox::into_inner(burial);
    if let Some(old) = burial.old {
        let node = burial.ripe.into_node(burial.place, old);
        with_yard(|yard| drop(yard.ripe.insert(node)));
    }
    bury_in_order();
}

/// Buries all whose turn it is, wherever they have become ripe. In a bottom
/// half; only who has taken the next one knows which the next one is.
fn bury_in_order() {
    loop {
        let next = BURIED.load(ordering::Acquire);
        let Some(node) = with_yard(|yard| yard.ripe.remove_node(&next)) else {
            return;
        };
        let (_, old) = node.to_key_value();
        bury(&old);
        drop(old);
        BURIED.store(next + 1, ordering::Release);
    }
}

/// Until the SA is dead its successor answers for it; then nobody does.
fn bury(old: &State) {
    let locked = old.lock();

    // SAFETY: The SA is locked.
    unsafe {
        (*old.as_ptr()).km.state = raw::XFRM_STATE_DEAD as u8;
        close_window(old.as_ptr());
        // Dead ones aren't put there, so it is for good.
        uncache(old.as_ptr());
    }
    let successor = with_yard(|yard| yard.successors.remove_node(&key(old)));
    drop(locked);
    drop(successor);
}

/// Takes an SA out of all tables and lists.
///
/// Mirrors the part of `__xfrm_state_delete()` that does it. That one and the
/// kernel's own lookups don't mind to meet such an SA.
///
/// # Safety
///
/// The SA is locked and in the tables.
unsafe fn unhash(x: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it; the table's lock is taken.
    unsafe {
        let net = raw::xfrm_next_state_net(x);
        raw::xfrm_next_states_lock(net);
        raw::xfrm_next_list_del_init(&raw mut (*x).km.all);
        for node in [
            &raw mut (*x).__bindgen_anon_1.bydst,
            &raw mut (*x).__bindgen_anon_2.bysrc,
            &raw mut (*x).byseq,
            &raw mut (*x).state_cache,
            &raw mut (*x).state_cache_input,
            &raw mut (*x).byspi,
        ] {
            raw::xfrm_next_hlist_del_init_rcu(node);
        }
        (*net).xfrm.state_num -= 1;
        raw::xfrm_next_states_unlock(net);
    }
}

/// Takes an SA out of the caches of the lookups.
///
/// # Safety
///
/// The SA is valid.
unsafe fn uncache(x: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it; the table's lock is taken.
    unsafe {
        let net = raw::xfrm_next_state_net(x);
        raw::xfrm_next_states_lock(net);
        raw::xfrm_next_hlist_del_init_rcu(&raw mut (*x).state_cache);
        raw::xfrm_next_hlist_del_init_rcu(&raw mut (*x).state_cache_input);
        raw::xfrm_next_states_unlock(net);
    }
}

/// Ends what an SA does by itself: expiring, telling its sequence numbers, and
/// being chosen by routes that exist.
///
/// # Safety
///
/// The SA is locked.
unsafe fn release(x: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it.
    unsafe {
        (*x).lft = raw::xfrm_lifetime_cfg {
            soft_byte_limit: u64::MAX,
            hard_byte_limit: u64::MAX,
            soft_packet_limit: u64::MAX,
            hard_packet_limit: u64::MAX,
            ..pin_init::zeroed()
        };
        (*x).replay_maxdiff = 0;
        (*x).replay_maxage = 0;
        (*x).xflags = 0;
        raw::timer_delete(&raw mut (*x).rtimer);
        outdate_routes(x);
    }
}

/// Lets those who have a route by the SA look for another one.
///
/// # Safety
///
/// The SA is locked.
unsafe fn outdate_routes(x: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it.
    unsafe { (*x).genid = (*x).genid.wrapping_add(1) }
}

/// Makes the window such that each packet which asks for it again, after it
/// has been decrypted, is refused.
///
/// # Safety
///
/// The SA is locked, and its numbers are of no use any more.
pub(super) unsafe fn close_window(x: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it.
    unsafe {
        // All have been received, up to the last number there is.
        (*x).replay.seq = u32::MAX;
        (*x).replay.bitmap = u32::MAX;
        let Some(esn) = (*x).replay_esn.as_mut() else {
            return;
        };
        if (*x).repl_mode == raw::xfrm_replay_mode_XFRM_REPLAY_MODE_ESN {
            // Packets had another upper half when they were decrypted.
            esn.seq_hi ^= 1 << 31;
        } else {
            esn.seq = u32::MAX;
            esn.bmp.as_mut_slice(esn.bmp_len as usize).fill(u32::MAX);
        }
    }
}

/// Returns the successor of an SA that is in no table, if it has one. Bottom
/// halves must be off.
pub(super) fn successor(x: *mut raw::xfrm_state) -> Option<ARef<State>> {
    with_yard(|yard| yard.successors.get(&key(x.cast())).cloned())
}

// SPDX-License-Identifier: GPL-2.0

//! SAs that have been replaced while packets were in flight on them.
//!
//! A retired SA is in no table any more, so nothing finds it; but it is valid
//! still, so that what had found it before finishes; [`in_flight`] says how.
//! When nobody refers to it any more it is buried: dead, with a window that
//! takes nothing.
//!
//! Locks: lock of the retired SA -> lock of the successor -> the successors.
//!
//! [`in_flight`]: super::in_flight

use super::{
    in_flight::{Overflow, Recheck},
    tables::{uncache, uncount},
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
        Arc,
    },
    time::{Delta, Instant, Monotonic},
    types::Opaque,
};

/// Who succeeds whom, by the address of the retired SA.
type Successors = RBTree<usize, ARef<State>>;

kernel::sync::global_lock! {
    // SAFETY: `Retirement::new` initializes it before the first use.
    unsafe(uninit) static SUCCESSORS: SpinLock<Option<Successors>> = None;
}

/// Lets `f` work on the successors. Bottom halves must be off.
fn with_successors<R>(f: impl FnOnce(&mut Successors) -> R) -> R {
    f(SUCCESSORS.lock().get_or_insert_with(RBTree::new))
}

/// SAs can be retired while this is there.
#[pin_data]
pub struct Retirement {
    // Dropped in this order: all SAs are buried, then nobody has to answer for
    // them.
    #[pin]
    yards: Registration<Yard>,
    last_callback: LastCallback,
    #[pin]
    recheck: Redirect<Recheck>,
    #[pin]
    overflow: Redirect<Overflow>,
}

impl Retirement {
    /// Starts to answer for retired SAs. May sleep. One at a time may exist.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            yards <- Registration::new(),
            // SAFETY: Nobody asks for successors yet; and whoever comes here a
            // second time has found the yards registered.
            _: { unsafe { SUCCESSORS.init() } },
            last_callback: LastCallback,
            recheck <- Redirect::new(Recheck),
            overflow <- Redirect::new(Overflow),
        })
    }

    /// Makes room for one SA of `net`. May sleep. Fails with `ENOMEM`.
    pub(super) fn grave(&self, net: &Namespace) -> Result<Grave> {
        let burial = Burial {
            rcu: Opaque::zeroed(),
            since: Instant::now(),
            old: None,
            unburied: self.yards.get(net).unburied.clone(),
        };
        Ok(Grave {
            successor: RBTreeNodeReservation::new(GFP_KERNEL)?,
            burial: KBox::new(burial, GFP_KERNEL)?,
        })
    }
}

/// Waits for the last of our functions that RCU calls.
struct LastCallback;

impl Drop for LastCallback {
    fn drop(&mut self) {
        // SAFETY: It may be called wherever one may sleep.
        unsafe { raw::rcu_barrier() }
    }
}

/// The retired SAs of a namespace, none of which outlives it.
#[pin_data(PinnedDrop)]
struct Yard {
    unburied: Arc<Unburied>,
}

struct Unburied {
    count: Atomic<usize>,
    /// They are to be buried as soon as bottom halves are done with them.
    hurry: Atomic<bool>,
}

static YARD: Slot = Slot::new();

impl PerNamespace for Yard {
    const SLOT: &'static Slot = &YARD;

    fn new(_net: &Namespace) -> impl PinInit<Self, Error> + '_ {
        try_pin_init!(Self {
            unburied: Arc::new(
                Unburied {
                    count: Atomic::new(0),
                    hurry: Atomic::new(false),
                },
                GFP_KERNEL,
            )?,
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Yard {
    fn drop(self: Pin<&mut Self>) {
        self.unburied.hurry.store(true, ordering::Relaxed);
        while self.unburied.count.load(ordering::Acquire) != 0 {
            // SAFETY: It may be called wherever one may sleep.
            unsafe { raw::rcu_barrier() }
        }
    }
}

/// How long an SA stays retired at most. Whoever still refers to it then sleeps,
/// or keeps it with a route for later: that is looked up anew when it is used.
const PATIENCE: Delta = Delta::from_secs(1);

/// Room for one SA to be retired in, so that it can't fail then.
pub(super) struct Grave {
    successor: RBTreeNodeReservation<usize, ARef<State>>,
    burial: KBox<Burial>,
}

/// What is to be done after a grace period.
#[repr(C)]
struct Burial {
    rcu: Opaque<raw::callback_head>,
    since: Instant<Monotonic>,
    /// The SA, with the reference that the tables had.
    old: Option<ARef<State>>,
    /// Where it is counted, since it has been retired.
    unburied: Arc<Unburied>,
}

impl Grave {
    /// Names the successor of `old`, whose lock is held, before it can be
    /// found. Afterwards the SA has to be retired.
    pub(super) fn succeed(self, old: NonNull<State>, new: ARef<State>) -> Named {
        let node = self.successor.into_node(key(old.as_ptr()), new);
        with_successors(|successors| drop(successors.insert(node)));
        Named(self.burial)
    }
}

/// An SA with a successor, that is still to be retired.
pub(super) struct Named(KBox<Burial>);

impl Named {
    /// Retires `old`: frees it from its limits and timers, which its successor
    /// has now, and buries it after a grace period.
    ///
    /// # Safety
    ///
    /// `old` must be the SA that has been named, locked, valid, without a
    /// device, and out of the tables but counted.
    pub(super) unsafe fn retire(mut self, old: *mut raw::xfrm_state) {
        // SAFETY: The caller promises it. The reference of the tables goes to
        // the burial, and the box is given back by `ripen`.
        unsafe {
            uncount(old);
            release(old);
            self.0.since = Instant::now();
            self.0.old = Some(ARef::from_raw(NonNull::new_unchecked(old.cast())));
            self.0.unburied.count.fetch_add(1, ordering::Relaxed);
            raw::xfrm_next_call_rcu(KBox::into_raw(self.0).cast(), Some(forget));
        }
    }
}

impl Burial {
    /// Whether nobody but us refers to the SA, whom we need not wait for.
    fn is_due(&self) -> bool {
        self.unburied.hurry.load(ordering::Relaxed)
            || self.since.elapsed() >= PATIENCE
            || self.old.as_ref().is_none_or(|old| old.is_unshared())
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

/// RCU calls this after another grace period, in a bottom half, and again after
/// each one until nobody refers to the SA: nobody finds it anew.
///
/// # Safety
///
/// `head` is that of a `Burial` which `forget` has passed on.
unsafe extern "C" fn ripen(head: *mut raw::callback_head) {
    let burial: *mut Burial = head.cast();

    // SAFETY: As in `forget`; it is passed on, or ours to free.
    let burial = unsafe {
        if !(*burial).is_due() {
            return raw::xfrm_next_call_rcu(head, Some(ripen));
        }
        KBox::into_inner(KBox::from_raw(burial))
    };
    if let Some(old) = burial.old {
        bury(&old);
    }
    // The SA has been given back before: its namespace may end now.
    burial.unburied.count.fetch_sub(1, ordering::Release);
}

/// Until the SA is dead its successor answers for it; then nobody does.
fn bury(old: &State) {
    let locked = old.lock();

    // SAFETY: The SA is locked.
    unsafe {
        (&raw mut (*old.as_ptr()).km.state).write_volatile(raw::XFRM_STATE_DEAD as u8);
        close_window(old.as_ptr());
        // Dead ones aren't put there, so it is for good.
        uncache(old.as_ptr());
    }
    let successor = with_successors(|successors| successors.remove_node(&key(old)));
    drop(locked);
    drop(successor);
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
        // In-flight packets are counted here, too, by the kernel, which must not
        // find the limits above reached.
        (*x).curlft.bytes = 0;
        (*x).curlft.packets = 0;
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
    unsafe {
        let genid = &raw mut (*x).genid;
        genid.write_volatile(genid.read().wrapping_add(1));
    }
}

/// Makes the window such that each packet which asks for it again, after it
/// has been decrypted, is refused.
///
/// # Safety
///
/// The SA is locked, and its numbers are of no use any more.
pub(super) unsafe fn close_window(x: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it. A ring's bits follow the structure, as
    // many words as it says.
    unsafe {
        // All have been received, up to the last number there is.
        (*x).replay.seq = u32::MAX;
        (*x).replay.bitmap = u32::MAX;
        let esn = (*x).replay_esn;
        if esn.is_null() {
            return;
        }
        if (*x).repl_mode == raw::xfrm_replay_mode_XFRM_REPLAY_MODE_ESN {
            // Packets had another upper half when they were decrypted.
            (*esn).seq_hi ^= 1 << 31;
        } else {
            (*esn).seq = u32::MAX;
            ring(esn).write_bytes(0xff, (*esn).bmp_len as usize);
        }
    }
}

/// Returns where the bits of a window are.
///
/// # Safety
///
/// `esn` is valid.
pub(super) unsafe fn ring(esn: *mut raw::xfrm_replay_state_esn) -> *mut u32 {
    // SAFETY: The caller promises it.
    unsafe { (&raw mut (*esn).bmp).cast() }
}

/// Returns the successor of an SA that is in no table, if it has one. Bottom
/// halves must be off.
pub(super) fn successor(x: *mut raw::xfrm_state) -> Option<ARef<State>> {
    with_successors(|successors| successors.get(&key(x.cast())).cloned())
}

// SPDX-License-Identifier: GPL-2.0

//! SAs that have been replaced while packets were in flight on them.
//!
//! A retired SA is in no table any more, so nothing finds it; but it is valid
//! still, so that what had found it before finishes; [`in_flight`] says how.
//! When nobody refers to it any more it is buried: dead, with a window that
//! takes nothing.
//!
//! | name | what |
//! |---|---|
//! | [`Retirement`] | SAs can be retired while it is there |
//! | [`Grave`] | the memory for that, got when it may still fail |
//! | [`Named`] | the successor is known, the old SA isn't retired yet |
//! | [`Burial`] | what RCU calls back about: [`forget`], then [`ripen`] until it is due |
//! | [`Yard`] | those of one namespace, which waits for them when it ends |
//!
//! Locks: lock of the retired SA -> lock of the successor -> the burials.

mod in_flight;
mod replay;

use crate::{
    net::{
        namespace::{PerNamespace, Registration, Setup, Slot},
        Namespace, RcuBarrier,
    },
    raw,
    redirect::{Redirect, Redirector},
    xfrm::{
        state::tables::{count_again, outdate_routes, uncache},
        State,
    },
};
use core::{
    cell::{Cell, UnsafeCell},
    mem::MaybeUninit,
    pin::Pin,
    ptr::NonNull,
};
use in_flight::{Overflow, Recheck};
use kernel::{
    prelude::*,
    rbtree::{Entry, RBTree, RBTreeNodeReservation},
    sync::{
        aref::ARef,
        atomic::{ordering, Atomic},
        Arc,
    },
    time::{Delta, Instant, Monotonic},
};

/// The retired SAs, by their addresses.
type Burials = RBTree<usize, Burial>;

kernel::sync::global_lock! {
    // SAFETY: `Retirement::new` initializes it before the first use.
    unsafe(uninit) static BURIALS: SpinLock<Option<Burials>> = None;
}

/// Lets `f` work on the burials. Bottom halves must be off.
fn with_burials<R>(f: impl FnOnce(&mut Burials) -> R) -> R {
    f(BURIALS.lock().get_or_insert_with(RBTree::new))
}

/// SAs can be retired while this is there. Dropping it buries them all; may sleep.
#[pin_data]
pub struct Retirement {
    // Dropped in this order: all SAs are buried, then nobody has to answer for
    // them.
    #[pin]
    yards: Registration<Yard>,
    last_callback: RcuBarrier,
    #[pin]
    recheck: Redirect<Recheck>,
    #[pin]
    overflow: Redirect<Overflow>,
}

impl Retirement {
    /// Starts to answer for retired SAs. May sleep. One at a time may exist.
    ///
    /// Fails with `EBUSY` if there is one, `ENOMEM`, or as [`Redirect::new`] does.
    pub fn new(redirector: &Redirector) -> impl PinInit<Self, Error> + '_ {
        try_pin_init!(Self {
            yards <- Registration::new(),
            // SAFETY: Nobody asks for burials yet, and this is done once: a
            // `Retirement` lives as long as the module, and who makes a second
            // one finds the yards registered and doesn't come here.
            _: { unsafe { BURIALS.init() } },
            last_callback: RcuBarrier,
            recheck <- Redirect::new(Recheck, redirector),
            overflow <- Redirect::new(Overflow, redirector),
        })
    }

    /// Makes room for one SA of `net`. May sleep. Fails with `ENOMEM`.
    pub(in crate::xfrm) fn grave(&self, net: &Namespace) -> Result<Grave> {
        Ok(Grave {
            place: RBTreeNodeReservation::new(GFP_KERNEL)?,
            unburied: self.yards.with(net, |yard| yard.unburied.clone()),
        })
    }
}

/// The retired SAs of a namespace, none of which outlives it.
#[pin_data(PinnedDrop)]
struct Yard {
    unburied: Arc<Unburied>,
}

/// How many a yard has, and how they are to be treated; burials know it, too.
struct Unburied {
    count: Atomic<usize>,
    /// They are to be buried as soon as bottom halves are done with them.
    hurry: Atomic<bool>,
}

static YARD: Slot = Slot::new();

impl PerNamespace for Yard {
    type Data<'net> = Self;

    const SLOT: &'static Slot = &YARD;

    fn new(_net: Setup<'_>) -> impl PinInit<Self, Error> {
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
            drop(RcuBarrier);
        }
    }
}

/// How long an SA stays retired at most. Whoever still refers to it then sleeps,
/// or keeps it with a route for later: that is looked up anew when it is used.
const PATIENCE: Delta = Delta::from_secs(1);

/// Room for one SA to be retired in, so that it can't fail then.
pub(in crate::xfrm) struct Grave {
    place: RBTreeNodeReservation<usize, Burial>,
    unburied: Arc<Unburied>,
}

/// What is to be done after a grace period. It stays in its node of the tree, and
/// so where it is, until it is done.
#[repr(C)]
struct Burial {
    /// RCU's, from `retire` on.
    rcu: UnsafeCell<MaybeUninit<raw::callback_head>>,
    /// Since when nobody finds the SA in the tables; RCU's callbacks alone use it.
    since: Cell<Option<Instant<Monotonic>>>,
    /// The SA. It keeps the reference that the tables had until it is dead: somebody
    /// who found it there may delete it, and gives that reference up then.
    old: ARef<State>,
    new: ARef<State>,
    /// Where it is counted.
    unburied: Arc<Unburied>,
}

// SAFETY: RCU may call us on any CPU, and nobody else uses its head; what else
// there is can be sent.
unsafe impl Send for Burial {}

impl Grave {
    /// Names the successor of `old`, before that can be found. Bottom halves
    /// must be off.
    ///
    /// # Safety
    ///
    /// `old` is locked until it has been taken out of the tables and retired.
    pub(in crate::xfrm) unsafe fn succeed(self, old: &State, new: ARef<State>) -> Named {
        self.unburied.count.fetch_add(1, ordering::Relaxed);
        let burial = Burial {
            rcu: UnsafeCell::new(MaybeUninit::uninit()),
            since: Cell::new(None),
            old: old.into(),
            new,
            unburied: self.unburied,
        };
        Named(with_burials(|burials| {
            NonNull::from(match burials.entry(key(old)) {
                Entry::Vacant(entry) => entry.insert(burial, self.place),
                // It can't be: who has been retired stays out of the tables.
                Entry::Occupied(entry) => entry.into_mut(),
            })
        }))
    }
}

/// An SA with a successor, that is still to be retired.
pub(in crate::xfrm) struct Named(NonNull<Burial>);

impl Named {
    /// Retires `old`: frees it from its limits and timers, which its successor
    /// has now, and buries it after a grace period.
    ///
    /// # Safety
    ///
    /// `old` must be the SA that has been named, locked, valid, without a
    /// device, out of the tables and no longer counted.
    pub(in crate::xfrm) unsafe fn retire(self, old: *mut raw::xfrm_state) {
        // SAFETY: The caller promises it. The burial stays until `ripen` has
        // taken it away.
        unsafe {
            release(old);
            raw::xfrm_next_call_rcu(self.0.as_ptr().cast(), Some(forget));
        }
    }
}

impl Burial {
    /// Whether nobody but us refers to the SA, whom we need not wait for.
    fn is_due(&self) -> bool {
        self.unburied.hurry.load(ordering::Relaxed)
            || self
                .since
                .get()
                .is_some_and(|since| since.elapsed() >= PATIENCE)
            // Who finds it alive here, with that many, finds nobody who could delete it.
            || self.old.references() == 1 + u32::from(!self.old.is_dead())
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
        {
            let Burial { since, old, .. } = &*head.cast();
            since.set(Some(Instant::now()));
            let _locked = old.lock();
            uncache(old);
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
    // SAFETY: As in `forget`; it is passed on, or not used afterwards.
    unsafe {
        let burial = &*head.cast::<Burial>();
        if burial.is_due() {
            bury(burial.old.clone());
        } else {
            raw::xfrm_next_call_rcu(head, Some(ripen));
        }
    }
}

/// Until the SA is dead its successor answers for it; then nobody does.
fn bury(old: ARef<State>) {
    let locked = old.lock();
    let deleted = old.is_dead();

    // SAFETY: The SA is locked.
    unsafe {
        (&raw mut (*old.as_ptr()).km.state).write_volatile(raw::XFRM_STATE_DEAD as u8);
        close_window(old.as_ptr());
    }
    // Dead ones aren't put there, so it is for good.
    uncache(&old);
    if deleted {
        count_again(&old);
    }
    let node = with_burials(|burials| burials.remove_node(&key(&*old)));
    drop(locked);
    if !deleted {
        // SAFETY: That of the tables, which nobody else gives up for a dead one.
        drop(unsafe { State::owned(old.as_ptr()) });
    }
    drop(old);
    if let Some(node) = node {
        let (
            _,
            Burial {
                old, new, unburied, ..
            },
        ) = node.to_key_value();
        drop((old, new));
        // Both have been given back: their namespace may end now.
        unburied.count.fetch_sub(1, ordering::Release);
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
        // In-flight packets are counted here, too, by the kernel, which must not
        // find the limits above reached.
        (*x).curlft.bytes = 0;
        (*x).curlft.packets = 0;
        (*x).replay_maxdiff = 0;
        (*x).replay_maxage = 0;
        (*x).nat_keepalive_interval = 0;
        (*x).xflags = 0;
        if raw::xfrm_next_timer_pending(&raw const (*x).rtimer) {
            raw::timer_delete(&raw mut (*x).rtimer);
        }
        outdate_routes(x);
    }
}

/// Makes the window such that each packet which asks for it again, after it
/// has been decrypted, is refused.
///
/// # Safety
///
/// The SA is locked, and its numbers are of no use any more.
pub(in crate::xfrm) unsafe fn close_window(x: *mut raw::xfrm_state) {
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
pub(in crate::xfrm) unsafe fn ring(esn: *mut raw::xfrm_replay_state_esn) -> *mut u32 {
    // SAFETY: The caller promises it.
    unsafe { (&raw mut (*esn).bmp).cast() }
}

/// Returns the successor of an SA that is in no table, if it has one: if it is
/// retired. Bottom halves must be off.
pub(in crate::xfrm) fn successor(x: *mut raw::xfrm_state) -> Option<ARef<State>> {
    with_burials(|burials| Some(burials.get(&key(x.cast()))?.new.clone()))
}

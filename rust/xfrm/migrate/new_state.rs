// SPDX-License-Identifier: GPL-2.0

//! An SA that nobody can find yet, made as a clone of another.
//!
//! Mirrors `xfrm_state_clone_and_setup()`, `xfrm_state_migrate_create()` and
//! `xfrm_state_migrate_install()` of `net/xfrm/xfrm_state.c`.

use super::{cipher, clone, snapshot::Changes, Found};
use crate::{
    net::ExtAck,
    raw,
    xfrm::{
        replaced::{self, close_window, Deferred, Replaced, Room},
        spi::larval,
        state::{
            tables::{in_hardware, outdate_routes, take_place, Counts},
            Locked,
        },
        stats::Counter,
        uapi, State,
    },
};
use core::{
    mem::{self, ManuallyDrop},
    ptr::{self, NonNull},
};
use kernel::{
    error::to_result,
    ffi::c_ulong,
    prelude::*,
    sync::aref::ARef,
    time::{delay::fsleep, Delta},
};

/// An SA that nobody can find yet, and which is to replace another.
///
/// Dropping it tells its device, if that has it, and frees it: nothing has happened
/// then. Not under locks of SAs.
///
/// # Examples
///
/// ```ignore
/// fn migrate(
///     old: &Found<'_>,
///     changes: &Changes,
///     replaced: &Replaced,
///     extack: &mut ExtAck<'_>,
/// ) -> Result<ARef<State>> {
///     let offload = old.offload();
///     NewState::new(old, changes, offload.as_ref(), extack)?.replace_old(replaced)
/// }
/// ```
pub struct NewState<'a> {
    draft: Draft,
    old: &'a Found<'a>,
    room: Room,
}

/// The SA itself; dropping it tells its device and frees it.
///
/// # Invariants
///
/// It is in no table. We own its first reference, the one that the tables own
/// later.
struct Draft(NonNull<raw::xfrm_state>);

impl<'a> NewState<'a> {
    /// Makes one that is as `old`, but for `changes` and the device of `offload`. It is ready
    /// for packets, but VOID: nobody handles any by it, even if its device does. May sleep.
    ///
    /// Fails as what it mirrors: `xfrm_state_clone_and_setup()`, `xfrm_state_migrate_create()`;
    /// a text says why. A device that can't offload crypto at all is no failure: the SA is
    /// done in software then.
    pub fn new(
        old: &'a Found<'a>,
        changes: &Changes,
        offload: Option<&uapi::Offload>,
        extack: &mut ExtAck<'_>,
    ) -> Result<Self> {
        let mut new = Self::clone_of(old, changes).inspect_err(|_| {
            extack.set_weak(format_args!("Failed to clone and setup state"));
        })?;
        new.init(extack).inspect_err(|_| {
            extack.set_weak(format_args!("Failed to initialize migrated state"));
        })?;
        new.offload(offload, extack).inspect_err(|_| {
            extack.set_weak(format_args!("State migration clone failed"));
        })?;
        Ok(new)
    }

    /// Clones `old`, all but its counters, with `changes`.
    fn clone_of(old: &'a Found<'a>, changes: &Changes) -> Result<Self> {
        // SAFETY: The namespace is valid.
        let ptr = unsafe { raw::xfrm_state_alloc(old.net().as_ptr()) };
        // INVARIANT: A new SA has one reference and is in no table. From here
        // on, dropping it frees what has been cloned so far.
        let draft = Draft(NonNull::new(ptr).ok_or(ENOMEM)?);

        // SAFETY: Both are valid. Nobody else knows the new one. Requests alone,
        // which are kept out, write what the old one is made of; packets
        // write its counters and windows, of which any value is fit: the switch
        // reads them once more under the lock.
        unsafe {
            clone::fill(draft.0.as_ptr(), old.as_ptr(), changes)?;
        }
        Ok(Self {
            draft,
            old,
            room: Room::new(),
        })
    }

    /// Makes the SA fit to handle packets: mode, type and ciphers; once, first of all.
    fn init(&mut self, extack: &mut ExtAck<'_>) -> Result {
        let new = self.as_ptr();
        // SAFETY: The SA is ours and complete; there is a reference to the old one.
        unsafe {
            if !cipher::init_alike(new, self.old.as_ptr()) {
                to_result(raw::__xfrm_init_state(new, extack.as_ptr()))?;
            }
            to_result(raw::xfrm_init_replay(new, ptr::null_mut()))
        }
    }

    /// Finds what segmentation and offload need, also for software; then asks
    /// the device of `offload` to take the SA, if there is one; once, after [`Self::init`].
    fn offload(&mut self, offload: Option<&uapi::Offload>, extack: &mut ExtAck<'_>) -> Result {
        let (new, old) = (self.as_ptr(), self.old.as_ptr());
        let packets = offload.is_some_and(|offload| offload.flags & uapi::OFFLOAD_PACKET != 0);
        // SAFETY: The SA is ours and initialized; there is a reference to the old one.
        unsafe {
            // A device that numbers packets by itself may begin with 1 again, so that another
            // salt is all that keeps its IVs apart from those that there were.
            if !packets && !in_hardware(old) {
                cipher::keep_salt(new, old);
            }
            raw::xfrm_set_type_offload(new, offload.is_some());
        }
        let Some(offload) = offload else {
            return Ok(());
        };
        // SAFETY: As above; the layouts are the same (`layout.rs`).
        to_result(unsafe {
            raw::xfrm_next_dev_state_add(
                raw::xfrm_next_state_net(self.as_ptr()),
                self.as_ptr(),
                ptr::from_ref(offload).cast(),
                extack.as_ptr(),
            )
        })
    }

    fn as_ptr(&self) -> *mut raw::xfrm_state {
        self.draft.0.as_ptr()
    }

    /// Whether packets that find the old SA don't find this one.
    fn leaves(&self) -> bool {
        // SAFETY: The reference is ours.
        let new = unsafe { State::from_raw(self.as_ptr()) };
        new.id() != self.old.id() || new.mark() != self.old.mark()
    }

    /// Puts the SA in the place of the old one: it takes over counters, windows
    /// and what is left of the lifetime, and is valid. May sleep; not under locks of SAs.
    ///
    /// A lookup finds one of the two at any time, and nobody counts a packet on
    /// the old one any more: that needs the lock. Packets that are being handled
    /// by the old one go on, with the new one's numbers and window, for a while;
    /// but not if the old one has something that must go at once.
    ///
    /// Deletes an SA that waits for one like the new one, as a new SA does.
    ///
    /// Fails with `ESRCH` if the old one was deleted, replaced, or has expired, and with `ENOMEM`:
    /// nothing has happened then.
    pub fn replace_old(self, replaced: &Replaced) -> Result<ARef<State>> {
        replaced.with(self.old.net(), |deferred| {
            let (new, asks) = self.switch(deferred)?;
            deferred.stats().count(Counter::Migrated);
            if asks {
                deferred.ask_anew();
            }
            Ok(new)
        })
    }

    /// Does it, and returns whether the work of `deferred`, which is that of the namespace, has
    /// to be asked for anew.
    fn switch(mut self, deferred: &Deferred<'_>) -> Result<(ARef<State>, bool)> {
        let found = deferred.finds() && self.old.dir() != uapi::SA_DIR_OUT && self.leaves();
        let _expected = found.then(|| deferred.expect(self.old));
        if found {
            self.room.add_address(self.old)?;
        }
        // The device must be told of the draft without that lock, if it fails.
        let (locked, expires) = stand_still(self.old, &mut self.room)?;
        let net = self.old.net();
        let new = ManuallyDrop::new(self.draft).0.as_ptr();
        let old = locked.as_ptr();

        // SAFETY: `new` is ours and complete, and `old` is locked, valid and
        // in the tables. The reference that we had goes to the tables; one
        // more is returned.
        unsafe {
            raw::xfrm_next_state_hold(new);
            let held: ARef<State> = ARef::from_raw(NonNull::new_unchecked(new).cast());
            let place = self.room.place(&locked);
            let mut place = place.filter(|_| can_be_kept(old, new));
            let (meets_larval, asks) = {
                // Until its timers are right, no packet may find a limit; and a
                // device may know it already.
                let nested = held.lock_nested();
                take_counters(new, old);
                (&raw mut (*new).km.state).write_volatile(raw::XFRM_STATE_VALID as u8);
                let counts = match place {
                    Some(_) => Counts::NoMore,
                    None => Counts::Still,
                };
                if let Some(place) = &mut place {
                    place.be_found(deferred);
                }
                let meets_larval = take_place(new, old, counts);
                take_timers(new, old, expires);
                let asks = place.map(|place| {
                    release(old);
                    // Who has waited for the tables may have put it into a cache just now.
                    self.old.leave_caches();
                    place.keep(&nested, deferred)
                });
                (meets_larval, asks)
            };
            let tunnel = if asks.is_none() {
                raw::__xfrm_state_delete(old);
                close_window(old);
                ptr::null_mut()
            } else {
                mem::replace(&mut (*old).tunnel, ptr::null_mut())
            };
            drop(locked);
            raw::xfrm_next_tunnel_put(tunnel);
            deferred.give_up(&held, self.old);
            if meets_larval || (*new).km.seq != 0 {
                larval::resolve(&held, net);
            }
            Ok((held, asks == Some(true)))
        }
    }
}

/// Locks an SA that is to be replaced, such that its replay timer doesn't wait for the lock:
/// it would tell listeners of an SA that is none any more. Returns also when that timer
/// would have expired, if it was running. All that its lineage needs is in `room` then. Sleeps.
///
/// Fails with `ESRCH` if it was deleted, replaced, or has expired, and with `ENOMEM`.
fn stand_still<'a>(old: &'a State, room: &mut Room) -> Result<(Locked<'a>, Option<c_ulong>)> {
    loop {
        let locked = old.lock();
        if !locked.is_valid() || replaced::is_kept(old) {
            return Err(ESRCH);
        }
        if room.is_missing(&locked) {
            drop(locked);
            room.add()?;
            continue;
        }
        // SAFETY: The SA is valid; its timer has a lock of its own.
        let (expires, stopped) = unsafe {
            let timer = &raw mut (*old.as_ptr()).rtimer;
            let pending = raw::xfrm_next_timer_pending(timer);
            let expires = pending.then(|| (*timer).expires);
            (expires, raw::timer_delete_sync_try(timer) >= 0)
        };
        if stopped {
            return Ok((locked, expires));
        }
        drop(locked);
        // Less would be spent without sleeping.
        fsleep(Delta::from_micros(20));
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let x = self.0.as_ptr();

        // SAFETY: The reference is ours, and nobody else knows the SA. A dead
        // one may be freed, after its device has forgotten it.
        unsafe {
            (*x).km.state = raw::XFRM_STATE_DEAD as u8;
            raw::xfrm_next_dev_state_delete(x);
            raw::xfrm_next_state_put(x);
        }
    }
}

/// Whether an SA may stay as it is for a while after it has been replaced.
///
/// Not if a device knows it, which must be told at once. Nor if packets of the new one are
/// numbered by a device, since then nobody could keep them apart from those in flight.
///
/// # Safety
///
/// Both are valid, and `old` is locked.
unsafe fn can_be_kept(old: *const raw::xfrm_state, new: *const raw::xfrm_state) -> bool {
    // SAFETY: The caller promises it.
    unsafe { (*old).xso.dev.is_null() && !in_hardware(new) }
}

/// # Safety
///
/// Both are locked, `new` is a clone of `old` that nobody can find.
unsafe fn take_counters(new: *mut raw::xfrm_state, old: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it.
    unsafe {
        raw::xfrm_next_dev_state_update_stats(old);
        raw::xfrm_next_migrate_sync(new, old);
        (*new).stats = (*old).stats;
        (*new).lastused = (*old).lastused;
        (*new).km.dying = (*old).km.dying;
        (*new).xflags = (*old).xflags;
        (*new).saved_tmo = (*old).saved_tmo;
    }
}

/// Starts the timers of `new`, to expire when those of `old` would have; that for sequence
/// numbers at `expires`. Else each migration would defer the limits.
///
/// # Safety
///
/// Both are locked.
unsafe fn take_timers(
    new: *mut raw::xfrm_state,
    old: *mut raw::xfrm_state,
    expires: Option<c_ulong>,
) {
    // SAFETY: The caller promises it; timers have locks of their own.
    unsafe {
        if is_timed(&(*new).lft) {
            if raw::xfrm_next_hrtimer_active(&raw mut (*old).mtimer) {
                raw::xfrm_next_hrtimer_copy_start(&raw mut (*new).mtimer, &raw const (*old).mtimer);
            } else {
                raw::xfrm_next_hrtimer_start(&raw mut (*new).mtimer, 1);
            }
        }
        let timer = &raw mut (*new).rtimer;
        if let Some(expires) = expires {
            raw::mod_timer(timer, expires);
        } else if (*new).replay_maxage != 0 && (*old).xflags & raw::XFRM_TIME_DEFER == 0 {
            // If it has fired, the event has been left to the next packet.
            raw::xfrm_next_timer_start(timer, (*new).replay_maxage);
        }
        if (*new).nat_keepalive_interval != 0 {
            raw::xfrm_next_nat_keepalive_run(raw::xfrm_next_state_net(new));
        }
    }
}

/// Ends what a replaced SA does by itself: expiring, telling its sequence numbers, and
/// being chosen by routes that exist. Its successor has all of that now.
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
        // What is counted from now on is handed over.
        (*x).stats = pin_init::zeroed();
        (*x).replay_maxdiff = 0;
        (*x).replay_maxage = 0;
        (*x).nat_keepalive_interval = 0;
        (*x).xflags = 0;
        outdate_routes(x);
    }
}

/// Whether there are limits of time; without them the timer would do nothing.
fn is_timed(limits: &raw::xfrm_lifetime_cfg) -> bool {
    limits.soft_add_expires_seconds
        | limits.hard_add_expires_seconds
        | limits.soft_use_expires_seconds
        | limits.hard_use_expires_seconds
        != 0
}

#[cfg(CONFIG_XFRM_OFFLOAD)]
#[kernel::macros::kunit_tests(xfrm_next_new_state)]
mod tests {
    use super::*;
    use crate::{
        net::Namespace,
        xfrm::state::{config::Config, lookup},
    };
    use kernel::ffi::c_int;
    use kernel::sync::atomic::{ordering, Atomic};
    use kernel::sync::lock::{mutex::MutexBackend, Lock};
    use raw::{XFRM_STATE_DEAD as DEAD, XFRM_STATE_VALID as VALID, XFRM_STATE_VOID as VOID};
    use uapi::{Address, Id, Mark, Offload};

    const OLD: Id = id(97);
    const NEW: Id = id(96);
    /// In place of a phase: there is no SA.
    const NONE: u32 = u32::MAX;

    const fn id(last: u8) -> Id {
        Id {
            daddr: Address([192, 0, 2, last, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            spi: [0x5a, 0xa5, 0xa5, 0x5a],
            family: uapi::AF_INET,
            proto: uapi::IPPROTO_ESP,
            pad: 0,
        }
    }

    /// Returns the phases of an SA, and of those that packets to the old and to the new
    /// destination find.
    fn phases(state: &State) -> [u32; 3] {
        let found = |id| lookup::find(Namespace::first(), &id, 0, |_| true);
        let found = |id| found(id).map_or(NONE, |state| state.phase());
        [state.phase(), found(OLD), found(NEW)]
    }

    /// What they were when the device got its last SA.
    static SEEN: [Atomic<u32>; 3] = [const { Atomic::new(NONE) }; 3];

    static OPS: raw::xfrmdev_ops = raw::xfrmdev_ops {
        xdo_dev_state_add: Some(add),
        xdo_dev_state_delete: Some(delete),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `x` is valid, and has a reference.
    unsafe extern "C" fn add(
        _dev: *mut raw::net_device,
        x: *mut raw::xfrm_state,
        _extack: *mut raw::netlink_ext_ack,
    ) -> c_int {
        // SAFETY: The caller promises it.
        let phases = phases(unsafe { State::from_raw(x) });
        let seen = SEEN.iter().zip(phases);
        seen.for_each(|(seen, phase)| seen.store(phase, ordering::Relaxed));
        0
    }

    extern "C" fn delete(_dev: *mut raw::net_device, _x: *mut raw::xfrm_state) {}

    /// A device that takes any SA. Dropping it deletes those that it has.
    struct TestDevice(*mut raw::net_device);

    impl TestDevice {
        fn new() -> Result<Self> {
            let name = c"xfrm_next%d".as_char_ptr();
            let size = size_of::<raw::net_device_ops>() as c_int;
            // SAFETY: The device is ours until it is registered. It has no operations but
            // those for SAs: the others are its private part, all zeros.
            unsafe {
                let dev = raw::alloc_netdev_mqs(size, name, 0, Some(raw::ether_setup), 1, 1);
                let device = dev.as_mut().ok_or(ENOMEM)?;
                device.netdev_ops = (&raw const device.priv_).cast();
                device.xfrmdev_ops = &OPS;
                let result = to_result(raw::register_netdev(dev));
                result.inspect_err(|_| raw::free_netdev(dev))?;
                Ok(Self(dev))
            }
        }

        /// Adds a valid SA, which the device has.
        fn add_old(&self) -> Result {
            /// `struct xfrm_algo_aead` with its key.
            #[repr(C)]
            struct Aead([u8; 64], [u32; 2], [u8; 20]);

            let (name, mut aead) = (b"rfc4106(gcm(aes))", Aead([0; 64], [160, 128], [7; 20]));
            aead.0[..name.len()].copy_from_slice(name);
            let (mut offload, none) = (Offload::default(), ptr::null_mut());
            // SAFETY: A new SA is ours until it is inserted, which takes its reference. The
            // layouts are the same. Without an AEAD it wouldn't be initialized.
            unsafe {
                (offload.ifindex, offload.flags) = ((*self.0).ifindex, uapi::OFFLOAD_INBOUND);
                let net = Namespace::first().as_ptr();
                let draft = Draft(NonNull::new(raw::xfrm_state_alloc(net)).ok_or(ENOMEM)?);
                let x = draft.0.as_ptr();
                (*x).id.daddr = OLD.daddr.into();
                (*x).id.spi = u32::from_ne_bytes(OLD.spi);
                (*x).id.proto = OLD.proto;
                (*x).props.family = OLD.family;
                (*x).geniv = c"seqiv".as_char_ptr();
                (*x).aead = raw::xfrm_next_algo_aead_clone((&raw mut aead).cast());
                to_result(raw::__xfrm_init_state(x, none))?;
                to_result(raw::xfrm_init_replay(x, none))?;
                raw::xfrm_set_type_offload(x, true);
                let offload = (&raw const offload).cast();
                to_result(raw::xfrm_next_dev_state_add(net, x, offload, none))?;
                (*x).km.state = VALID as u8;
                raw::xfrm_state_insert(ManuallyDrop::new(draft).0.as_ptr());
            }
            Ok(())
        }
    }

    impl Drop for TestDevice {
        fn drop(&mut self) {
            // SAFETY: It is registered, and nobody else's.
            unsafe {
                raw::unregister_netdev(self.0);
                raw::free_netdev(self.0);
            }
        }
    }

    /// Moves an SA that a device has: what that saw, what there is then, and the phase of the
    /// old one. All has gone when it returns, since a test that fails ends at once.
    fn moved() -> Result<([u32; 3], [u32; 3], u32)> {
        let (net, device) = (Namespace::first(), TestDevice::new()?);
        // SAFETY: The lock is always there, and held as long as the evidence.
        let requests = unsafe {
            let mutex = &raw mut (*net.as_ptr()).xfrm.xfrm_cfg_mutex;
            Lock::<(), MutexBackend>::from_raw(mutex.cast())
        };
        let _held = requests.lock();
        // SAFETY: As above; and there needn't be an acknowledgement.
        let (config, mut extack) =
            unsafe { (Config::assume(net), ExtAck::from_raw(ptr::null_mut())) };
        device.add_old()?;

        let old = Found::with_mark(&config, &OLD, Mark::default()).ok_or(ESRCH)?;
        let changes = Changes {
            daddr: NEW.daddr,
            family: NEW.family,
            ..Changes::default()
        };
        let new = NewState::new(&old, &changes, old.offload().as_ref(), &mut extack)?;
        let deferred = replaced::for_test()?;
        let (new, _) = new.switch(&deferred)?;
        let seen = SEEN.each_ref().map(|seen| seen.load(ordering::Relaxed));
        let moved = (seen, phases(&new), old.phase());
        // SAFETY: It is valid; and out of the tables, where the device's end would look for it.
        unsafe { raw::xfrm_state_delete(old.as_ptr()) };
        Ok(moved)
    }

    #[test]
    fn a_device_has_it_before_it_is_valid() -> Result {
        let (seen, then, old) = moved()?;
        assert_eq!(seen, [VOID, VALID, NONE]);
        assert_eq!(then, [VALID, NONE, VALID]);
        assert_eq!(old, DEAD);
        Ok(())
    }
}

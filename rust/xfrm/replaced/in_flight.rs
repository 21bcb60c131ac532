// SPDX-License-Identifier: GPL-2.0

//! Packets in flight on an SA that has been replaced.
//!
//! They find it valid, and finish on it. But its window, sequence numbers,
//! counters and limits are those of the newest SA of its line now: what the kernel asks of
//! a replaced SA under its lock, [`Recheck`] and [`Overflow`] ask of the
//! newest, under that one's lock. So no packet is accepted twice, and no
//! number is used twice, whichever of the two a packet goes by.
//!
//! Events about sequence numbers (`XFRM_MSG_NEWAE`) are left to the next packet of the
//! newest. The kernel's own functions can't be asked in its name: no module may call them,
//! and where the CPU checks targets of indirect calls (IBT) they aren't any.
//!
//! Mirrors `xfrm_replay_recheck()`, `xfrm_replay_advance()` and
//! `xfrm_replay_overflow()` of `net/xfrm/xfrm_replay.c`; the arithmetic is in
//! [`replay`](super::replay).

use super::{
    lineage,
    replay::{Numbers, Plain, Ring, Verdict, Window},
    window::ring,
    PerNet,
};
use crate::{
    net::namespace,
    raw,
    redirect::{Arguments, Be32, Gate, Target},
    xfrm::{stats::Counter, uapi, State},
};
use core::slice;
use kernel::{error::to_result, ffi::c_int, prelude::*};

/// Calls `f` with the locked newest SA of the line of `x`, which is locked itself.
///
/// Fails with `EINVAL` if that one isn't valid any more.
///
/// # Safety
///
/// `x` is kept, and locked with bottom halves off.
unsafe fn with_newest(
    x: *mut raw::xfrm_state,
    f: impl FnOnce(*mut raw::xfrm_state) -> Result,
) -> Result {
    // SAFETY: The caller promises it.
    let lineage = unsafe { lineage::of(State::from_raw(x)) }.ok_or(EINVAL)?;
    // SAFETY: The caller has locked `x`, which is of the line.
    unsafe { lineage.with_newest(|newest| f(newest.as_ptr())) }.ok_or(EINVAL)?
}

/// Names `new` in place of `x`, which it has replaced, as the SA that a packet came by: policies,
/// and whoever else asks later, know that one.
///
/// The caller goes on with `x`, which its bottom half keeps in memory: it is freed after a grace
/// period. But a mode of the SA's own (IP-TFS) may hand over packets by `xfrm_input()` anew, which
/// takes the family from the SA named here, and so how to read the tunnel they came by (vti):
/// there `x` stays if the family differs. So it does in transport mode if the selector does: it is
/// compared with the packet's own addresses, which are those that `x` had.
///
/// # Safety
///
/// Both are locked, and `x` is kept; `skb` is valid, and its SAs are the caller's to write.
unsafe fn name(x: *mut raw::xfrm_state, new: *mut raw::xfrm_state, skb: *mut raw::sk_buff) {
    // SAFETY: The caller promises it. `x` has a reference as it is kept, beside that of the packet.
    unsafe {
        let (old, newest) = (State::from_raw(x), State::from_raw(new));
        let stays = match old.mode() {
            uapi::MODE_TRANSPORT => !old.has_selector_of(newest),
            _ => !(*x).mode_cbs.is_null() && (*x).props.family != (*new).props.family,
        };
        if stays {
            return;
        }
        let Some(sp) = raw::xfrm_next_skb_sec_path(skb).as_mut() else {
            return;
        };
        let last = (sp.len as usize).wrapping_sub(1);
        if let Some(place) = sp.xvec.get_mut(last).filter(|place| **place == x) {
            raw::xfrm_next_state_hold(new);
            *place = new;
            raw::xfrm_next_state_put(x);
        }
    }
}

/// Counts a packet.
///
/// # Safety
///
/// `x` is locked, `skb` is valid.
unsafe fn count(x: *mut raw::xfrm_state, skb: *const raw::sk_buff) {
    // SAFETY: The caller promises it. User space may have set the counters to
    // anything.
    unsafe {
        let len = raw::xfrm_next_skb_len(skb);
        (*x).curlft.bytes = (*x).curlft.bytes.wrapping_add(len.into());
        (*x).curlft.packets = (*x).curlft.packets.wrapping_add(1);
        (*x).lastused = raw::ktime_get_real_seconds();
    }
}

/// Asks the windows of `x` and of `new`, the newest of its line, whether a packet may be
/// received, and notes in that of `new` that it has been.
///
/// That of `x` has the same packets and is not ahead, unless user space has set
/// the new one back; but the kernel goes on with noting the packet there, which
/// it may do only if it fits.
///
/// Mirrors `xfrm_replay_recheck()` and `xfrm_replay_advance()`.
///
/// # Safety
///
/// Both are locked, `skb` is valid.
unsafe fn receive(
    x: *mut raw::xfrm_state,
    new: *mut raw::xfrm_state,
    skb: *mut raw::sk_buff,
    seq: Be32,
) -> Result {
    // SAFETY: The caller promises it.
    unsafe {
        let verdict = match ask(x, skb, seq, |window, number| window.check(number)) {
            Verdict::Fresh => ask(new, skb, seq, note),
            refused => refused,
        };
        match verdict {
            Verdict::Fresh => {
                tell_device(new);
                return Ok(());
            }
            Verdict::Replayed => (*new).stats.replay = (*new).stats.replay.wrapping_add(1),
            Verdict::Outside => {
                (*new).stats.replay_window = (*new).stats.replay_window.wrapping_add(1);
            }
        }
        raw::xfrm_next_audit_state_replay(new, skb, seq.0);
    }
    Err(EINVAL)
}

fn note(window: &mut dyn Window, number: u64) -> Verdict {
    let verdict = window.check(number);
    if verdict == Verdict::Fresh {
        window.advance(number);
    }
    verdict
}

/// Asks the window of `x` about a packet, by `question`.
///
/// # Safety
///
/// `x` is locked, `skb` is valid.
unsafe fn ask(
    x: *mut raw::xfrm_state,
    skb: *mut raw::sk_buff,
    seq: Be32,
    question: fn(&mut dyn Window, u64) -> Verdict,
) -> Verdict {
    // SAFETY: The caller promises it: the windows are ours. A ring's bits follow
    // the structure, as many words as it says.
    unsafe {
        let number = u64::from(u32::from_be(seq.0));
        let esn = (*x).replay_esn;

        if esn.is_null() {
            let mut window = Plain {
                size: (*x).props.replay_window.into(),
                top: &mut (*x).replay.seq,
                bits: &mut (*x).replay.bitmap,
            };
            return question(&mut window, number);
        }
        let hi = raw::xfrm_replay_seqhi(x, seq.0);
        let number = u64::from(hi) << 32 | number;
        let extended = has_extended_numbers(x);
        // It was decrypted as another packet than it would be now; or as one before the first.
        if extended
            && (hi != u32::from_be((*raw::xfrm_next_skb_cb(skb)).seq.input.hi)
                || hi == u32::MAX && (*esn).seq_hi == 0)
        {
            return Verdict::Outside;
        }
        // Without ESN, nobody looks at what user space may have set there.
        let mut no_hi = 0;
        let mut window = Ring {
            size: (*esn).replay_window,
            top: &mut (*esn).seq,
            top_hi: if extended {
                &mut (*esn).seq_hi
            } else {
                &mut no_hi
            },
            bits: slice::from_raw_parts_mut(ring(esn), (*esn).bmp_len as usize),
        };
        question(&mut window, number)
    }
}

/// # Safety
///
/// `x` is valid; its mode of replay is set once.
unsafe fn has_extended_numbers(x: *const raw::xfrm_state) -> bool {
    // SAFETY: The caller promises it.
    unsafe { (*x).repl_mode == raw::xfrm_replay_mode_XFRM_REPLAY_MODE_ESN }
}

/// Tells the device of an SA with ESN, if there is one, how far it has come.
///
/// # Safety
///
/// `x` is locked.
unsafe fn tell_device(x: *mut raw::xfrm_state) {
    // SAFETY: The caller promises it.
    unsafe {
        if has_extended_numbers(x) {
            raw::xfrm_next_dev_state_advance_esn(x);
        }
    }
}

/// Gives a packet the next number of `x`, or as many as it has segments.
///
/// Mirrors `xfrm_replay_overflow()`.
///
/// # Safety
///
/// `x` is locked, `skb` is valid.
unsafe fn number(x: *mut raw::xfrm_state, skb: *mut raw::sk_buff) -> Result {
    // SAFETY: The caller promises it: the numbers are ours. A type lives as long
    // as its SAs.
    unsafe {
        if u32::from((*(*x).type_).flags) & raw::XFRM_TYPE_REPLAY_PROT == 0 {
            return Ok(());
        }
        let cb = raw::xfrm_next_skb_cb(skb);
        let offload = raw::xfrm_next_skb_offload(skb);
        let esn = (*x).replay_esn;
        let numbers = if has_extended_numbers(x) {
            Numbers::Extended
        } else if (*x).props.extra_flags & raw::XFRM_SA_XFLAG_OSEQ_MAY_WRAP != 0 {
            Numbers::Wrapping
        } else {
            Numbers::Plain
        };
        let count = if offload.is_null() {
            1
        } else {
            raw::xfrm_next_skb_gso_segs(skb)
        };
        let mut no_hi = 0;
        let (last, last_hi) = match (esn.is_null(), numbers) {
            (true, _) => (&mut (*x).replay.oseq, &mut no_hi),
            (false, Numbers::Extended) => (&mut (*esn).oseq, &mut (*esn).oseq_hi),
            (false, _) => (&mut (*esn).oseq, &mut no_hi),
        };

        let Some((first, end)) = numbers.take(u64::from(*last_hi) << 32 | u64::from(*last), count)
        else {
            raw::xfrm_next_audit_state_replay_overflow(x, skb);
            return Err(EOVERFLOW);
        };
        (*last, *last_hi) = (end as u32, (end >> 32) as u32);
        (*cb).seq.output.low = first as u32;
        (*cb).seq.output.hi = (first >> 32) as u32;
        if !offload.is_null() {
            (*offload).seq.low = first as u32;
            (*offload).seq.hi = (first >> 32) as u32;
        }
        tell_device(x);
    }
    Ok(())
}

/// Lets the newest of the line of `x` handle a packet by `f`, within its limits, and counts
/// it there.
///
/// # Safety
///
/// `x` is kept, and locked with bottom halves off; `skb` is valid.
unsafe fn handle(
    x: *mut raw::xfrm_state,
    skb: *mut raw::sk_buff,
    f: impl FnOnce(*mut raw::xfrm_state) -> Result,
) -> c_int {
    // SAFETY: The caller promises it; the newest is locked.
    let result = unsafe {
        with_newest(x, |newest| {
            to_result(raw::xfrm_state_check_expire(newest))?;
            f(newest)?;
            count(newest, skb);
            // As long as one is kept its namespace has these data.
            let deferred = namespace::data::<PerNet>(State::from_raw(x).net());
            deferred.stats().count(Counter::InFlight);
            Ok(())
        })
    };
    result.map_or_else(|e| e.to_errno(), |()| 0)
}

/// Asks the newest SA whether a decrypted packet may be received. Redirects
/// `xfrm_replay_recheck()`, which is called in a bottom half under the lock of the SA.
///
/// The kernel goes on with noting that it has been, in the replaced SA where it
/// means nothing; hence it is noted in the newest right away.
pub struct Recheck;

static RECHECK_GATE: Gate = Gate::new();

// SAFETY: The replacement has the function's own type, and takes and keeps the
// pass of the gate.
unsafe impl Target for Recheck {
    const NAME: &'static CStr = c"xfrm_replay_recheck";
    const MODULE: Option<&'static CStr> = None;
    type Function = unsafe extern "C" fn(*mut raw::xfrm_state, *mut raw::sk_buff, Be32) -> c_int;
    const REPLACEMENT: Self::Function = recheck;

    fn gate() -> &'static Gate {
        &RECHECK_GATE
    }

    fn serves(&self, arguments: &Arguments<'_>) -> bool {
        // SAFETY: The function's first argument is an SA.
        lineage::is_kept(unsafe { State::from_raw(arguments.first()) })
    }
}

/// # Safety
///
/// As for `xfrm_replay_recheck()`: `x` is locked.
unsafe extern "C" fn recheck(x: *mut raw::xfrm_state, skb: *mut raw::sk_buff, seq: Be32) -> c_int {
    // SAFETY: The call has been redirected here.
    let _pass = unsafe { Recheck::pass() };
    // SAFETY: The caller has locked `x`, in a bottom half; it is kept, or the call wouldn't
    // have been redirected.
    unsafe {
        handle(x, skb, |new| {
            receive(x, new, skb, seq)?;
            name(x, new, skb);
            Ok(())
        })
    }
}

/// Takes the number of a packet to be sent from the newest SA. Redirects
/// `xfrm_replay_overflow()`, which is called under the lock of the SA.
pub struct Overflow;

static OVERFLOW_GATE: Gate = Gate::new();

// SAFETY: As for `Recheck`.
unsafe impl Target for Overflow {
    const NAME: &'static CStr = c"xfrm_replay_overflow";
    const MODULE: Option<&'static CStr> = None;
    type Function = unsafe extern "C" fn(*mut raw::xfrm_state, *mut raw::sk_buff) -> c_int;
    const REPLACEMENT: Self::Function = overflow;

    fn gate() -> &'static Gate {
        &OVERFLOW_GATE
    }

    fn serves(&self, arguments: &Arguments<'_>) -> bool {
        // SAFETY: The function's first argument is an SA.
        lineage::is_kept(unsafe { State::from_raw(arguments.first()) })
    }
}

/// # Safety
///
/// As for `xfrm_replay_overflow()`: `x` is locked.
unsafe extern "C" fn overflow(x: *mut raw::xfrm_state, skb: *mut raw::sk_buff) -> c_int {
    // SAFETY: The call has been redirected here.
    let _pass = unsafe { Overflow::pass() };
    // SAFETY: The caller has locked `x`, with bottom halves off; it is kept, as above.
    unsafe { handle(x, skb, |x| number(x, skb)) }
}

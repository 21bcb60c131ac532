// SPDX-License-Identifier: GPL-2.0

//! Packets in flight on an SA that has been retired.
//!
//! They find it valid, and finish on it. But its window, sequence numbers,
//! counters and limits are those of its successor now: what the kernel asks of
//! a retired SA under its lock, [`Recheck`] and [`Overflow`] ask of the
//! successor, under that one's lock. So no packet is accepted twice, and no
//! number is used twice, whichever of the two a packet goes by.
//!
//! The successor may have been retired itself: then its own successor is asked.
//!
//! Events about sequence numbers (`XFRM_MSG_NEWAE`) are left to the successor's
//! next packet.

use super::{
    replay::{Numbers, Plain, Ring, Verdict, Window},
    retired::successor,
};
use crate::{
    raw,
    redirect::{Arguments, CType, Gate, Target},
};
use core::{fmt, slice};
use kernel::{error::to_result, ffi::c_int, prelude::*};

/// Whether the SA has an SPI, but isn't found by it: retired, or deleted.
fn is_out(x: *const raw::xfrm_state) -> bool {
    // SAFETY: The SA is valid and locked.
    unsafe { (*x).byspi.pprev.is_null() && (*x).id.spi != 0 }
}

/// Calls `f` with the locked successor of `x`, which is locked itself.
///
/// Fails with `EINVAL` if that one isn't valid any more. Returns `None` if `x`
/// has no successor.
///
/// # Safety
///
/// `x` is valid, and locked with bottom halves off.
unsafe fn with_successor(
    x: *mut raw::xfrm_state,
    f: impl FnOnce(&mut raw::xfrm_state) -> Result,
) -> Option<Result> {
    let mut next = successor(x)?;

    loop {
        let locked = next.lock_nested();
        // It may have been retired itself since.
        if is_out(next.as_ptr()) {
            if let Some(later) = successor(next.as_ptr()) {
                drop(locked);
                next = later;
                continue;
            }
        }
        if !next.is_valid() {
            return Some(Err(EINVAL));
        }
        // SAFETY: It is valid and locked.
        return Some(f(unsafe { &mut *next.as_ptr() }));
    }
}

/// Counts a packet.
///
/// # Safety
///
/// `skb` is valid.
unsafe fn count(x: &mut raw::xfrm_state, skb: *const raw::sk_buff) {
    // SAFETY: The caller promises it.
    let len = unsafe { raw::xfrm_next_skb_len(skb) };
    // User space may have set them to anything.
    x.curlft.bytes = x.curlft.bytes.wrapping_add(len.into());
    x.curlft.packets = x.curlft.packets.wrapping_add(1);
    // SAFETY: It may be called anywhere.
    x.lastused = unsafe { raw::ktime_get_real_seconds() };
}

/// Asks the window of `x` whether a packet may be received, and notes that it
/// has been.
///
/// Mirrors `xfrm_replay_recheck()` and `xfrm_replay_advance()`.
///
/// # Safety
///
/// `x` is locked, `skb` is valid.
unsafe fn receive(x: &mut raw::xfrm_state, skb: *mut raw::sk_buff, seq: Be32) -> Result {
    // SAFETY: The caller promises it. The bits follow the structure.
    let (hi, decrypted_hi, esn) = unsafe {
        let cb = raw::xfrm_next_skb_cb(skb);
        (
            raw::xfrm_replay_seqhi(x, seq.0),
            u32::from_be((*cb).seq.input.hi),
            x.replay_esn.as_mut(),
        )
    };
    let extended = x.repl_mode == raw::xfrm_replay_mode_XFRM_REPLAY_MODE_ESN;
    let number = u64::from(hi) << 32 | u64::from(u32::from_be(seq.0));
    // Without ESN, nobody looks at what user space may have set there.
    let mut no_hi = 0;

    let verdict = match esn {
        None => note(
            &mut Plain {
                size: x.props.replay_window.into(),
                top: &mut x.replay.seq,
                bits: &mut x.replay.bitmap,
            },
            number,
        ),
        // It was decrypted as another packet than it would be now.
        Some(_) if extended && hi != decrypted_hi => Verdict::Outside,
        Some(esn) => note(
            &mut Ring {
                size: esn.replay_window,
                // SAFETY: As above.
                bits: unsafe {
                    slice::from_raw_parts_mut(esn.bmp.as_mut_ptr(), esn.bmp_len as usize)
                },
                top: &mut esn.seq,
                top_hi: if extended {
                    &mut esn.seq_hi
                } else {
                    &mut no_hi
                },
            },
            number,
        ),
    };
    match verdict {
        Verdict::Fresh => {
            tell_device(x);
            return Ok(());
        }
        Verdict::Replayed => x.stats.replay = x.stats.replay.wrapping_add(1),
        Verdict::Outside => x.stats.replay_window = x.stats.replay_window.wrapping_add(1),
    }
    // SAFETY: Both are valid.
    unsafe { raw::xfrm_next_audit_state_replay(x, skb, seq.0) };
    Err(EINVAL)
}

/// Tells the device of an SA with ESN, if there is one, how far it has come.
fn tell_device(x: &mut raw::xfrm_state) {
    if x.repl_mode == raw::xfrm_replay_mode_XFRM_REPLAY_MODE_ESN {
        // SAFETY: The SA is valid and locked.
        unsafe { raw::xfrm_next_dev_state_advance_esn(x) }
    }
}

fn note(window: &mut impl Window, number: u64) -> Verdict {
    let verdict = window.check(number);
    if verdict == Verdict::Fresh {
        window.advance(number);
    }
    verdict
}

/// Gives a packet the next number of `x`, or as many as it has segments.
///
/// Mirrors `xfrm_replay_overflow()`.
///
/// # Safety
///
/// `x` is locked, `skb` is valid.
unsafe fn number(x: &mut raw::xfrm_state, skb: *mut raw::sk_buff) -> Result {
    // SAFETY: The caller promises it; a type lives as long as its SAs.
    let (kind, cb, offload, esn) = unsafe {
        (
            &*x.type_,
            &mut *raw::xfrm_next_skb_cb(skb),
            raw::xfrm_next_skb_offload(skb).as_mut(),
            x.replay_esn.as_mut(),
        )
    };
    if u32::from(kind.flags) & raw::XFRM_TYPE_REPLAY_PROT == 0 {
        return Ok(());
    }
    let numbers = if x.repl_mode == raw::xfrm_replay_mode_XFRM_REPLAY_MODE_ESN {
        Numbers::Extended
    } else if x.props.extra_flags & raw::XFRM_SA_XFLAG_OSEQ_MAY_WRAP != 0 {
        Numbers::Wrapping
    } else {
        Numbers::Plain
    };
    let count = match offload {
        // SAFETY: As above.
        Some(_) => unsafe { raw::xfrm_next_skb_gso_segs(skb) },
        None => 1,
    };
    let last = match &esn {
        Some(esn) if numbers == Numbers::Extended => {
            u64::from(esn.oseq_hi) << 32 | u64::from(esn.oseq)
        }
        Some(esn) => esn.oseq.into(),
        None => x.replay.oseq.into(),
    };

    let Some((first, last)) = numbers.take(last, count) else {
        // SAFETY: Both are valid.
        unsafe { raw::xfrm_next_audit_state_replay_overflow(x, skb) };
        return Err(EOVERFLOW);
    };
    let (low, hi) = (first as u32, (first >> 32) as u32);
    cb.seq.output.low = low;
    cb.seq.output.hi = hi;
    if let Some(offload) = offload {
        offload.seq.low = low;
        offload.seq.hi = hi;
    }
    match esn {
        Some(esn) => {
            esn.oseq = last as u32;
            if numbers == Numbers::Extended {
                esn.oseq_hi = (last >> 32) as u32;
            }
        }
        None => x.replay.oseq = last as u32,
    }
    tell_device(x);
    Ok(())
}

/// Lets the successor of `x` handle a packet by `f`, if there is one, within
/// its limits and counted there; else `x` itself, which the caller counts.
///
/// # Safety
///
/// `x` is locked with bottom halves off, `skb` is valid.
unsafe fn handle(
    x: *mut raw::xfrm_state,
    skb: *mut raw::sk_buff,
    f: impl Fn(&mut raw::xfrm_state) -> Result,
) -> c_int {
    // SAFETY: The caller promises it; the successor is locked.
    let result = unsafe {
        with_successor(x, |new| {
            to_result(raw::xfrm_state_check_expire(new))?;
            f(new)?;
            count(new, skb);
            Ok(())
        })
        .unwrap_or_else(|| f(&mut *x))
    };
    result.map_or_else(|e| e.to_errno(), |()| 0)
}

/// `__be32`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Be32(u32);

impl CType for Be32 {
    fn write(f: &mut dyn fmt::Write) -> fmt::Result {
        f.write_str("__be32")
    }
}

/// Asks the successor whether a decrypted packet may be received.
///
/// The kernel goes on with noting that it has been, in the retired SA where it
/// means nothing; hence it is noted in the successor right away.
pub struct Recheck;

static RECHECK_GATE: Gate = Gate::new();

// SAFETY: The replacement has the function's own type, and takes and keeps the
// pass of the gate.
unsafe impl Target for Recheck {
    const NAME: &'static CStr = c"xfrm_replay_recheck";
    const MODULE: Option<&'static CStr> = None;
    type Function = unsafe extern "C" fn(*mut raw::xfrm_state, *mut raw::sk_buff, Be32) -> c_int;
    const REPLACEMENT: Self::Function = recheck;
    const GATE: &'static Gate = &RECHECK_GATE;

    fn serves(&self, arguments: &Arguments<'_>) -> bool {
        is_out(arguments.first())
    }
}

/// # Safety
///
/// As for `xfrm_replay_recheck()`: `x` is locked.
unsafe extern "C" fn recheck(x: *mut raw::xfrm_state, skb: *mut raw::sk_buff, seq: Be32) -> c_int {
    let _pass = RECHECK_GATE.pass();
    // SAFETY: The caller has locked `x`, in a bottom half.
    unsafe { handle(x, skb, |x| receive(x, skb, seq)) }
}

/// Takes the number of a packet to be sent from the successor.
pub struct Overflow;

static OVERFLOW_GATE: Gate = Gate::new();

// SAFETY: As for `Recheck`.
unsafe impl Target for Overflow {
    const NAME: &'static CStr = c"xfrm_replay_overflow";
    const MODULE: Option<&'static CStr> = None;
    type Function = unsafe extern "C" fn(*mut raw::xfrm_state, *mut raw::sk_buff) -> c_int;
    const REPLACEMENT: Self::Function = overflow;
    const GATE: &'static Gate = &OVERFLOW_GATE;

    fn serves(&self, arguments: &Arguments<'_>) -> bool {
        is_out(arguments.first())
    }
}

/// # Safety
///
/// As for `xfrm_replay_overflow()`: `x` is locked.
unsafe extern "C" fn overflow(x: *mut raw::xfrm_state, skb: *mut raw::sk_buff) -> c_int {
    let _pass = OVERFLOW_GATE.pass();
    // SAFETY: The caller has locked `x`, with bottom halves off.
    unsafe { handle(x, skb, |x| number(x, skb)) }
}

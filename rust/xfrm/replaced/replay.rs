// SPDX-License-Identifier: GPL-2.0

//! Sequence numbers: which may be received, and which is sent next.
//!
//! Mirrors `net/xfrm/xfrm_replay.c`, without its events. Numbers have 32 bits,
//! or 64 with ESN; here they always have 64, whose upper half is 0 then.
//! Nothing depends on the kernel.

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be received.
    Fresh,
    /// It has been received.
    Replayed,
    /// It is too old to know, or has a number that nobody sends.
    Outside,
}

/// The packets that an SA has received.
pub trait Window {
    /// Says whether the packet may be received.
    fn check(&self, number: u64) -> Verdict;

    /// Notes that it has been.
    fn advance(&mut self, number: u64);
}

/// The window of at most 32 packets that is part of an SA.
///
/// # Examples
///
/// ```ignore
/// let (mut top, mut bits) = (0, 0);
/// let mut window = Plain { size: 32, top: &mut top, bits: &mut bits };
///
/// window.advance(40);
/// assert_eq!(window.check(40), Verdict::Replayed);
/// assert_eq!(window.check(39), Verdict::Fresh);
/// assert_eq!(window.check(8), Verdict::Outside);
/// ```
pub struct Plain<'a> {
    /// Packets that the window is wide; 0 for no check at all.
    pub size: u32,
    /// Highest number received.
    pub top: &'a mut u32,
    /// Which were received; bit 0 stands for `top`.
    pub bits: &'a mut u32,
}

impl Window for Plain<'_> {
    fn check(&self, number: u64) -> Verdict {
        let number = number as u32;

        if self.size == 0 {
            return Verdict::Fresh;
        }
        match self.top.checked_sub(number) {
            _ if number == 0 => Verdict::Outside,
            None => Verdict::Fresh,
            Some(back) if back >= self.size => Verdict::Outside,
            Some(back) if *self.bits >> (back & 31) & 1 != 0 => Verdict::Replayed,
            Some(_) => Verdict::Fresh,
        }
    }

    fn advance(&mut self, number: u64) {
        let number = number as u32;

        if self.size == 0 {
            return;
        }
        match number.checked_sub(*self.top) {
            Some(ahead) if ahead > 0 => {
                *self.bits = if ahead < self.size {
                    *self.bits << (ahead & 31) | 1
                } else {
                    1
                };
                *self.top = number;
            }
            _ => *self.bits |= 1u32.checked_shl(*self.top - number).unwrap_or(0),
        }
    }
}

/// A window of any size: a ring of bits.
pub struct Ring<'a> {
    /// Packets that the window is wide; 0 for no check at all.
    pub size: u32,
    /// Highest number received, its lower half.
    pub top: &'a mut u32,
    /// Its upper half; stays 0 without ESN.
    pub top_hi: &'a mut u32,
    /// Which were received; bit `(top - 1) % size` stands for `top`.
    pub bits: &'a mut [u32],
}

impl Ring<'_> {
    fn top(&self) -> u64 {
        u64::from(*self.top_hi) << 32 | u64::from(*self.top)
    }

    /// Where `top` is in the ring.
    fn position(&self) -> u32 {
        // Before the first packet. The kernel's own arithmetic wraps here, and
        // so forgets that packet if the size doesn't divide 2^32.
        if self.top() == 0 {
            return self.size - 1;
        }
        self.top.wrapping_sub(1) % self.size
    }

    /// Where the packet that came `back` before `top` is.
    fn behind(&self, back: u64) -> u32 {
        let back = (back % u64::from(self.size)) as u32;
        (self.position() + self.size - back) % self.size
    }

    fn set(&mut self, bit: u32, value: bool) {
        if let Some(word) = self.bits.get_mut(bit as usize / 32) {
            let mask = 1 << (bit % 32);
            *word = if value { *word | mask } else { *word & !mask };
        }
    }
}

impl Window for Ring<'_> {
    fn check(&self, number: u64) -> Verdict {
        if self.size == 0 {
            return Verdict::Fresh;
        }
        match self.top().checked_sub(number) {
            _ if number == 0 => Verdict::Outside,
            None => Verdict::Fresh,
            Some(back) if back >= self.size.into() => Verdict::Outside,
            Some(back) => {
                let bit = self.behind(back);
                match self.bits.get(bit as usize / 32) {
                    Some(word) if word >> (bit % 32) & 1 == 0 => Verdict::Fresh,
                    _ => Verdict::Replayed,
                }
            }
        }
    }

    fn advance(&mut self, number: u64) {
        if self.size == 0 {
            return;
        }
        let top = self.top();
        if number <= top {
            self.set(self.behind(top - number), true);
            return;
        }
        let (ahead, position) = (number - top, self.position());
        if ahead < self.size.into() {
            for i in 1..ahead as u32 {
                self.set((position + i) % self.size, false);
            }
        } else {
            let words = self.size.div_ceil(32) as usize;
            self.bits.iter_mut().take(words).for_each(|word| *word = 0);
        }
        *self.top = number as u32;
        *self.top_hi = (number >> 32) as u32;
        self.set(self.position(), true);
    }
}

/// How far sequence numbers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// 32 bits; after the last one the SA is used up.
    Plain,
    /// 32 bits, over and over again.
    Wrapping,
    /// 64 bits.
    Extended,
}

impl Numbers {
    /// Takes the next `count` numbers after `last`: returns the first and the
    /// last of them, or `None` if there aren't as many.
    ///
    /// A `count` of 0 takes one.
    pub fn take(self, last: u64, count: u32) -> Option<(u64, u64)> {
        let end = last.checked_add(count.max(1).into())?;

        match self {
            Self::Plain if end > u32::MAX.into() => None,
            Self::Wrapping => Some(((last + 1) & 0xffff_ffff, end & 0xffff_ffff)),
            Self::Plain | Self::Extended => Some((last + 1, end)),
        }
    }
}

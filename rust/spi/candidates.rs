// SPDX-License-Identifier: GPL-2.0

//! In which order the SPIs of a range are tried.
//!
//! It is a walk around the range in steps of a fixed width that shares no
//! factor with the length of any range, so each SPI comes once. Where it starts
//! is random and each start as likely; so is the choice, then, while few are
//! taken. Nothing in this file depends on the kernel.

use core::ops::RangeInclusive;

/// A prime beyond 2^32, about 1.618 times that: successive SPIs lie far apart.
const STEP: u64 = 0x1_9e37_79d5;

/// All SPIs of a range but 0, in host byte order, each once.
pub struct Candidates {
    low: u32,
    count: u64,
    /// The next one, counted from `low`.
    next: u64,
    left: u64,
}

impl Candidates {
    /// Starts at one that `random`, any of 64 bits, chooses. 0 is no SPI and is
    /// left out; a range in the wrong order has none.
    pub fn new(range: RangeInclusive<u32>, random: u64) -> Self {
        let low = (*range.start()).max(1);
        let count = (u64::from(*range.end()) + 1).saturating_sub(low.into());

        Self {
            low,
            count,
            next: ((u128::from(random) * u128::from(count)) >> 64) as u64,
            left: count,
        }
    }
}

impl Iterator for Candidates {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.left = self.left.checked_sub(1)?;
        let spi = self.low + self.next as u32;
        // There is one, so the range isn't empty.
        self.next = (self.next + STEP).checked_rem(self.count)?;
        Some(spi)
    }
}

// SPDX-License-Identifier: GPL-2.0

//! A window accepts a packet once, unless it is too old to know: it is compared
//! with the set of all that was received.

use crate::xfrm::replaced::replay::{Plain, Ring, Verdict, Window};
use arbitrary::{Result, Unstructured};
use std::collections::BTreeSet;

struct Model {
    size: u64,
    top: u64,
    seen: BTreeSet<u64>,
}

impl Model {
    /// A window whose owner says of each number whether it was received.
    fn new(size: u32, top: u64, was_seen: impl Fn(u64) -> bool) -> Self {
        let size = size.into();
        let within = (0..top.min(size)).map(|back| top - back);
        let seen = within.filter(|&number| was_seen(number)).collect();
        Self { size, top, seen }
    }

    fn check(&self, number: u64) -> Verdict {
        if self.size == 0 {
            Verdict::Fresh
        } else if number == 0 || self.top >= number && self.top - number >= self.size {
            Verdict::Outside
        } else if self.seen.contains(&number) {
            Verdict::Replayed
        } else {
            Verdict::Fresh
        }
    }

    fn advance(&mut self, number: u64) {
        if self.size != 0 {
            self.top = self.top.max(number);
            self.seen.insert(number);
        }
    }

    /// Sends packets with the numbers that `u` chooses to both.
    fn compare(
        mut self,
        mut window: impl Window,
        largest: u64,
        u: &mut Unstructured<'_>,
    ) -> Result<u64> {
        while !u.is_empty() {
            let distance = u.arbitrary::<u8>()?.into();
            let number = match u.int_in_range(0..=3)? {
                0 => self.top.saturating_sub(distance),
                1 => self.top.saturating_add(distance).min(largest),
                2 => largest - distance,
                _ => u.int_in_range(0..=largest)?,
            };
            let verdict = window.check(number);
            let size = self.size;
            let expected = self.check(number);
            assert_eq!(verdict, expected, "{number} after {} of {size}", self.top);
            if verdict == Verdict::Fresh {
                window.advance(number);
                self.advance(number);
            }
        }
        Ok(self.top)
    }
}

pub fn holds(u: &mut Unstructured<'_>) -> Result<()> {
    let mut bits = [0; 7];
    for word in &mut bits {
        *word = *u.choose(&[0, 1, 0x8000_0000, 0x5555_5555, u32::MAX])?;
    }
    let (mut top, mut top_hi): (u32, u32) = (u.arbitrary()?, 0);
    let kind = u.int_in_range(0..=2)?;

    if kind == 0 {
        let size = u.int_in_range(0..=32)?;
        let model = Model::new(size, top.into(), |number| {
            bits[0] >> (u64::from(top) - number) & 1 != 0
        });
        let window = Plain {
            size,
            top: &mut top,
            bits: &mut bits[0],
        };
        let expected = model.compare(window, u32::MAX.into(), u)?;
        assert_eq!(u64::from(top), expected);
        return Ok(());
    }

    let (size, largest) = if kind == 1 {
        (u.int_in_range(0..=32 * bits.len() as u32)?, u32::MAX.into())
    } else {
        top_hi = u.arbitrary()?;
        // Where the lower half wraps, the ring goes on only if its size divides
        // 2^32: so has the kernel's.
        (1 << u.int_in_range(0..=7)?, u64::MAX)
    };
    let first_top = u64::from(top_hi) << 32 | u64::from(top);
    let model = Model::new(size, first_top, |number| {
        let bit = ((number - 1) % u64::from(size)) as usize;
        bits[bit / 32] >> (bit % 32) & 1 != 0
    });
    let window = Ring {
        size,
        top: &mut top,
        top_hi: &mut top_hi,
        bits: &mut bits,
    };
    let expected = model.compare(window, largest, u)?;
    assert_eq!(u64::from(top_hi) << 32 | u64::from(top), expected);
    Ok(())
}

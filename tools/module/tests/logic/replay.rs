// SPDX-License-Identifier: GPL-2.0

//! Windows against a set of what has been received, and numbers that go out.

use module::xfrm::replay::{Numbers, Plain, Ring, Verdict, Window};
use proptest::prelude::*;
use std::collections::HashSet;

/// What a window of `size` packets has to say, from all that came before.
struct Model {
    size: u64,
    top: u64,
    seen: HashSet<u64>,
}

impl Model {
    fn check(&self, number: u64) -> Verdict {
        if self.size == 0 {
            Verdict::Fresh
        } else if number == 0 || number + self.size <= self.top {
            Verdict::Outside
        } else if self.seen.contains(&number) {
            Verdict::Replayed
        } else {
            Verdict::Fresh
        }
    }

    fn advance(&mut self, number: u64) {
        self.top = self.top.max(number);
        self.seen.insert(number);
    }
}

fn compare(window: &mut impl Window, mut model: Model, numbers: &[u64]) {
    for &number in numbers {
        let verdict = window.check(number);
        assert_eq!(verdict, model.check(number), "{number} after {}", model.top);
        if verdict == Verdict::Fresh {
            window.advance(number);
            model.advance(number);
            if model.size != 0 {
                assert_eq!(window.check(number), Verdict::Replayed);
            }
        }
    }
}

/// Numbers around a top that moves on, by little and by much.
fn numbers(limit: u64) -> impl Strategy<Value = Vec<u64>> {
    let steps = prop::collection::vec((0u64..70, 0u64..3, any::<bool>()), 1..400);
    (0u64..limit, steps).prop_map(move |(start, steps)| {
        let mut top = start;
        let mut numbers = vec![start];
        for (step, scale, back) in steps {
            let distance = step * [1, 7, 1000][scale as usize];
            numbers.push(if back {
                top.saturating_sub(distance)
            } else {
                top = (top + distance).min(limit);
                top
            });
        }
        numbers
    })
}

fn model(size: u32) -> Model {
    Model {
        size: size.into(),
        top: 0,
        seen: HashSet::new(),
    }
}

proptest! {
    #[test]
    fn a_plain_window_is_right(size in 0u32..=32, numbers in numbers(u32::MAX.into())) {
        let (mut top, mut bits) = (0, 0);
        let mut window = Plain { size, top: &mut top, bits: &mut bits };
        compare(&mut window, model(size), &numbers);
    }

    #[test]
    fn a_ring_is_right(size in 0u32..=200, numbers in numbers(u32::MAX.into())) {
        let (mut top, mut top_hi, mut bits) = (0, 0, [0; 7]);
        let mut window = Ring { size, top: &mut top, top_hi: &mut top_hi, bits: &mut bits };
        compare(&mut window, model(size), &numbers);
    }

    /// Where the lower half wraps, the ring goes on only if its size divides
    /// 2^32: so has the kernel's.
    #[test]
    fn an_extended_ring_is_right(
        size in prop::sample::select(vec![32u32, 64, 128]),
        numbers in numbers(1 << 33),
    ) {
        let (mut top, mut top_hi, mut bits) = (0, 0, [0; 4]);
        let mut window = Ring { size, top: &mut top, top_hi: &mut top_hi, bits: &mut bits };
        compare(&mut window, model(size), &numbers);
    }

    #[test]
    fn no_number_goes_out_twice(counts in prop::collection::vec(1u32..50, 1..200), start: u32) {
        for numbers in [Numbers::Plain, Numbers::Extended] {
            let mut last = u64::from(start);
            for &count in &counts {
                let Some((first, end)) = numbers.take(last, count) else { break };
                prop_assert_eq!(first, last + 1);
                prop_assert_eq!(end - last, u64::from(count));
                last = end;
            }
        }
    }
}

#[test]
fn numbers_end() {
    let max = u64::from(u32::MAX);
    assert_eq!(Numbers::Plain.take(max - 1, 1), Some((max, max)));
    assert_eq!(Numbers::Plain.take(max - 1, 2), None);
    assert_eq!(Numbers::Plain.take(max, 1), None);
    assert_eq!(Numbers::Wrapping.take(max, 1), Some((0, 0)));
    assert_eq!(Numbers::Wrapping.take(max - 1, 3), Some((max, 1)));
    assert_eq!(Numbers::Extended.take(max, 2), Some((max + 1, max + 2)));
    assert_eq!(Numbers::Extended.take(u64::MAX, 1), None);
    assert_eq!(Numbers::Extended.take(u64::MAX - 1, 2), None);
    assert_eq!(Numbers::Extended.take(u64::MAX, 0), None);
}

#[test]
fn a_closed_window_takes_nothing() {
    // As in_flight's end leaves it behind.
    for size in 1..=32 {
        let (mut top, mut bits) = (u32::MAX, u32::MAX);
        let window = Plain {
            size,
            top: &mut top,
            bits: &mut bits,
        };
        for number in [0, 1, 77, u64::from(u32::MAX - 1), u64::from(u32::MAX)] {
            assert_ne!(window.check(number), Verdict::Fresh, "{number} of {size}");
        }
    }
    for size in [1, 31, 32, 100, 4096] {
        let (mut top, mut top_hi, mut bits) = (u32::MAX, 0, [u32::MAX; 128]);
        let window = Ring {
            size,
            top: &mut top,
            top_hi: &mut top_hi,
            bits: &mut bits,
        };
        for number in [0, 1, 77, u64::from(u32::MAX - 1), u64::from(u32::MAX)] {
            assert_ne!(window.check(number), Verdict::Fresh, "{number} of {size}");
        }
    }
}

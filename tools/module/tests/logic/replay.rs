// SPDX-License-Identifier: GPL-2.0

//! Where numbers end, and windows that take nothing.

use module::xfrm::replaced::replay::{Numbers, Plain, Ring, Verdict, Window};

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

// SPDX-License-Identifier: GPL-2.0

//! Numbers go out one after the other, until they end.

use crate::xfrm::replaced::replay::Numbers;
use arbitrary::{Result, Unstructured};

pub fn holds(u: &mut Unstructured<'_>) -> Result<()> {
    let (numbers, largest) = *u.choose(&[
        (Numbers::Plain, u64::from(u32::MAX)),
        (Numbers::Wrapping, u64::from(u32::MAX)),
        (Numbers::Extended, u64::MAX),
    ])?;
    let mut last = if u.arbitrary()? {
        u.int_in_range(0..=largest)?
    } else {
        largest - u64::from(u.arbitrary::<u8>()?)
    };
    while !u.is_empty() {
        let count = u.arbitrary::<u32>()?;
        // A packet that says it has no segments needs a number as well.
        let end = u128::from(last) + u128::from(count.max(1));
        let around = u128::from(largest) + 1;
        let expected = (end < around || numbers == Numbers::Wrapping).then(|| {
            let first = (u128::from(last) + 1) % around;
            (first as u64, (end % around) as u64)
        });
        assert_eq!(
            numbers.take(last, count),
            expected,
            "{numbers:?}: {count} after {last}"
        );
        last = expected.map_or(last, |(_, end)| end);
    }
    Ok(())
}

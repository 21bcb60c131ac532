// SPDX-License-Identifier: GPL-2.0

//! What has to hold for any input: that the code and a naive model of it, made
//! from the contract and not from the code, say the same.
//!
//! Bytes choose the input, so that a fuzzer can look for those that matter;
//! `corpus/` keeps what it found, and the tests go through that.

use arbitrary::{Result, Unstructured};

pub mod btf;
mod numbers;
pub mod plan;
mod spi;
mod window;

/// Panics if it doesn't hold for the input that these bytes choose.
pub type Property = fn(&[u8]);

/// All of them, by the names of their folders in the corpus.
pub const ALL: [(&str, Property); 5] = [
    ("btf", |bytes| check(btf::holds, bytes)),
    ("numbers", |bytes| check(numbers::holds, bytes)),
    ("plan", |bytes| check(plan::holds, bytes)),
    ("spi", |bytes| check(spi::holds, bytes)),
    ("window", |bytes| check(window::holds, bytes)),
];

fn check(holds: fn(&mut Unstructured<'_>) -> Result<()>, bytes: &[u8]) {
    // The only error is that there are too few bytes: they choose nothing.
    let _ = holds(&mut Unstructured::new(bytes));
}

// SPDX-License-Identifier: GPL-2.0

//! Looks for bytes with which the property named by `PROPERTY` doesn't hold.

#![no_main]

use module::properties::{Property, ALL};
use std::sync::LazyLock;

static PROPERTY: LazyLock<Property> = LazyLock::new(|| {
    let name = std::env::var("PROPERTY").expect("PROPERTY is to be the name of one");
    let named = ALL.iter().find(|(n, _)| *n == name);
    named.expect("PROPERTY names none that there is").1
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| PROPERTY(bytes));

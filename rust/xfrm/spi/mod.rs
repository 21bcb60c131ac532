// SPDX-License-Identifier: GPL-2.0

//! SPIs: requests for them, SAs that wait for one, and hearing of those that have one.

pub mod arrivals;
pub mod entry;
pub mod larval;

pub use arrivals::{Arrivals, Next};

// SPDX-License-Identifier: GPL-2.0

//! SAs on devices: being the driver of an upper device, and what those of the lower ones do.

pub mod lower;
pub mod upper;
pub mod upper_calls;

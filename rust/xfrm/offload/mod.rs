// SPDX-License-Identifier: GPL-2.0

//! SAs on devices: being the driver of an upper device, and what those of the lower ones do.
//!
//! | file | what | imports |
//! |---|---|---|
//! | [`takeover`] | a device is taken over from its driver, and given back | all below |
//! | [`upper_calls`] | the operations, as the kernel calls them | all below |
//! | [`upper`] | the device that was taken over, and its SAs | all below |
//! | [`replica`] | one SA on several devices | [`lower`] |
//! | [`lower`] | what the driver of a lower device does | |

pub mod lower;
pub mod replica;
pub mod takeover;
pub mod upper;
pub mod upper_calls;

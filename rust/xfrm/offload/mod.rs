// SPDX-License-Identifier: GPL-2.0

//! SAs on devices: being the driver of an upper device, and what those of the lower ones do.
//!
//! | file | what | imports |
//! |---|---|---|
//! | [`upper_calls`] | the operations, as the kernel calls them | all below |
//! | [`uppers`] | devices are taken over from their driver, found, and given back | all below |
//! | [`upper`] | a device that was taken over, and its SAs | all below |
//! | [`replica`] | one SA on several devices | [`lower`] |
//! | [`lower`] | what the driver of a lower device does | |

pub mod lower;
pub mod replica;
pub mod upper;
pub mod upper_calls;
pub mod uppers;

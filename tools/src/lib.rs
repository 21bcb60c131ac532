// SPDX-License-Identifier: GPL-2.0
//! Userspace side of `xfrm_next.ko`: requests and notifications of `XFRM_MSG_MIGRATE_STATE`.
//!
//! From the wire up: [`layout`] has the structures, [`migrate_state`] is the message, [`message`] what a NETLINK_XFRM datagram may
//! hold, [`socket`] and [`extack`] the conversation with the kernel, [`event`] a notification as a
//! person or a script reads it, [`probe`] the question what is served. [`command`] maps words to these;
//! a new subcommand is one file there and one line in its table.
#![forbid(unsafe_code)]

pub mod address;
pub mod allocspi;
pub mod args;
pub mod attribute;
pub mod cli;
pub mod command;
pub mod encap;
pub mod error;
pub mod event;
pub mod extack;
pub mod lag;
pub mod layout;
pub mod link;
pub mod mark;
pub mod message;
pub mod migrate_state;
pub mod module;
pub mod moved;
pub mod number;
pub mod offload;
pub mod output;
pub mod probe;
pub mod proto;
pub mod request;
pub mod sa;
pub mod selector;
pub mod socket;
pub mod spis;
pub mod stats;

// SPDX-License-Identifier: GPL-2.0

//! IPsec's security associations: finding, cloning and replacing them,
//! messages about them; devices that have them.
//!
//! | folder | what | imports |
//! |---|---|---|
//! | [`migrate`] | serving requests to migrate; a new SA in the place of an old one | all below |
//! | [`replaced`] | SAs that have been replaced, and packets in flight on them | [`state`] |
//! | [`spi`] | serving requests for SPIs; SAs without keys; hearing of each SA | [`state`] |
//! | `offload` | a NIC's driver; being that of a bond | [`state`] |
//! | [`state`] | the SA, its locks, the tables it is in, lookup | [`uapi`] |
//! | [`uapi`], [`messages`] | messages of user space | |
//! | [`stats`] | what is counted | |
//!
//! Locks, outermost first: `xfrm_cfg_mutex` of the namespace (held by netlink
//! and PF_KEY around each request) -> [`State::lock`] -> `xfrm_state_lock` of
//! the namespace ([`Table`]; also taken inside the functions of this module).
//!
//! C header: `include/net/xfrm.h`

pub mod messages;
pub mod migrate;
#[cfg(XFRM_NEXT_LAG)]
pub mod offload;
pub mod replaced;
pub mod spi;
pub mod state;
pub mod stats;
pub mod uapi;

pub use state::{State, Table};

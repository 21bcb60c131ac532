// SPDX-License-Identifier: GPL-2.0

//! IPsec's security associations: finding, cloning and replacing them,
//! messages about them; devices that have them.
//!
//! | to | files |
//! |---|---|
//! | serve requests, send messages | [`migrate_state`], [`spi`]; [`messages`], [`uapi`]; `layout` checks the last |
//! | read and lock an SA | [`state`], [`snapshot`] |
//! | find SAs | [`lookup`], `tables`, [`hashes`]; [`arrivals`]: hear of each; [`larval`]: those without keys |
//! | put a new SA into the place of an old one | [`new_state`], `tables` |
//! | let packets in flight finish on the old one | [`retired`], `in_flight`, `replay` |
//! | offload | `lower`: a NIC's driver; `upper`, `upper_calls`: being that of a bond |
//!
//! Locks, outermost first: `xfrm_cfg_mutex` of the namespace (held by netlink
//! and PF_KEY around each request) -> [`State::lock`] -> `xfrm_state_lock` of
//! the namespace ([`Table`]; also taken inside the functions of this module).
//!
//! C header: `include/net/xfrm.h`

pub mod arrivals;
pub mod hashes;
mod in_flight;
pub mod larval;
mod layout;
pub mod lookup;
#[cfg(XFRM_NEXT_LAG)]
pub mod lower;
pub mod messages;
pub mod migrate_state;
pub mod new_state;
mod replay;
pub mod retired;
pub mod snapshot;
pub mod spi;
pub mod state;
mod tables;
pub mod uapi;
#[cfg(XFRM_NEXT_LAG)]
pub mod upper;
#[cfg(XFRM_NEXT_LAG)]
pub mod upper_calls;

pub use arrivals::Arrivals;
pub use new_state::NewState;
pub use state::State;
pub use tables::Table;

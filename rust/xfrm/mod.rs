// SPDX-License-Identifier: GPL-2.0

//! IPsec's security associations: finding, cloning and replacing them,
//! messages about them.
//!
//! Locks, outermost first: `xfrm_cfg_mutex` of the namespace (held by netlink
//! and PF_KEY around each request) -> [`State::lock`] -> `xfrm_state_lock` of
//! the namespace (taken inside the functions of this module).
//!
//! C header: `include/net/xfrm.h`

pub mod arrivals;
mod in_flight;
pub mod larval;
mod layout;
pub mod lookup;
pub mod messages;
pub mod new_state;
mod replay;
pub mod retired;
pub mod snapshot;
pub mod spi;
pub mod state;
mod tables;
pub mod uapi;

pub use arrivals::Arrivals;
pub use new_state::NewState;
pub use state::State;

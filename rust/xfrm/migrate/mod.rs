// SPDX-License-Identifier: GPL-2.0

//! Putting a new SA into the place of an old one, as `XFRM_MSG_MIGRATE_STATE` asks.

mod cipher;
mod clone;
pub mod entry;
mod found;
pub mod new_state;
pub mod snapshot;

pub use found::Found;
pub use new_state::NewState;

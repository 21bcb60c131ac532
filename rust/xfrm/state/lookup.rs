// SPDX-License-Identifier: GPL-2.0

//! Finding an SA by destination, SPI and protocol.
//!
//! C source: `net/xfrm/xfrm_state.c`

use super::{State, Table};
use crate::{net::Namespace, raw, xfrm::uapi::Id};
use kernel::sync::aref::ARef;

/// Returns the first SA with this id that takes packets with `mark` and is
/// `wanted`, in the order in which the kernel looks through them: the newest
/// first.
///
/// Doesn't sleep; takes `xfrm_state_lock` if the first isn't wanted. `wanted` must
/// not sleep, nor drop the last reference to an SA. Mirrors `xfrm_state_lookup()`,
/// which takes just the first.
///
/// # Examples
///
/// The SA whose mark is `mark`, not one which takes any:
///
/// ```ignore
/// fn find_exact(net: &Namespace, id: &Id, mark: Mark) -> Result<ARef<State>> {
///     let exact = |state: &State| state.mark() == mark;
///     lookup::find(net, id, mark.v, exact).ok_or(ESRCH)
/// }
/// ```
pub fn find(
    net: &Namespace,
    id: &Id,
    mark: u32,
    wanted: impl Fn(&State) -> bool,
) -> Option<ARef<State>> {
    let first = first(net, id, mark)?;
    if wanted(&first) {
        return Some(first);
    }

    let table = Table::lock(net);
    let found = table
        .with_id(id)
        .find(|state| state.takes(mark) && wanted(state))
        .map(ARef::from);
    found
}

fn first(net: &Namespace, id: &Id, mark: u32) -> Option<ARef<State>> {
    // SAFETY: The namespace is valid; the address is only read, and has the
    // layout of `xfrm_address_t` (`layout.rs`). What is returned is null or comes
    // with a reference.
    unsafe {
        State::owned(raw::xfrm_state_lookup(
            net.as_ptr(),
            mark,
            (&raw const id.daddr).cast(),
            u32::from_ne_bytes(id.spi),
            id.proto,
            id.family,
        ))
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The lock around requests that change SAs.
//!
//! C header: `include/net/netns/xfrm.h`

use crate::net::Namespace;
use kernel::types::NotThreadSafe;

/// Evidence that `xfrm_cfg_mutex` of a namespace is held by this task, as netlink and
/// PF_KEY hold it around each request: what requests write in its SAs stands still.
///
/// # Invariants
///
/// It is held while this is borrowed.
pub struct Config<'net> {
    net: &'net Namespace,
    _not_send: NotThreadSafe,
}

impl<'net> Config<'net> {
    /// Takes note of what the caller holds.
    ///
    /// # Safety
    ///
    /// `xfrm_cfg_mutex` of `net` must be held by this task as long as what is returned is
    /// there.
    pub(in crate::xfrm) unsafe fn assume(net: &'net Namespace) -> Self {
        // INVARIANT: As the caller promises.
        Self {
            net,
            _not_send: NotThreadSafe,
        }
    }

    /// Returns the namespace whose lock it is. Any context.
    pub fn net(&self) -> &'net Namespace {
        self.net
    }
}

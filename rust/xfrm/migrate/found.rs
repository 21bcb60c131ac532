// SPDX-License-Identifier: GPL-2.0

//! An SA as a request has found it.

use super::snapshot::Snapshot;
use crate::{
    net::Namespace,
    raw,
    xfrm::{
        state::{config::Config, lookup},
        uapi::{Id, Mark},
        State,
    },
};
use core::ops::Deref;
use kernel::sync::aref::ARef;

/// An SA of the namespace whose requests are kept out: what they set in it stands still.
///
/// # Invariants
///
/// It is one of that namespace.
///
/// # Examples
///
/// ```ignore
/// fn mode_of_offload(config: &Config<'_>, id: &Id) -> Result<Option<Offload>> {
///     let sa = Found::with_mark(config, id, Mark::default()).ok_or(ESRCH)?;
///     Ok(sa.snapshot().offload)
/// }
/// ```
pub struct Found<'a> {
    state: ARef<State>,
    config: &'a Config<'a>,
}

impl<'a> Found<'a> {
    /// Returns the newest SA with this id and just this mark, if there is one. Doesn't sleep;
    /// may take `xfrm_state_lock`.
    pub fn with_mark(config: &'a Config<'a>, id: &Id, mark: Mark) -> Option<Self> {
        let exact = |state: &State| state.mark() == mark;
        // INVARIANT: It is looked for there.
        lookup::find(config.net(), id, mark.v, exact).map(|state| Self { state, config })
    }

    /// Returns the namespace that it is in. Any context.
    pub fn net(&self) -> &'a Namespace {
        self.config.net()
    }

    /// Copies what requests set.
    pub fn snapshot(&self) -> Snapshot {
        let x = self.as_ptr();

        // SAFETY: The SA is valid. Requests alone write these fields, and are kept out.
        unsafe {
            Snapshot {
                daddr: (*x).id.daddr.into(),
                saddr: (*x).props.saddr.into(),
                family: (*x).props.family,
                proto: (*x).id.proto,
                flags: (*x).props.flags,
                dir: (*x).dir,
                selector: self.selector(),
                mark: self.mark(),
                output_mark: (*x).props.smark.into(),
                encap: self.encap(),
                mapping_maxage: (*x).mapping_maxage,
                nat_keepalive: (*x).nat_keepalive_interval,
                offload: self.offload(),
                larval: self.phase() == raw::XFRM_STATE_ACQ,
                kernel_owned: raw::xfrm_next_state_kern(x) != 0,
            }
        }
    }
}

impl Deref for Found<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Serving `XFRM_MSG_MIGRATE_STATE` in the kernel's place.
//!
//! C source: `net/xfrm/xfrm_user.c`

use crate::{
    net::{netlink::Request, Namespace},
    raw,
    redirect::{Arguments, Gate, Target},
    xfrm::{
        messages::{Doit, ATTRIBUTES},
        state::config::Config,
    },
};
use kernel::{error::from_result, ffi::c_int, prelude::*};

/// Serves `XFRM_MSG_MIGRATE_STATE` in the kernel's place, for
/// [`MigrateStateTarget`].
///
/// Capabilities, the length of the fixed part, the attributes' lengths and
/// which of them are allowed have been checked, and messages of 32-bit senders
/// translated, before either is called: by `xfrm_user_rcv_msg()`.
///
/// # Examples
///
/// ```ignore
/// struct Nowhere;
///
/// impl MigrateState for Nowhere {
///     fn serves(&self, _net: &Namespace) -> bool {
///         true
///     }
///
///     fn serve(&self, mut request: Request<'_>, _config: &Config<'_>) -> Result {
///         request.extack.set(format_args!("SAs stay where they are"));
///         Err(EPERM)
///     }
/// }
///
/// let redirect = Redirect::new(MigrateStateTarget(Nowhere), redirector);
/// ```
pub trait MigrateState: Send + Sync + 'static {
    /// Whether to serve the requests of this namespace. Must not sleep;
    /// `xfrm_cfg_mutex` is held.
    fn serves(&self, net: &Namespace) -> bool;

    /// Serves one. May sleep. An error is the answer.
    fn serve(&self, request: Request<'_>, config: &Config<'_>) -> Result;
}

/// Redirects `xfrm_do_migrate_state()` of `net/xfrm/xfrm_user.c` to `H`.
pub struct MigrateStateTarget<H>(pub H);

static MIGRATE_STATE_GATE: Gate = Gate::new();

// SAFETY: The replacement has the function's own type, and takes and keeps the
// pass of the gate.
unsafe impl<H: MigrateState> Target for MigrateStateTarget<H> {
    const NAME: &'static CStr = c"xfrm_do_migrate_state";
    const MODULE: Option<&'static CStr> = Some(c"xfrm_user");
    type Function = Doit;
    const REPLACEMENT: Doit = migrate_state::<H>;

    fn gate() -> &'static Gate {
        &MIGRATE_STATE_GATE
    }

    fn serves(&self, arguments: &Arguments<'_>) -> bool {
        // SAFETY: The first argument of a `Doit` is the skb of a request,
        // whose sender keeps the namespace until it has been served.
        let net = unsafe { Namespace::from_raw(raw::xfrm_next_skb_sock_net(arguments.first())) };
        self.0.serves(net)
    }
}

/// # Safety
///
/// The arguments are what xfrm_user_rcv_msg() passes to a [`Doit`].
unsafe extern "C" fn migrate_state<H: MigrateState>(
    skb: *mut raw::sk_buff,
    nlh: *mut raw::nlmsghdr,
    attrs: *mut *mut raw::nlattr,
    extack: *mut raw::netlink_ext_ack,
) -> c_int {
    // SAFETY: Redirected here, the call is one of the target's.
    let pass = unsafe { MigrateStateTarget::<H>::pass() };

    // SAFETY: xfrm_user_rcv_msg() calls a `Doit` with what the netlink core has
    // given it, or a translation of that, and with what it has parsed of it: a
    // table of `XFRMA_MAX` + 1 attributes. All stays until we return.
    let request = unsafe { Request::from_raw(skb, nlh, attrs, ATTRIBUTES, extack) };
    // SAFETY: xfrm_netlink_rcv() holds it around each request.
    let config = unsafe { Config::assume(request.net) };
    from_result(|| pass.target().0.serve(request, &config).map(|()| 0))
}

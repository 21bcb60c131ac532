// SPDX-License-Identifier: GPL-2.0

//! Serving requests for SPIs in the kernel's place.
//!
//! There are two ways to ask, `XFRM_MSG_ALLOCSPI` and PF_KEY's `SADB_GETSPI`.
//! Both end in `xfrm_alloc_spi()`, but that isn't told the direction that a
//! netlink request names; so the function before it is served as well.
//!
//! C source: `net/xfrm/xfrm_state.c`, `net/xfrm/xfrm_user.c`

use crate::{
    net::{netlink::Request, ExtAck, Namespace},
    raw,
    redirect::{Arguments, Gate, Target, U32},
    xfrm::{
        messages::{Doit, ATTRIBUTES},
        state::config::Config,
        State,
    },
};
use core::ops::RangeInclusive;
use kernel::{
    error::{from_result, to_result},
    ffi::c_int,
    prelude::*,
};

/// Gives out SPIs in the kernel's place, for [`UserSpiTarget`] and [`SpiTarget`]. All
/// of it may sleep; the namespace is that of `config`. An error is the answer.
pub trait AllocSpi: Send + Sync + 'static {
    /// Serves `XFRM_MSG_ALLOCSPI`.
    ///
    /// Capabilities, the length of the fixed part, the attributes' lengths and
    /// which of them are allowed have been checked, and messages of 32-bit
    /// senders translated.
    fn serve(&self, config: &Config<'_>, request: Request<'_>) -> Result;

    /// Gives an SPI of the range, which is in host byte order, to a larval SA;
    /// if it has one, that is it. There is no extended ack for PF_KEY.
    fn allocate(
        &self,
        config: &Config<'_>,
        state: &State,
        range: RangeInclusive<u32>,
        extack: ExtAck<'_>,
    ) -> Result;
}

/// Fails with `EINVAL` and says why, if an SA of this protocol can't have an
/// SPI of this range, which is in host byte order. Any context. Mirrors
/// `verify_spi_info()`.
pub fn verify(proto: u8, range: &RangeInclusive<u32>, extack: &mut ExtAck<'_>) -> Result {
    // SAFETY: The extended ack is null or valid.
    to_result(unsafe { raw::verify_spi_info(proto, *range.start(), *range.end(), extack.as_ptr()) })
}

/// Returns bits that nobody can foretell. Any context.
pub fn random() -> u64 {
    // SAFETY: It may be called anywhere.
    unsafe { raw::get_random_u64() }
}

/// Redirects `xfrm_alloc_userspi()`, netlink's, to `H`.
pub struct UserSpiTarget<H>(pub H);

static USER_SPI_GATE: Gate = Gate::new();

// SAFETY: The replacement has the function's own type, and takes its pass
// first and keeps it.
unsafe impl<H: AllocSpi> Target for UserSpiTarget<H> {
    const NAME: &'static CStr = c"xfrm_alloc_userspi";
    const MODULE: Option<&'static CStr> = Some(c"xfrm_user");
    type Function = Doit;
    const REPLACEMENT: Doit = user_spi::<H>;

    fn gate() -> &'static Gate {
        &USER_SPI_GATE
    }

    fn serves(&self, _arguments: &Arguments<'_>) -> bool {
        true
    }
}

/// # Safety
///
/// The arguments are what xfrm_user_rcv_msg() passes to a [`Doit`].
unsafe extern "C" fn user_spi<H: AllocSpi>(
    skb: *mut raw::sk_buff,
    nlh: *mut raw::nlmsghdr,
    attrs: *mut *mut raw::nlattr,
    extack: *mut raw::netlink_ext_ack,
) -> c_int {
    // SAFETY: The call has been redirected here. xfrm_user_rcv_msg() calls a
    // `Doit` with what it has parsed.
    let (pass, request) = unsafe {
        (
            UserSpiTarget::<H>::pass(),
            Request::from_raw(skb, nlh, attrs, ATTRIBUTES, extack),
        )
    };
    // SAFETY: xfrm_netlink_rcv() holds it meanwhile.
    let config = unsafe { Config::assume(request.net) };
    from_result(|| pass.target().0.serve(&config, request).map(|()| 0))
}

/// Redirects `xfrm_alloc_spi()`, which all but netlink call, to `H`.
pub struct SpiTarget<H>(pub H);

static SPI_GATE: Gate = Gate::new();

// SAFETY: As for `UserSpiTarget`.
unsafe impl<H: AllocSpi> Target for SpiTarget<H> {
    const NAME: &'static CStr = c"xfrm_alloc_spi";
    const MODULE: Option<&'static CStr> = None;
    type Function =
        unsafe extern "C" fn(*mut raw::xfrm_state, U32, U32, *mut raw::netlink_ext_ack) -> c_int;
    const REPLACEMENT: Self::Function = spi::<H>;

    fn gate() -> &'static Gate {
        &SPI_GATE
    }

    fn serves(&self, _arguments: &Arguments<'_>) -> bool {
        true
    }
}

/// # Safety
///
/// As for `xfrm_alloc_spi()`: the caller has a reference to the SA, and serves a
/// request.
unsafe extern "C" fn spi<H: AllocSpi>(
    x: *mut raw::xfrm_state,
    low: U32,
    high: U32,
    extack: *mut raw::netlink_ext_ack,
) -> c_int {
    // SAFETY: The call has been redirected here. The SA is valid by the caller's
    // reference, and the extended ack is null or the caller's. Who has sent the request
    // keeps the namespace; pfkey_sendmsg(), like xfrm_netlink_rcv(), holds its
    // xfrm_cfg_mutex.
    let (pass, config, state, extack) = unsafe {
        (
            SpiTarget::<H>::pass(),
            Config::assume(Namespace::from_raw(raw::xfrm_next_state_net(x))),
            State::from_raw(x),
            ExtAck::from_raw(extack),
        )
    };
    from_result(|| {
        let target = &pass.target().0;
        target.allocate(&config, state, low.0..=high.0, extack)?;
        Ok(0)
    })
}

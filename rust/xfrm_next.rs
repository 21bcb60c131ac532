// SPDX-License-Identifier: GPL-2.0

//! What Linux's IPsec developers are still arguing about, working today.
//!
//! Features are in [`migrate_state`], [`spi`] and `lag_offload`; they use the safe abstractions of
//! [`net`], [`xfrm`] and [`redirect`], which alone use [`raw`] and unsafe code. docs/design.md
//! shows on one page how a request passes through them.

// What is `pub` in a folder is what the others may use of it.
#![expect(unreachable_pub)]

use kernel::{prelude::*, sync::Arc};
use net::TextBarrier;
use redirect::Redirector;
use xfrm::replaced::Replaced;

#[cfg(XFRM_NEXT_LAG)]
mod lag_offload;
mod migrate_state;
mod net;
mod raw;
mod redirect;
mod spi;
mod xfrm;

module! {
    type: XfrmNext,
    name: "xfrm_next",
    authors: ["The xfrm-next developers"],
    description: "XFRM_MSG_MIGRATE_STATE and more for IPsec, in Rust",
    license: "GPL",
}

/// The module while it is loaded.
#[pin_data]
struct XfrmNext {
    #[pin]
    migrate_state: migrate_state::Service,
    #[pin]
    spi: spi::Service,
    #[cfg(XFRM_NEXT_LAG)]
    #[pin]
    lag_offload: lag_offload::Service,
}

impl kernel::InPlaceModule for XfrmNext {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let text = Arc::new(TextBarrier, GFP_KERNEL)?;
            let redirector = Redirector::new(text.clone())?;
            xfrm::state::hashes::check()?;
            let replaced = Arc::pin_init(Replaced::new(&redirector), GFP_KERNEL)?;
            Ok(try_pin_init!(Self {
                migrate_state <- migrate_state::Service::new(&redirector, replaced.clone()),
                spi <- spi::Service::new(&redirector, replaced),
                #[cfg(XFRM_NEXT_LAG)]
                lag_offload <- lag_offload::Service::new(text),
                _: {
                    pr_info!(
                        "{} for Linux {}: serves XFRM_MSG_MIGRATE_STATE and XFRM_MSG_ALLOCSPI\n",
                        env!("XFRM_NEXT_VERSION"),
                        env!("XFRM_NEXT_KERNEL"),
                    );
                    if cfg!(not(XFRM_NEXT_LAG)) {
                        pr_info!("bonds are left alone: this kernel has no handles for lower devices\n");
                    }
                },
            }))
        })
    }
}

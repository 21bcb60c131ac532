// SPDX-License-Identifier: GPL-2.0

//! What Linux's IPsec developers are still arguing about, working today.
//!
//! Features are in [`migrate_state`] and [`spi`]; they use the safe abstractions of
//! [`net`], [`xfrm`] and [`redirect`], which alone use [`raw`] and unsafe code.

// What is `pub` in a folder is what the others may use of it.
#![expect(unreachable_pub)]

use kernel::prelude::*;

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
}

impl kernel::InPlaceModule for XfrmNext {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            migrate_state <- migrate_state::Service::new(),
            spi <- spi::Service::new(),
            _: {
                pr_info!(
                    "{} for Linux {}: serves XFRM_MSG_MIGRATE_STATE and XFRM_MSG_ALLOCSPI\n",
                    env!("XFRM_NEXT_VERSION"),
                    env!("XFRM_NEXT_KERNEL"),
                );
            },
        })
    }
}

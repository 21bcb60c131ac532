// SPDX-License-Identifier: GPL-2.0

//! The module's own sources, in the places that they have in its crate, as far
//! as they don't depend on the kernel; and [`properties`], what they have to do
//! with any input.

pub mod properties;

#[path = "../../../rust/migrate_state"]
pub mod migrate_state {
    pub mod plan;
    pub mod refusal;
    pub mod request;
}

#[path = "../../../rust/redirect"]
pub mod redirect {
    pub mod btf;
}

#[path = "../../../rust/spi"]
pub mod spi {
    pub mod candidates;
    pub mod cases;
    pub mod policy;
}

#[path = "../../../rust/xfrm"]
pub mod xfrm {
    pub mod uapi;

    pub mod migrate {
        pub mod snapshot;
    }

    pub mod replaced {
        pub mod replay;
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Whether the kernel puts SAs where we look for them in its tables.
//!
//! The hashes are inline functions of `net/xfrm/xfrm_hash.h`. Where that isn't there when
//! the module is built, it has some of its own (`rust/helpers.c`), which another kernel
//! may not share.

use super::{State, Table};
use crate::{
    net::Namespace,
    raw,
    xfrm::uapi::{self, Address},
};
use core::ptr::NonNull;
use kernel::{
    error::{
        code::{ENOEXEC, ENOMEM},
        Result,
    },
    pr_err,
    sync::aref::ARef,
};

/// Checks it, if the hashes are the module's own. Whoever loads the module calls this first;
/// may sleep. Takes `xfrm_state_lock` of the first namespace, in which some SAs come
/// and go for that.
///
/// Fails with `ENOEXEC`, and says so in the log, or with `ENOMEM`.
pub fn check() -> Result {
    // SAFETY: It returns a constant.
    if unsafe { raw::xfrm_next_hash_is_own() } && !are_found()? {
        pr_err!("this kernel has other hashes: build against its full source\n");
        return Err(ENOEXEC);
    }
    Ok(())
}

/// Whether the kernel puts SAs where we look for them, as far as can be seen by adding some
/// to the first namespace. Fails with `ENOMEM`.
fn are_found() -> Result<bool> {
    let net = Namespace::first();
    // Tables have eight chains at least.
    for number in 0..32u8 {
        // For documentation, so nobody's.
        let (family, daddr, saddr) = match number % 2 {
            0 => (
                uapi::AF_INET,
                [192, 0, 2, number],
                [198, 51, 100, 7 * number],
            ),
            _ => (uapi::AF_INET6, [0x20, 1, 0xd, 0xb8], [0x20, 1, 0xd, 0xb8]),
        };
        let address = |start: [u8; 4]| {
            let mut bytes = [number; 16];
            bytes[..4].copy_from_slice(&start);
            Address(bytes).trimmed(family)
        };
        // SAFETY: A new SA is ours until it is inserted, which takes its first
        // reference: one more is ours. Deleting it gives that of the tables back.
        let right = unsafe {
            let x = raw::xfrm_state_alloc(net.as_ptr());
            if x.is_null() {
                return Err(ENOMEM);
            }
            raw::xfrm_next_state_hold(x);
            let state: ARef<State> = ARef::from_raw(NonNull::new_unchecked(x.cast()));
            (*x).id.daddr = address(daddr).into();
            (*x).id.spi = u32::from_be_bytes([number, 0x5a, number, 0xa5]).to_be();
            (*x).id.proto = uapi::IPPROTO_ESP;
            (*x).props.saddr = address(saddr).into();
            (*x).props.family = family;
            (*x).props.reqid = u32::from(number) << 13;
            (*x).km.seq = u32::from(number) << 9 | 1;
            raw::xfrm_state_insert(x);
            let right = Table::lock(net).is_first(&state);
            raw::xfrm_state_delete(x);
            right
        };
        if !right {
            return Ok(false);
        }
    }
    Ok(true)
}

#[kernel::macros::kunit_tests(xfrm_next_hashes)]
mod tests {
    use super::*;

    #[test]
    fn states_are_where_they_are_looked_for() -> Result {
        assert!(are_found()?);
        Ok(())
    }
}

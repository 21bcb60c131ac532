// SPDX-License-Identifier: GPL-2.0

//! Netlink messages that the kernel sends.
//!
//! C header: `include/net/netlink.h`

use crate::raw;
use core::{mem::ManuallyDrop, ptr::NonNull};
use kernel::{error::to_result, ffi::c_int, prelude::*};
use zerocopy::{Immutable, IntoBytes};

/// Bytes that an attribute takes in a message: its header, its payload, and
/// what fills them up.
pub const fn attribute_size(payload: usize) -> usize {
    4 + payload.next_multiple_of(4)
}

/// A message with a fixed part that attributes are being added to.
///
/// # Invariants
///
/// `skb` is owned, and `header` is that of the one message in it.
pub struct Message {
    skb: NonNull<raw::sk_buff>,
    header: *mut raw::nlmsghdr,
}

impl Message {
    /// Starts a message of type `kind` with `fixed` as its fixed part, and
    /// room for `attributes` bytes of attributes. May sleep.
    ///
    /// Fails with `ENOMEM`.
    pub fn new<T: IntoBytes + Immutable>(
        portid: u32,
        seq: u32,
        kind: u16,
        fixed: &T,
        attributes: usize,
    ) -> Result<Self> {
        let bytes = fixed.as_bytes();
        // SAFETY: Any size can be asked for; we may sleep.
        let skb = NonNull::new(unsafe { raw::xfrm_next_nlmsg_new(bytes.len() + attributes) })
            .ok_or(ENOMEM)?;
        let len = bytes.len() as c_int;
        // SAFETY: The skb is ours and empty. If there is no room, null is
        // returned and nothing is written.
        let header =
            unsafe { raw::xfrm_next_nlmsg_put(skb.as_ptr(), portid, seq, kind.into(), len) };
        // INVARIANT: If there is no header, `this` is dropped right away.
        let this = Self { skb, header };
        if header.is_null() {
            return Err(EMSGSIZE);
        }
        // SAFETY: nlmsg_put() has reserved this many bytes behind the header,
        // whose size is a multiple of its alignment.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), header.add(1).cast(), bytes.len())
        };
        Ok(this)
    }

    /// Adds an attribute. Any context.
    ///
    /// Fails with `EMSGSIZE` if there is no room.
    pub fn put<T: IntoBytes + Immutable + ?Sized>(&mut self, kind: u16, value: &T) -> Result {
        let bytes = value.as_bytes();

        // SAFETY: The skb is ours by the type invariant, and `bytes` is
        // readable.
        to_result(unsafe {
            raw::nla_put(
                self.skb.as_ptr(),
                kind.into(),
                bytes.len() as c_int,
                bytes.as_ptr().cast(),
            )
        })
    }

    /// Completes the message and hands it over.
    pub(crate) fn finish(self) -> (*mut raw::sk_buff, *mut raw::nlmsghdr) {
        let this = ManuallyDrop::new(self);

        // SAFETY: By the type invariant.
        unsafe { raw::xfrm_next_nlmsg_end(this.skb.as_ptr(), this.header) };
        (this.skb.as_ptr(), this.header)
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: The skb is ours by the type invariant.
        unsafe { raw::xfrm_next_nlmsg_free(self.skb.as_ptr()) }
    }
}

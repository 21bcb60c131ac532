// SPDX-License-Identifier: GPL-2.0

//! Netlink messages that the kernel sends.
//!
//! C header: `include/net/netlink.h`

use crate::raw;
use core::{mem::ManuallyDrop, ptr::NonNull};
use kernel::{error::to_result, ffi::c_int, prelude::*};
use zerocopy::{Immutable, IntoBytes};

/// Bytes that an attribute takes in a message: its header, its payload, and
/// what fills them up. Mirrors `nla_total_size()`.
pub const fn attribute_size(payload: usize) -> usize {
    4 + payload.next_multiple_of(4)
}

/// A message with a fixed part that attributes are being added to. Who sends it
/// consumes it; else dropping it frees it.
///
/// # Invariants
///
/// `skb` is owned, and `header` is that of the one message in it.
///
/// # Examples
///
/// ```ignore
/// fn announce(request: &Request<'_>, fixed: &MigrateState, encap: &Encap) -> Result {
///     let (portid, seq) = (request.portid, request.seq);
///     let room = attribute_size(size_of::<Encap>());
///     let mut message = Message::new(portid, seq, uapi::MSG_MIGRATE_STATE, fixed, room)?;
///     message.put(attr::ENCAP, encap)?;
///     messages::multicast(request.net, message, uapi::GROUP_MIGRATE)
/// }
/// ```
pub struct Message {
    skb: NonNull<raw::sk_buff>,
    header: *mut raw::nlmsghdr,
}

impl Message {
    /// Starts a message of type `kind` with `fixed` as its fixed part, and
    /// room for `attributes` bytes of attributes: the sum of their
    /// [`attribute_size`]s. May sleep.
    ///
    /// `portid` and `seq` are those of the request that it answers or announces.
    ///
    /// Fails with `ENOMEM`. Mirrors `nlmsg_new()` and `nlmsg_put()`.
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
    /// Fails with `EMSGSIZE` if there is no room, or it is longer than an attribute can
    /// say. Mirrors `nla_put()`.
    pub fn put<T: IntoBytes + Immutable + ?Sized>(&mut self, kind: u16, value: &T) -> Result {
        let bytes = value.as_bytes();
        if attribute_size(bytes.len()) > usize::from(u16::MAX) {
            return Err(EMSGSIZE);
        }
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

    /// Completes the message and hands it over: the skb is the caller's to send or
    /// free.
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

#[kernel::macros::kunit_tests(xfrm_next_message)]
mod tests {
    use super::*;

    #[repr(C)]
    struct Content {
        fixed: [u32; 2],
        attribute: [u16; 2],
        payload: [u8; 4],
    }

    #[test]
    fn holds_what_was_put() -> Result {
        let mut message = Message::new(7, 8, 9, &[1u32, 2], attribute_size(1))?;
        message.put(3, &0xffu8)?;
        let (skb, header) = message.finish();

        // SAFETY: The message is complete, nobody has it but us, and that much is in it
        // if it has this length.
        unsafe {
            assert_eq!(((*header).nlmsg_len, (*header).nlmsg_type), (16 + 16, 9));
            let Content {
                fixed,
                attribute,
                payload,
            } = header.add(1).cast::<Content>().read();
            raw::xfrm_next_nlmsg_free(skb);
            assert_eq!(
                (fixed, attribute, payload),
                ([1, 2], [5, 3], [0xff, 0, 0, 0])
            );
        }
        Ok(())
    }

    #[test]
    fn takes_no_more_than_there_is_room_for() -> Result {
        let mut message = Message::new(7, 8, 9, &[1u32, 2], 0)?;
        let most = KVec::from_elem(0u8, 32 << 10, GFP_KERNEL)?;
        assert_eq!(message.put(3, &most[..]), Err(EMSGSIZE));
        Ok(())
    }
}

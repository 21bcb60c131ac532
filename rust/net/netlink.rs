// SPDX-License-Identifier: GPL-2.0

//! Requests as a netlink handler gets them.
//!
//! C header: `include/net/netlink.h`

use super::{ExtAck, Namespace};
use crate::raw;
use core::{marker::PhantomData, slice};

/// A request that is being served, as the `doit` handler of a netlink family gets
/// it: it may sleep, and all of it stays until the handler returns.
///
/// # Examples
///
/// ```ignore
/// fn mark(request: &mut Request<'_>) -> Result<Mark> {
///     let Some(mark) = request.attributes.payload(attr::MARK) else {
///         request.extack.set(format_args!("a mark is missing"));
///         return Err(EINVAL);
///     };
///     Mark::read_from_bytes(mark).map_err(|_| EINVAL)
/// }
/// ```
pub struct Request<'a> {
    /// Namespace of the socket that the request came in by.
    pub net: &'a Namespace,
    /// Port of the sender, as the kernel knows it.
    pub portid: u32,
    /// Sequence number that the sender gave it.
    pub seq: u32,
    /// What follows the netlink header, including the attributes.
    pub body: &'a [u8],
    /// The attributes by type.
    pub attributes: Attributes<'a>,
    /// Where the reason of a refusal goes.
    pub extack: ExtAck<'a>,
}

impl<'a> Request<'a> {
    /// Takes the arguments of a `doit` handler apart.
    ///
    /// # Safety
    ///
    /// They must be what the netlink core or a dispatcher on top of it passes,
    /// for as long as the handler runs, which `'a` must not outlast: `skb` of a
    /// netlink socket; `nlh` a message with a header, of which `nlmsg_len` bytes
    /// can be read and don't change; `attrs` a table of `count` pointers, each
    /// null or to an attribute that can be read as far as `nla_len`, which its
    /// header is part of; `extack` null or used by nobody else.
    pub unsafe fn from_raw(
        skb: *mut raw::sk_buff,
        nlh: *const raw::nlmsghdr,
        attrs: *mut *mut raw::nlattr,
        count: usize,
        extack: *mut raw::netlink_ext_ack,
    ) -> Self {
        const HEADER: usize = size_of::<raw::nlmsghdr>();

        // SAFETY: The caller promises all that is used here. The socket of
        // `skb` is the kernel's own; the sender's, in the same namespace, keeps
        // that while it waits for the handler.
        // INVARIANT: The table is as the caller promises.
        unsafe {
            Self {
                net: Namespace::from_raw(raw::xfrm_next_skb_sock_net(skb)),
                portid: raw::xfrm_next_skb_portid(skb),
                seq: (*nlh).nlmsg_seq,
                body: slice::from_raw_parts(
                    nlh.cast::<u8>().add(HEADER),
                    (*nlh).nlmsg_len as usize - HEADER,
                ),
                attributes: Attributes {
                    table: attrs,
                    count,
                    _message: PhantomData,
                },
                extack: ExtAck::from_raw(extack),
            }
        }
    }
}

/// The attributes of a message, parsed and checked against a policy.
///
/// # Invariants
///
/// `table` holds `count` pointers, each null or to an attribute that can be read
/// for `'a`, as far as its length, which isn't less than that of the header.
pub struct Attributes<'a> {
    table: *mut *mut raw::nlattr,
    count: usize,
    _message: PhantomData<&'a [u8]>,
}

impl Attributes<'_> {
    /// Returns the payload of the attribute of this type, if it is there. Any
    /// context.
    ///
    /// That its length is right has been checked by the policy, and isn't here.
    pub fn payload(&self, kind: u16) -> Option<&[u8]> {
        const HEADER: usize = size_of::<raw::nlattr>();

        if usize::from(kind) >= self.count {
            return None;
        }
        // SAFETY: By the type invariant; the index is within the table.
        unsafe {
            let attr = *self.table.add(kind.into());
            if attr.is_null() {
                return None;
            }
            Some(slice::from_raw_parts(
                attr.cast::<u8>().add(HEADER),
                usize::from((*attr).nla_len) - HEADER,
            ))
        }
    }
}

#[kernel::macros::kunit_tests(xfrm_next_netlink)]
mod tests {
    use super::*;
    use core::ptr;

    #[repr(C)]
    struct Attribute {
        header: raw::nlattr,
        payload: [u8; 4],
    }

    #[test]
    fn payloads_by_type() {
        let mut attribute = Attribute {
            header: raw::nlattr {
                nla_len: 7,
                nla_type: 1,
            },
            payload: [1, 2, 3, 0xff],
        };
        let mut table = [ptr::null_mut(), (&raw mut attribute).cast()];
        // INVARIANT: The second of two is an attribute of which 7 bytes can be read.
        let attributes = Attributes {
            table: table.as_mut_ptr(),
            count: table.len(),
            _message: PhantomData,
        };
        assert_eq!(attributes.payload(0), None);
        assert_eq!(attributes.payload(1), Some(&[1u8, 2, 3][..]));
        assert_eq!(attributes.payload(2), None);
        assert_eq!(attributes.payload(u16::MAX), None);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Messages of NETLINK_XFRM: what handlers share; sending answers and events.
//!
//! C source: `net/xfrm/xfrm_user.c`

use crate::{
    net::{Message, Namespace},
    raw,
    redirect::CType,
};
use core::fmt;
use kernel::{error::to_result, ffi::c_int, prelude::*, sync::rcu};

macro_rules! c_structs {
    ($($name:ident),*) => {$(
        impl CType for raw::$name {
            fn write(f: &mut dyn fmt::Write) -> fmt::Result {
                f.write_str(concat!("struct ", stringify!($name)))
            }
        }
    )*};
}

c_structs!(sk_buff, nlmsghdr, nlattr, net, netlink_ext_ack, xfrm_state);

impl CType for raw::xfrm_address_t {
    fn write(f: &mut dyn fmt::Write) -> fmt::Result {
        f.write_str("xfrm_address_t")
    }
}

/// How many attributes there can be: `XFRMA_MAX` and 0.
pub(in crate::xfrm) const ATTRIBUTES: usize = raw::xfrm_attr_type_t___XFRMA_MAX as usize;

/// The type of the functions that serve requests.
pub(in crate::xfrm) type Doit = unsafe extern "C" fn(
    *mut raw::sk_buff,
    *mut raw::nlmsghdr,
    *mut *mut raw::nlattr,
    *mut raw::netlink_ext_ack,
) -> c_int;

/// Fails with `ENOEXEC`, and says why in the log, if the kernel takes messages of
/// another size than `T` for this type. Also keeps xfrm_user, which serves them, from
/// being unloaded. Any context.
pub fn check_size<T>(kind: u16) -> Result {
    // SAFETY: A constant table of xfrm_user, which stays as long as we do.
    let sizes = unsafe { &raw::xfrm_msg_min };
    let place = usize::from(kind) - raw::XFRM_MSG_BASE as usize;

    if sizes.get(place).copied() != Some(size_of::<T>() as c_int) {
        pr_err!("message {kind}: this kernel has another structure for it\n");
        return Err(ENOEXEC);
    }
    Ok(())
}

/// Whether anybody listens to this multicast group, in any namespace. Any context.
pub fn has_listeners(net: &Namespace, group: u32) -> bool {
    let _rcu = rcu::Guard::new();

    // SAFETY: The socket is a kernel's, and valid under RCU if it isn't null.
    unsafe {
        let sk = raw::xfrm_next_nlsk(net.as_ptr());
        !sk.is_null() && raw::netlink_has_listeners(sk, group) != 0
    }
}

/// Sends `message` to those in `net` who listen to this multicast group, with
/// a translation for 32-bit ones where the kernel has that. Any context.
///
/// Fails with `ESRCH` if there is nobody, `ENOBUFS` if somebody didn't get it,
/// `EPIPE` if the namespace is ending, `ENOMEM`. Mirrors
/// `xfrm_nlmsg_multicast()`.
///
/// # Examples
///
/// ```ignore
/// fn announce(net: &Namespace, moved: &MigrateState) -> Result {
///     if !messages::has_listeners(net, GROUP_MIGRATE) {
///         return Ok(());
///     }
///     let message = Message::new(0, 0, MSG_MIGRATE_STATE, moved, 0)?;
///     messages::multicast(net, message, GROUP_MIGRATE)
/// }
/// ```
pub fn multicast(net: &Namespace, message: Message, group: u32) -> Result {
    let (skb, header) = message.finish();
    let _rcu = rcu::Guard::new();

    // SAFETY: The skb is ours and each way out gives it away, sending it also
    // where that fails. The socket is valid under RCU if it isn't null. Nothing
    // of this sleeps: the translator allocates atomically.
    unsafe {
        let sk = raw::xfrm_next_nlsk(net.as_ptr());
        let translated = if sk.is_null() {
            Err(EPIPE)
        } else {
            translate(skb, header)
        };
        if let Err(e) = translated {
            raw::xfrm_next_nlmsg_free(skb);
            return Err(e);
        }
        to_result(raw::xfrm_next_nlmsg_multicast(sk, skb, 0, group))
    }
}

/// Sends `message` to one port in `net`, in answer to its request while that is being
/// served, with a translation for a 32-bit process where the kernel has that. Doesn't
/// sleep.
///
/// Fails with `ECONNREFUSED` if the port is gone, `EAGAIN` if its buffer is
/// full, `ENOMEM`.
pub fn unicast(net: &Namespace, message: Message, portid: u32) -> Result {
    let (skb, header) = message.finish();

    // SAFETY: The skb is ours and each way out gives it away.
    unsafe {
        if let Err(e) = translate(skb, header) {
            raw::xfrm_next_nlmsg_free(skb);
            return Err(e);
        }
        to_result(raw::xfrm_next_nlmsg_unicast(net.as_ptr(), skb, portid))
    }
}

/// # Safety
///
/// `header` is that of the one message in `skb`, which is ours.
unsafe fn translate(skb: *mut raw::sk_buff, header: *mut raw::nlmsghdr) -> Result {
    // SAFETY: The caller promises it; the translator, which never changes, is
    // null or comes with a reference to its module.
    unsafe {
        let translator = raw::xfrm_next_get_translator();
        let Some(table) = translator.as_ref() else {
            return Ok(());
        };
        let result = match table.alloc_compat {
            Some(alloc) => to_result(alloc(skb, header)),
            None => Ok(()),
        };
        raw::xfrm_next_put_translator(translator);
        result
    }
}

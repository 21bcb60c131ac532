// SPDX-License-Identifier: GPL-2.0

//! Extended acknowledgements: the sentence that goes with an errno.
//!
//! C header: `include/linux/netlink.h`

use crate::raw;
use core::{
    fmt::{self, Write},
    marker::PhantomData,
};

/// The extended acknowledgement of a request that is being served.
///
/// Who asks for none, like PF_KEY, gets none: the texts go nowhere then.
///
/// # Invariants
///
/// The pointer is null, or valid and ours alone for `'a`.
///
/// # Examples
///
/// ```ignore
/// fn check_cpu(number: u32, extack: &mut ExtAck<'_>) -> Result {
///     if !larval::is_cpu(number) {
///         extack.set(format_args!("pCPU number too big"));
///         return Err(EINVAL);
///     }
///     Ok(())
/// }
///
/// fn init(new: &mut NewState, extack: &mut ExtAck<'_>) -> Result {
///     // The kernel says why it fails, in most cases.
///     new.init(extack).inspect_err(|_| {
///         extack.set_weak(format_args!("Failed to initialize migrated state"));
///     })
/// }
/// ```
pub struct ExtAck<'a> {
    ptr: *mut raw::netlink_ext_ack,
    _request: PhantomData<&'a mut raw::netlink_ext_ack>,
}

impl<'a> ExtAck<'a> {
    /// Wraps what a netlink handler was given.
    ///
    /// # Safety
    ///
    /// `ptr` must be null, or valid and used by nobody else for `'a`.
    pub unsafe fn from_raw(ptr: *mut raw::netlink_ext_ack) -> Self {
        // INVARIANT: as the caller promises.
        Self {
            ptr,
            _request: PhantomData,
        }
    }

    /// Sets the text, in place of one that is there. Any context.
    ///
    /// It is copied: the acknowledgement is sent after the handler is done,
    /// when the module and its strings may be gone. What doesn't fit into
    /// `NETLINK_MAX_FMTMSG_LEN` is cut off.
    pub fn set(&mut self, text: fmt::Arguments<'_>) {
        if self.ptr.is_null() {
            return;
        }
        // SAFETY: By the type invariant, nobody else uses it meanwhile.
        let ack = unsafe { &mut *self.ptr };
        // Cutting off is all that can go wrong, and wanted.
        let _ = Buffer {
            bytes: &mut ack._msg_buf,
            used: 0,
        }
        .write_fmt(text);
        ack._msg = ack._msg_buf.as_ptr();
    }

    /// Sets the text unless there is one already, like `NL_SET_ERR_MSG_WEAK()`. Any
    /// context.
    pub fn set_weak(&mut self, text: fmt::Arguments<'_>) {
        // SAFETY: By the type invariant, the pointer is valid if it isn't null.
        if !self.ptr.is_null() && unsafe { (*self.ptr)._msg.is_null() } {
            self.set(text);
        }
    }

    /// For functions of the kernel that set a text themselves; null if there is no
    /// acknowledgement.
    pub(crate) fn as_ptr(&mut self) -> *mut raw::netlink_ext_ack {
        self.ptr
    }
}

/// A C string that grows until it is full.
struct Buffer<'a> {
    bytes: &'a mut [kernel::ffi::c_char],
    used: usize,
}

impl Write for Buffer<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = self.bytes.len() - 1 - self.used;
        let text = &s.as_bytes()[..s.len().min(room)];

        for (to, from) in self.bytes[self.used..].iter_mut().zip(text) {
            *to = *from;
        }
        self.used += text.len();
        self.bytes[self.used] = 0;
        if text.len() < s.len() {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

#[kernel::macros::kunit_tests(xfrm_next_extack)]
mod tests {
    use super::*;

    fn written(text: fmt::Arguments<'_>) -> (raw::netlink_ext_ack, usize) {
        let mut ack: raw::netlink_ext_ack = pin_init::zeroed();
        // SAFETY: `ack` is valid, and nothing else uses it here.
        unsafe { ExtAck::from_raw(&mut ack) }.set(text);
        let len = ack._msg_buf.iter().position(|&c| c == 0).unwrap_or(0);
        (ack, len)
    }

    #[test]
    fn holds_what_fits() {
        let (ack, len) = written(format_args!("Unknown flags: {:#x}", 4));
        assert_eq!(len, 18);
        assert_eq!(ack._msg_buf[17], b'4');
    }

    #[test]
    fn cuts_off_what_does_not() {
        let (ack, len) = written(format_args!("{:200}", "x"));
        assert_eq!(len, ack._msg_buf.len() - 1);
    }

    #[test]
    fn weak_keeps_the_first() {
        let mut ack: raw::netlink_ext_ack = pin_init::zeroed();
        // SAFETY: `ack` is valid, and nothing else uses it here.
        let mut wrapped = unsafe { ExtAck::from_raw(&mut ack) };
        wrapped.set_weak(format_args!("first"));
        wrapped.set_weak(format_args!("second"));
        assert_eq!(ack._msg_buf[0], b'f');
        assert!(!ack._msg.is_null());
    }
}

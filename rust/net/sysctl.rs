// SPDX-License-Identifier: GPL-2.0

//! Sysctls of a network namespace.
//!
//! C headers: `include/linux/sysctl.h`, `include/net/net_namespace.h`

use super::namespace::Setup;
use crate::raw;
use core::{marker::PhantomData, pin::Pin, ptr};
use kernel::{ffi::c_int, prelude::*, types::Opaque};

/// Where a sysctl is, and what it takes.
pub struct Definition {
    /// Directory below `/proc/sys`, such as `net/xfrm_next`.
    pub directory: &'static CStr,
    /// File in it.
    pub name: &'static CStr,
    /// Value until somebody writes one.
    pub default: c_int,
    /// Smallest value; less is refused with `EINVAL`.
    pub min: c_int,
    /// Largest value; more is refused with `EINVAL`.
    pub max: c_int,
}

/// An integer that the administrator of a network namespace reads and sets, as long as that
/// is there.
///
/// # Invariants
///
/// `header` is a registration of `table`, whose data is `value`.
///
/// # Examples
///
/// ```ignore
/// static ENABLED: sysctl::Definition = sysctl::Definition {
///     directory: c"net/xfrm_next",
///     name: c"migrate_state",
///     default: 1,
///     min: 0,
///     max: 1,
/// };
///
/// fn settings<'net>(net: Setup<'net>) -> impl PinInit<Settings<'net>, Error> {
///     try_pin_init!(Settings {
///         enabled <- sysctl::Int::new(net, &ENABLED),
///     })
/// }
/// ```
///
/// `Settings` are those of [`PerNamespace`](super::namespace::PerNamespace).
#[pin_data(PinnedDrop)]
pub struct Int<'net> {
    #[pin]
    value: Opaque<c_int>,
    #[pin]
    table: Opaque<raw::ctl_table>,
    header: *mut raw::ctl_table_header,
    _net: PhantomData<Setup<'net>>,
}

// SAFETY: Nothing is bound to a thread.
unsafe impl Send for Int<'_> {}
// SAFETY: The value is read and written in one access each; nobody touches the
// table, and the header is for `drop`.
unsafe impl Sync for Int<'_> {}

impl<'net> Int<'net> {
    /// Makes the file in `net`, until this is dropped. May sleep.
    ///
    /// Fails with `ENOMEM` if it can't be made, also when it is there already.
    /// Mirrors `register_net_sysctl()`.
    pub fn new(net: Setup<'net>, definition: &'static Definition) -> impl PinInit<Self, Error> {
        pin_init!(&this in Self {
            value: Opaque::new(definition.default),
            table: Opaque::new(raw::ctl_table {
                procname: definition.name.as_char_ptr(),
                // SAFETY: Only the address of the field is taken.
                data: unsafe { (&raw mut (*this.as_ptr()).value).cast() },
                maxlen: size_of::<c_int>() as c_int,
                mode: 0o644,
                proc_handler: Some(raw::proc_dointvec_minmax),
                extra1: ptr::from_ref(&definition.min).cast_mut().cast(),
                extra2: ptr::from_ref(&definition.max).cast_mut().cast(),
                ..pin_init::zeroed()
            }),
            header: {
                // SAFETY: The table and its data are initialized and stay where
                // they are; the strings and limits are static. `drop` unregisters
                // the table before they go, and before `'net` ends.
                let header = unsafe {
                    raw::register_net_sysctl_sz(
                        net.as_ptr(),
                        definition.directory.as_char_ptr(),
                        (&raw mut (*this.as_ptr()).table).cast(),
                        1,
                    )
                };
                if header.is_null() {
                    return Err(ENOMEM);
                }
                header
            },
            _net: PhantomData,
        }? Error)
    }

    /// Returns the value of now, between `min` and `max`. Any context.
    pub fn get(&self) -> c_int {
        // SAFETY: It is initialized, and proc_dointvec_minmax() writes it at
        // once.
        unsafe { self.value.get().read_volatile() }
    }
}

#[pinned_drop]
impl PinnedDrop for Int<'_> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered. This waits for those
        // who are reading or writing it.
        unsafe { raw::unregister_net_sysctl_table(self.header) }
    }
}

#[kernel::macros::kunit_tests(xfrm_next_sysctl)]
mod tests {
    use super::*;
    use crate::net::Namespace;

    static LIMIT: Definition = Definition {
        directory: c"net/xfrm_next_kunit",
        name: c"limit",
        default: 3,
        min: 1,
        max: 5,
    };

    #[test]
    fn has_its_default_each_time() -> Result {
        for _ in 0..2 {
            let limit = Int::new(Namespace::first().into(), &LIMIT);
            let limit = KBox::pin_init(limit, GFP_KERNEL)?;
            assert_eq!(limit.get(), 3);
            // SAFETY: The value is initialized; it is written as the kernel does.
            unsafe { limit.value.get().write_volatile(5) };
            assert_eq!(limit.get(), 5);
        }
        Ok(())
    }
}

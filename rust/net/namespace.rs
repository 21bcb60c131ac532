// SPDX-License-Identifier: GPL-2.0

//! Network namespaces, and data that a module keeps for each.
//!
//! C header: `include/net/net_namespace.h`

use crate::raw;
use core::{marker::PhantomData, pin::Pin};
use kernel::{
    error::{from_result, to_result},
    ffi::{c_int, c_uint, c_void},
    prelude::*,
    types::{ForeignOwnable, Opaque},
};

/// A network namespace, `struct net`.
#[repr(transparent)]
pub struct Namespace(Opaque<raw::net>);

// SAFETY: What is reached through a shared reference has locks of its own.
unsafe impl Sync for Namespace {}

impl Namespace {
    /// Borrows a namespace.
    ///
    /// # Safety
    ///
    /// `ptr` must be valid, and the namespace must not be freed during `'a`.
    pub unsafe fn from_raw<'a>(ptr: *mut raw::net) -> &'a Self {
        // SAFETY: The caller promises that it is valid; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    pub(crate) fn as_ptr(&self) -> *mut raw::net {
        self.0.get()
    }
}

/// Where the kernel keeps its number for one kind of [`PerNamespace`] data.
pub struct Slot(Opaque<c_uint>);

// SAFETY: Written by the registration alone, before anybody reads it.
unsafe impl Sync for Slot {}

impl Slot {
    /// Makes a slot for a `static`.
    pub const fn new() -> Self {
        Self(Opaque::new(0))
    }
}

/// Data that each network namespace has one of.
pub trait PerNamespace: Sized + Send + Sync + 'static {
    /// A slot of its own for each implementation.
    const SLOT: &'static Slot;

    /// Makes the data for `net`, when the module is loaded or the namespace
    /// is created. May sleep; `pernet_ops_rwsem` is held.
    ///
    /// The data are dropped when the namespace ends or the registration is
    /// dropped, whichever is first.
    fn new(net: &Namespace) -> impl PinInit<Self, Error> + '_;
}

/// The registration of `T` with all namespaces that are and will be.
///
/// # Invariants
///
/// `ops` is registered, and `T::SLOT` holds its number.
#[pin_data(PinnedDrop)]
pub struct Registration<T: PerNamespace> {
    #[pin]
    ops: Opaque<raw::pernet_operations>,
    _data: PhantomData<T>,
}

// SAFETY: The list that `ops` is in has a lock of its own.
unsafe impl<T: PerNamespace> Send for Registration<T> {}
// SAFETY: As above; `get` only reads.
unsafe impl<T: PerNamespace> Sync for Registration<T> {}

impl<T: PerNamespace> Registration<T> {
    /// Registers `T`. One registration at a time may exist for each `T`.
    ///
    /// Fails with what [`PerNamespace::new`] failed with in any namespace, or
    /// `ENOMEM`; then no namespace has data.
    pub fn new() -> impl PinInit<Self, Error> {
        pin_init!(Self {
            ops <- Opaque::try_ffi_init(|ops: *mut raw::pernet_operations| {
                // SAFETY: `ops` is ours to write, and won't move.
                unsafe {
                    ops.write(raw::pernet_operations {
                        init: Some(Self::init),
                        exit: Some(Self::exit),
                        id: T::SLOT.0.get(),
                        size: size_of::<*mut c_void>(),
                        ..pin_init::zeroed()
                    })
                };
                // SAFETY: `ops` is initialized, and is unregistered in `drop`
                // before its memory goes.
                to_result(unsafe { raw::register_pernet_subsys(ops) })
            }),
            _data: PhantomData,
        }? Error)
    }

    /// Returns the data of `net`. Any context.
    pub fn get<'a>(&'a self, net: &'a Namespace) -> &'a T {
        // SAFETY: By the type invariant `init` has put the data there, which
        // live as long as both the registration and the namespace.
        unsafe { Pin::get_ref(Pin::<KBox<T>>::borrow(*place::<T>(net.as_ptr()))) }
    }

    extern "C" fn init(net: *mut raw::net) -> c_int {
        from_result(|| {
            // SAFETY: The kernel calls this with a namespace that it sets up.
            let namespace = unsafe { Namespace::from_raw(net) };
            let data = KBox::pin_init(T::new(namespace), GFP_KERNEL)?;
            // SAFETY: The place is ours, and empty.
            unsafe { *place::<T>(net) = data.into_foreign() };
            Ok(0)
        })
    }

    extern "C" fn exit(net: *mut raw::net) {
        // SAFETY: `init` has put it there, and the kernel calls this once,
        // after the last use.
        drop(unsafe { Pin::<KBox<T>>::from_foreign(*place::<T>(net)) });
    }
}

/// Returns where `net` keeps the pointer to its `T`.
fn place<T: PerNamespace>(net: *mut raw::net) -> *mut *mut c_void {
    // SAFETY: `net` is valid, and the slot was written before the first
    // callback or use of the registration.
    unsafe { raw::xfrm_next_net_generic(net, *T::SLOT.0.get()) }.cast()
}

#[pinned_drop]
impl<T: PerNamespace> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered.
        unsafe { raw::unregister_pernet_subsys(self.ops.get()) }
    }
}

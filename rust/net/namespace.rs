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
    sync::atomic::{ordering, Atomic},
    types::{ForeignOwnable, Opaque},
};

/// A network namespace, `struct net`, that is set up and hasn't begun to end.
///
/// # Invariants
///
/// The data that modules keep for it are there while it is borrowed.
#[repr(transparent)]
pub struct Namespace(Opaque<raw::net>);

// SAFETY: What is reached through a shared reference has locks of its own.
unsafe impl Sync for Namespace {}

impl Namespace {
    /// Borrows a namespace.
    ///
    /// # Safety
    ///
    /// `ptr` must be valid, and the data that modules keep for the namespace
    /// must not be freed during `'a`.
    pub unsafe fn from_raw<'a>(ptr: *mut raw::net) -> &'a Self {
        // SAFETY: The caller promises that it is valid; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    /// Returns the first one, which never ends.
    pub fn first() -> &'static Self {
        // SAFETY: It is always there, and was before any module came.
        unsafe { Self::from_raw(&raw mut raw::init_net) }
    }

    /// For functions of the kernel.
    pub(crate) fn as_ptr(&self) -> *mut raw::net {
        self.0.get()
    }

    /// Returns the number by which `/proc/PID/ns/net` shows it. Any context.
    #[cfg(XFRM_NEXT_LAG)]
    pub fn inode(&self) -> u32 {
        // SAFETY: The namespace is valid; the number doesn't change.
        unsafe { raw::xfrm_next_net_inum(self.as_ptr()) }
    }
}

/// A network namespace from when it is set up to when it has ended. The data that modules
/// keep for it may not be there yet, or any more.
///
/// # Invariants
///
/// The namespace is valid during `'net`.
#[derive(Clone, Copy)]
pub struct Setup<'net>(*mut raw::net, PhantomData<&'net Namespace>);

impl Setup<'_> {
    /// For functions of the kernel.
    pub(crate) fn as_ptr(self) -> *mut raw::net {
        self.0
    }
}

impl<'net> From<&'net Namespace> for Setup<'net> {
    fn from(net: &'net Namespace) -> Self {
        // INVARIANT: It is borrowed as long.
        Self(net.as_ptr(), PhantomData)
    }
}

/// Where the kernel keeps its number for one kind of [`PerNamespace`] data.
pub struct Slot {
    number: Opaque<c_uint>,
    taken: Atomic<i32>,
}

// SAFETY: The number is written by the one registration that has taken the
// slot, before anybody reads it.
unsafe impl Sync for Slot {}

impl Slot {
    /// Makes a slot for a `static`.
    pub const fn new() -> Self {
        Self {
            number: Opaque::new(0),
            taken: Atomic::new(0),
        }
    }

    /// Names the slot in a `const`.
    pub const fn name(&'static self) -> SlotName {
        // INVARIANT: It is a reference's.
        SlotName(self)
    }
}

/// A [`Slot`]. Older compilers refuse references to what may change in a `const`.
///
/// # Invariants
///
/// The pointer is that of a `static`.
#[derive(Clone, Copy)]
pub struct SlotName(*const Slot);

impl SlotName {
    fn slot(self) -> &'static Slot {
        // SAFETY: By the type invariant.
        unsafe { &*self.0 }
    }
}

/// A slot that a registration has to itself.
struct Taken(&'static Slot);

impl Taken {
    fn new(slot: &'static Slot) -> Result<Self> {
        if slot.taken.xchg(1, ordering::Full) != 0 {
            return Err(EBUSY);
        }
        Ok(Self(slot))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.store(0, ordering::Release);
    }
}

/// Data that each network namespace has one of.
///
/// They know by `'net` how long they are there, so that what they are made of can't be kept
/// beyond the namespace. Those that have such parts implement this for `'static`, which
/// stands for all lifetimes.
///
/// # Examples
///
/// `ENABLED` is that of [`sysctl::Int`](super::sysctl::Int).
///
/// ```ignore
/// #[pin_data]
/// struct Settings<'net> {
///     #[pin]
///     enabled: sysctl::Int<'net>,
/// }
///
/// static SETTINGS: Slot = Slot::new();
///
/// impl PerNamespace for Settings<'static> {
///     type Data<'net> = Settings<'net>;
///
///     const SLOT: SlotName = SETTINGS.name();
///
///     fn new<'net>(net: Setup<'net>) -> impl PinInit<Settings<'net>, Error> {
///         try_pin_init!(Settings {
///             enabled <- sysctl::Int::new(net, &ENABLED),
///         })
///     }
/// }
///
/// /// Each namespace has settings while this is there.
/// struct Handler {
///     settings: Pin<KBox<Registration<Settings<'static>>>>,
/// }
///
/// impl Handler {
///     fn new() -> Result<Self> {
///         let settings = KBox::pin_init(Registration::new(), GFP_KERNEL)?;
///         Ok(Self { settings })
///     }
///
///     fn serves(&self, net: &Namespace) -> bool {
///         self.settings.with(net, |settings| settings.enabled.get()) != 0
///     }
/// }
/// ```
pub trait PerNamespace: 'static {
    /// The data.
    type Data<'net>: Send + Sync;

    /// A slot of its own for each implementation.
    const SLOT: SlotName;

    /// Makes the data for `net`, when the module is loaded or the namespace
    /// is created, as whose they count. May sleep; `pernet_ops_rwsem` is held.
    ///
    /// The data are dropped when the namespace ends or the registration is
    /// dropped, whichever is first; `'net` is until then.
    fn new<'net>(net: Setup<'net>) -> impl PinInit<Self::Data<'net>, Error>;
}

/// The registration of `T` with all namespaces that are and will be. Dropping it
/// drops the data of all of them; may sleep.
///
/// # Invariants
///
/// `ops` is registered, and `T::SLOT` is ours and holds its number.
#[pin_data(PinnedDrop)]
pub struct Registration<T: PerNamespace> {
    #[pin]
    ops: Opaque<raw::pernet_operations>,
    // Dropped when `ops` is registered no more.
    _slot: Taken,
    _data: PhantomData<T>,
}

// SAFETY: The list that `ops` is in has a lock of its own, and the data are `Send`:
// they may be dropped by another thread than made them.
unsafe impl<T: PerNamespace> Send for Registration<T> {}
// SAFETY: As above; `with` only reads, and the data are `Sync`.
unsafe impl<T: PerNamespace> Sync for Registration<T> {}

impl<T: PerNamespace> Registration<T> {
    /// Registers `T`. May sleep.
    ///
    /// Fails with what [`PerNamespace::new`] failed with in any namespace,
    /// `EBUSY` if there is a registration for this slot, or `ENOMEM`; then no
    /// namespace has data. Mirrors `register_pernet_subsys()`.
    pub fn new() -> impl PinInit<Self, Error> {
        pin_init!(Self {
            _slot: Taken::new(T::SLOT.slot())?,
            ops <- Opaque::try_ffi_init(|ops: *mut raw::pernet_operations| {
                // SAFETY: `ops` is ours to write, and won't move.
                unsafe {
                    ops.write(raw::pernet_operations {
                        init: Some(Self::init),
                        exit: Some(Self::exit),
                        id: T::SLOT.slot().number.get(),
                        size: size_of::<*mut c_void>(),
                        ..pin_init::zeroed()
                    })
                };
                // SAFETY: `ops` is initialized, and is unregistered in `drop`
                // before its memory goes. Nobody else uses the slot.
                to_result(unsafe { raw::register_pernet_subsys(ops) })
            }),
            _data: PhantomData,
        }? Error)
    }

    /// Lets `f` use the data of `net`. Any context that `f` is fit for.
    ///
    /// `f` takes them with any `'net`: were it one that the caller knows, a reference as short as
    /// that could be put into data that are there longer. What can be shortened, it may return.
    pub fn with<'a, R>(
        &'a self,
        net: &'a Namespace,
        f: impl for<'net> FnOnce(&'a T::Data<'net>) -> R,
    ) -> R {
        // SAFETY: By the type invariant. The data are dropped when the registration is, or when
        // the namespace begins to end.
        f(unsafe { data::<T>(net) })
    }

    /// # Safety
    ///
    /// `net` must be a namespace without our data.
    unsafe extern "C" fn init(net: *mut raw::net) -> c_int {
        from_result(|| {
            // INVARIANT: The namespace is valid until `exit` has dropped the data.
            let data = KBox::pin_init(T::new(Setup(net, PhantomData)), GFP_KERNEL_ACCOUNT)?;
            // SAFETY: The place is ours, and empty.
            unsafe { *place::<T>(net) = data.into_foreign() };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `net` must be a namespace for which `init` has succeeded. The kernel
    /// calls this once: when the namespace ends, after those who could name it
    /// have gone, or from `drop`.
    unsafe extern "C" fn exit(net: *mut raw::net) {
        // SAFETY: `init` has put it there, and nobody has borrowed it.
        drop(unsafe { Pin::<KBox<T::Data<'_>>>::from_foreign(*place::<T>(net)) });
    }
}

/// Returns the data of `net`. Any context.
///
/// # Safety
///
/// `T` is registered, and the data aren't dropped during `'a`.
pub(crate) unsafe fn data<'a, T: PerNamespace>(net: &'a Namespace) -> &'a T::Data<'a> {
    // SAFETY: The caller promises it; `init` has put them there.
    unsafe { Pin::get_ref(Pin::<KBox<T::Data<'_>>>::borrow(*place::<T>(net.as_ptr()))) }
}

/// Returns where `net` keeps the pointer to its data.
///
/// # Safety
///
/// `net` must be valid, and `T` be registered with it.
unsafe fn place<T: PerNamespace>(net: *mut raw::net) -> *mut *mut c_void {
    // SAFETY: The caller promises it. The slot was written before the first
    // callback, and stays as it is while the registration is there.
    unsafe { raw::xfrm_next_net_generic(net, *T::SLOT.slot().number.get()) }.cast()
}

#[pinned_drop]
impl<T: PerNamespace> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered. Nobody has borrowed
        // data any more, since that borrows us.
        unsafe { raw::unregister_pernet_subsys(self.ops.get()) }
    }
}

#[kernel::macros::kunit_tests(xfrm_next_namespace)]
mod tests {
    use super::*;

    static SLOT: Slot = Slot::new();
    /// How many there are.
    static DATA: Atomic<i32> = Atomic::new(0);

    struct Data<'net> {
        of: Setup<'net>,
    }

    // SAFETY: The pointer is only compared.
    unsafe impl Send for Data<'_> {}
    // SAFETY: As above.
    unsafe impl Sync for Data<'_> {}

    impl Drop for Data<'_> {
        fn drop(&mut self) {
            DATA.fetch_sub(1, ordering::Relaxed);
        }
    }

    impl PerNamespace for Data<'static> {
        type Data<'net> = Data<'net>;

        const SLOT: SlotName = SLOT.name();

        fn new<'net>(net: Setup<'net>) -> impl PinInit<Data<'net>, Error> {
            DATA.fetch_add(1, ordering::Relaxed);
            Ok(Data { of: net })
        }
    }

    #[test]
    fn data_are_there_while_registered() -> Result {
        let registration = KBox::pin_init(Registration::<Data<'static>>::new(), GFP_KERNEL)?;
        let first = Namespace::first();
        let of = registration.with(first, |data| data.of.as_ptr());
        assert_eq!(of, first.as_ptr());
        assert!(DATA.load(ordering::Relaxed) > 0);

        drop(registration);
        assert_eq!(DATA.load(ordering::Relaxed), 0);
        Ok(())
    }

    #[test]
    fn a_slot_is_for_one_registration() -> Result {
        let registration = KBox::pin_init(Registration::<Data<'static>>::new(), GFP_KERNEL)?;
        let second = KBox::pin_init(Registration::<Data<'static>>::new(), GFP_KERNEL);
        assert_eq!(second.err(), Some(EBUSY));
        assert!(DATA.load(ordering::Relaxed) > 0);

        drop(registration);
        KBox::pin_init(Registration::<Data<'static>>::new(), GFP_KERNEL)?;
        assert_eq!(DATA.load(ordering::Relaxed), 0);
        Ok(())
    }
}

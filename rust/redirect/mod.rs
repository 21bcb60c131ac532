// SPDX-License-Identifier: GPL-2.0

//! Serving a function of the kernel in its place, without a patch.
//!
//! ftrace calls us where the function begins, and we let it go on at a
//! function of ours instead. That needs the function to be traceable, and the
//! kernel to have `CONFIG_DYNAMIC_FTRACE_WITH_ARGS`.
//!
//! Each call is decided by itself, so a [`Target`] can leave some to the
//! kernel; those by the module itself always are. Dropping a [`Redirect`] ends
//! new calls first, then waits for those that run (docs/internals.md says in
//! which order, and why that suffices).
//!
//! C header: `include/linux/ftrace.h`

mod btf;
mod gate;
mod prototype;
mod signature;

pub use gate::{Gate, Pass};
pub use prototype::{Be32, CType, Prototype, U32, U8};

use crate::{net::TextBarrier, raw};
use core::{marker::PhantomData, pin::Pin};
use kernel::{
    error::to_result,
    ffi::c_ulong,
    prelude::*,
    sync::Arc,
    time::{delay::fsleep, Delta},
    types::Opaque,
};
use signature::Signatures;

/// A function of the kernel that a module serves in its place.
///
/// # Safety
///
/// `REPLACEMENT` must be fit to be called with whatever the kernel calls the
/// function of this name and type with, and must take its [`Target::pass`] first
/// of all and keep it until it returns.
///
/// # Examples
///
/// ```ignore
/// struct Overflow;
///
/// static OVERFLOW_GATE: Gate = Gate::new();
///
/// // SAFETY: The replacement has the function's own type, and takes its pass
/// // first and keeps it.
/// unsafe impl Target for Overflow {
///     const NAME: &'static CStr = c"xfrm_replay_overflow";
///     const MODULE: Option<&'static CStr> = None;
///     type Function =
///         unsafe extern "C" fn(*mut raw::xfrm_state, *mut raw::sk_buff) -> c_int;
///     const REPLACEMENT: Self::Function = overflow;
///
///     fn gate() -> &'static Gate {
///         &OVERFLOW_GATE
///     }
///
///     fn serves(&self, arguments: &Arguments<'_>) -> bool {
///         // SAFETY: The function's first argument is an SA.
///         unsafe { is_out(arguments.first()) }
///     }
/// }
///
/// /// # Safety
/// ///
/// /// As for `xfrm_replay_overflow()`: `x` is locked.
/// unsafe extern "C" fn overflow(x: *mut raw::xfrm_state, skb: *mut raw::sk_buff) -> c_int {
///     // SAFETY: The call has been redirected here.
///     let _pass = unsafe { Overflow::pass() };
///     // SAFETY: The caller has locked `x`, with bottom halves off.
///     unsafe { handle(x, skb, |x| number(x, skb)) }
/// }
///
/// /// Calls are redirected while this is there.
/// #[pin_data]
/// struct Service {
///     #[pin]
///     overflow: Redirect<Overflow>,
/// }
///
/// impl Service {
///     fn new(redirector: &Redirector) -> impl PinInit<Self, Error> + '_ {
///         try_pin_init!(Self {
///             overflow <- Redirect::new(Overflow, redirector),
///         })
///     }
/// }
/// ```
pub unsafe trait Target: Send + Sync + 'static {
    /// Name of the function, an identifier; no other function may have it.
    const NAME: &'static CStr;

    /// Name of the module that it may be in; `None` if it is always built in.
    const MODULE: Option<&'static CStr>;

    /// Its type, an `unsafe extern "C" fn`.
    type Function: Prototype;

    /// What is called in its place.
    const REPLACEMENT: Self::Function;

    /// Counts the calls that are under way. One `static` for each target.
    fn gate() -> &'static Gate;

    /// Whether to serve a call rather than leave it to the kernel.
    ///
    /// Called where the function is called, with the locks of that: it must
    /// not sleep. Calls come on any CPU, also at once.
    fn serves(&self, arguments: &Arguments<'_>) -> bool;

    /// Takes the pass of a call.
    ///
    /// # Safety
    ///
    /// For `REPLACEMENT` alone, once in each call of it by the kernel.
    unsafe fn pass() -> Pass<Self>
    where
        Self: Sized,
    {
        // SAFETY: `Redirect::enter` has let the call in.
        unsafe { Self::gate().pass() }
    }
}

/// The arguments of a call that is to be decided on.
///
/// # Invariants
///
/// The registers are those with which the function of a [`Target`] is called; ftrace
/// keeps them for `'a`.
pub struct Arguments<'a> {
    registers: *mut raw::ftrace_regs,
    _call: PhantomData<&'a raw::ftrace_regs>,
}

impl Arguments<'_> {
    /// Returns the first argument, which has to be a pointer. What it is of is the
    /// caller's to know, and whether that is valid.
    pub(crate) fn first<T>(&self) -> *mut T {
        // SAFETY: By the type invariant; a `Prototype` has a first argument.
        unsafe { raw::xfrm_next_ftrace_first_argument(self.registers) as *mut T }
    }

    /// Returns of a call of `xfrm_input_state_lookup()` the last four bytes of the destination, XOR
    /// the SPI: for received packets, so in one step.
    ///
    /// # Safety
    ///
    /// It is one, or has arguments of the same kinds in these places.
    pub(crate) unsafe fn daddr_xor_spi(&self) -> u32 {
        // SAFETY: By the type invariant, and the caller.
        unsafe { raw::xfrm_next_ftrace_daddr_xor_spi(self.registers) }
    }
}

/// What [`Redirect`]s are made with, and needed only then.
pub struct Redirector {
    signatures: Signatures,
    text: Arc<TextBarrier>,
}

impl Redirector {
    /// Makes one for the running kernel; the last of its [`Redirect`]s drops `text`, if
    /// nobody else has it. May sleep. Fails with `ENOMEM`.
    pub fn new(text: Arc<TextBarrier>) -> Result<Self> {
        Ok(Self {
            signatures: Signatures::read()?,
            text,
        })
    }
}

/// A redirection that is in force until it is dropped, which may sleep: it waits for
/// the calls that run, then drops the target.
///
/// # Invariants
///
/// `ops` is registered, and its private pointer is to `target`.
#[pin_data(PinnedDrop)]
pub struct Redirect<T: Target> {
    #[pin]
    ops: Opaque<raw::ftrace_ops>,
    #[pin]
    target: T,
    _text: Arc<TextBarrier>,
}

// SAFETY: ftrace has locks of its own, and `T` is `Send`.
unsafe impl<T: Target> Send for Redirect<T> {}
// SAFETY: There are no methods. ftrace calls `enter` on any CPU, but `T` is
// `Sync`.
unsafe impl<T: Target> Sync for Redirect<T> {}

/// We set the instruction pointer, which nobody may switch off.
const FLAGS: c_ulong = (raw::FTRACE_OPS_FL_IPMODIFY | raw::FTRACE_OPS_FL_PERMANENT) as c_ulong;

impl<T: Target> Redirect<T> {
    /// Redirects. May sleep.
    ///
    /// Fails, and says why in the log: `ENOENT` if there is no such function
    /// (or it can't be traced), `ENOEXEC` if its type is another one than the
    /// module was written for, `EBUSY` if somebody else has redirected it or
    /// `kernel.ftrace_enabled` is 0. Without a word: `EBUSY` if its gate is in use,
    /// `ENOMEM`.
    pub fn new(target: T, redirector: &Redirector) -> impl PinInit<Self, Error> + '_ {
        pin_init!(&this in Self {
            target,
            _text: redirector.text.clone(),
            ops <- Opaque::try_ffi_init(|ops: *mut raw::ftrace_ops| {
                // SAFETY: `ops` is ours to write and stays in place. Only the
                // address of `target` is taken, which is initialized.
                unsafe {
                    ops.write(raw::ftrace_ops {
                        func: Some(Self::enter),
                        flags: FLAGS,
                        private: (&raw mut (*this.as_ptr()).target).cast(),
                        ..pin_init::zeroed()
                    })
                };
                // SAFETY: As above.
                T::gate().open(unsafe { &raw const (*this.as_ptr()).target })?;
                Self::register(ops, &redirector.signatures).inspect_err(|_| T::gate().close())
            }),
        }? Error)
    }

    fn register(ops: *mut raw::ftrace_ops, signatures: &Signatures) -> Result {
        let name = T::NAME.to_str().unwrap_or("?");
        signatures.check::<T::Function>(T::MODULE, name)?;

        // SAFETY: `ops` is initialized and not registered. The name ends with a
        // zero, as is expected in spite of the length; ftrace would write into a
        // pattern, but an identifier is only read.
        to_result(unsafe {
            let bytes = T::NAME.to_bytes();
            raw::ftrace_set_filter(ops, bytes.as_ptr().cast_mut().cast(), bytes.len() as i32, 1)
        })
        .map_err(|_| {
            pr_err!("{name}(): this kernel has no such function, or ftrace can't trace it\n");
            ENOENT
        })?;

        // SAFETY: `ops` is initialized, and is unregistered in `drop` before
        // its memory goes.
        to_result(unsafe { raw::register_ftrace_function(ops) }).inspect_err(|&e| {
            if e == EBUSY {
                pr_err!("{name}(): a live patch or another module has redirected it, or kernel.ftrace_enabled is 0\n");
            } else {
                pr_err!("{name}(): can't be redirected: {e:?}\n");
            }
            // SAFETY: `ops` isn't registered.
            unsafe { raw::ftrace_free_filter(ops) };
        })
    }

    /// ftrace calls this where the function begins.
    ///
    /// # Safety
    ///
    /// `ops` is that of a `Self`, `registers` are those of the call.
    unsafe extern "C" fn enter(
        _ip: c_ulong,
        parent_ip: c_ulong,
        ops: *mut raw::ftrace_ops,
        registers: *mut raw::ftrace_regs,
    ) {
        // SAFETY: The caller promises it. `target` stays until `ops` is
        // unregistered; and it is pinned, so that only `drop` names it by `&mut`.
        let target: &T = unsafe { &*(*ops).private.cast() };
        // INVARIANT: As the caller promises.
        let arguments = Arguments {
            registers,
            _call: PhantomData,
        };

        // SAFETY: It may be called anywhere.
        if target.serves(&arguments) && !unsafe { raw::xfrm_next_is_ours(parent_ip) } {
            T::gate().enter();
            // SAFETY: The registers are those of this call, for which the
            // target's safety requirements make the replacement fit. Its text
            // stays, since the call has been counted.
            unsafe { raw::xfrm_next_ftrace_set_ip(registers, T::REPLACEMENT.address()) };
        }
    }
}

#[pinned_drop]
impl<T: Target> PinnedDrop for Redirect<T> {
    fn drop(self: Pin<&mut Self>) {
        let ops = self.ops.get();

        // SAFETY: By the type invariant it is registered. When this returns 0,
        // `enter` runs nowhere: it waits for tasks that were preempted there.
        while unsafe { raw::unregister_ftrace_function(ops) } != 0 {
            // ftrace has shut itself down after a bug of its own, for good, and
            // may still call us: neither this memory nor our text may go.
            pr_crit!(
                "{:?}(): ftrace is off after a bug, so that the module can't be removed: restart\n",
                T::NAME
            );
            fsleep(Delta::from_secs(60));
        }
        T::gate().drain();
        T::gate().close();
        // SAFETY: `ops` isn't registered any more.
        unsafe { raw::ftrace_free_filter(ops) };
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The type of a C function, written down once: as a Rust function pointer.
//!
//! It is compared with what the kernel's BTF says, without the names of parameters.
//! BTF tells types by their C names, and each [`CType`] has one: `u32` and `__be32` are
//! newtypes where they are needed.

use core::fmt;
use kernel::ffi::{c_int, c_ulong, c_ushort};

/// A C type that can be told by its name.
pub trait CType {
    /// Writes the type as C declares it. Fails if there is no room.
    fn write(f: &mut dyn fmt::Write) -> fmt::Result;
}

impl CType for c_int {
    fn write(f: &mut dyn fmt::Write) -> fmt::Result {
        f.write_str("int")
    }
}

impl<T: CType> CType for *mut T {
    fn write(f: &mut dyn fmt::Write) -> fmt::Result {
        T::write(f)?;
        f.write_str(" *")
    }
}

macro_rules! c_typedefs {
    ($($(#[$doc:meta])* $name:ident($inner:ty) = $c:literal;)*) => {$(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy)]
        pub struct $name(pub $inner);

        impl CType for $name {
            fn write(f: &mut dyn fmt::Write) -> fmt::Result {
                f.write_str($c)
            }
        }
    )*};
}

c_typedefs! {
    /// The C type `u8`, by the name that BTF has for it.
    U8(u8) = "u8";
    /// The C type `u32`, likewise.
    U32(u32) = "u32";
    /// The C type `__be32`, likewise.
    Be32(u32) = "__be32";
}

impl<T: CType> CType for *const T {
    fn write(f: &mut dyn fmt::Write) -> fmt::Result {
        f.write_str("const ")?;
        <*mut T as CType>::write(f)
    }
}

impl CType for c_ushort {
    fn write(f: &mut dyn fmt::Write) -> fmt::Result {
        f.write_str("short unsigned int")
    }
}

/// A function pointer whose C prototype can be told: an `unsafe extern "C" fn` of one
/// to six parameters.
pub trait Prototype: Copy + 'static {
    /// Writes the prototype without names, like `int (struct net *)`. Fails if there is
    /// no room.
    fn write(f: &mut dyn fmt::Write) -> fmt::Result;

    /// Returns where the function begins.
    fn address(self) -> c_ulong;
}

macro_rules! prototype {
    ($first:ident $(, $rest:ident)*) => {
        impl<Ret, $first, $($rest),*> Prototype
            for unsafe extern "C" fn($first, $($rest),*) -> Ret
        where
            Ret: CType + 'static,
            $first: CType + 'static,
            $($rest: CType + 'static),*
        {
            fn write(f: &mut dyn fmt::Write) -> fmt::Result {
                Ret::write(f)?;
                f.write_str(" (")?;
                $first::write(f)?;
                $(
                    f.write_str(", ")?;
                    $rest::write(f)?;
                )*
                f.write_str(")")
            }

            fn address(self) -> c_ulong {
                self as usize as c_ulong
            }
        }
    };
}

prototype!(A);
prototype!(A, B);
prototype!(A, B, C);
prototype!(A, B, C, D);
prototype!(A, B, C, D, E);
prototype!(A, B, C, D, E, F);

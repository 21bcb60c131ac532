// SPDX-License-Identifier: GPL-2.0

//! Checking that a function of the running kernel has the type that we think.

use super::{
    btf::{Blob, Line, Types, Unreadable},
    Prototype,
};
use crate::raw;
use core::{ptr, slice};
use kernel::{ffi::c_void, prelude::*, str::CString};

/// Fails with `ENOEXEC`, and says why in the log, if the kernel's BTF tells
/// another type of function `name` than `F`. May sleep.
///
/// Where the kernel has no BTF, or none that can be read, nothing can be
/// checked and nothing fails.
pub(super) fn check<F: Prototype>(module: Option<&CStr>, name: &str) -> Result {
    let mut ours = Line::default();
    F::write(&mut ours).map_err(|_| EINVAL)?;

    let Some(base) = File::read(c"vmlinux")? else {
        return Ok(());
    };
    let module = module.map_or(Ok(None), File::read)?;
    let mut theirs = Line::default();
    match prototype(&base, module.as_ref(), name, &mut theirs)? {
        Ok(Some(())) if theirs.text() != ours.text() => {
            pr_err!("{name}(): this kernel's has the type {}\n", theirs.text());
            pr_err!("{name}(): this module knows it as {}\n", ours.text());
            Err(ENOEXEC)
        }
        Ok(Some(())) => Ok(()),
        Ok(None) | Err(Unreadable) => {
            pr_info!("{name}(): its type can't be told from this kernel's BTF\n");
            Ok(())
        }
    }
}

fn prototype(
    base: &File,
    module: Option<&File>,
    name: &str,
    out: &mut Line,
) -> Result<Result<Option<()>, Unreadable>> {
    let Ok(base) = Blob::parse(base.bytes()) else {
        return Ok(Err(Unreadable));
    };
    let Ok(module) = module.map(|file| Blob::parse(file.bytes())).transpose() else {
        return Ok(Err(Unreadable));
    };

    let mut of_base = 0;
    let mut count = 0;
    let mut counted = base.for_each(|_| of_base += 1);
    if let (Ok(()), Some(module)) = (counted, module) {
        counted = module.for_each(|_| count += 1);
    }
    if counted.is_err() {
        return Ok(Err(Unreadable));
    }
    let mut index = KVVec::with_capacity(of_base + count, GFP_KERNEL)?;
    let mut note = |offset| {
        // There is room: the same walk has counted.
        let _ = index.push(offset, GFP_KERNEL);
    };
    let _ = base.for_each(&mut note);
    if let Some(module) = module {
        let _ = module.for_each(&mut note);
    }
    Ok(Types::new(base, module, &index, of_base).prototype(name, out))
}

/// A file of `/sys/kernel/btf` in memory.
///
/// # Invariants
///
/// `data` is an allocation of vmalloc() with `len` readable bytes.
struct File {
    data: *mut c_void,
    len: usize,
}

impl File {
    /// Reads the file; `None` if there is none. Fails with `ENOMEM`.
    fn read(name: &CStr) -> Result<Option<Self>> {
        let path = CString::try_from_fmt(fmt!("/sys/kernel/btf/{}", name.to_str()?))?;
        let mut data = ptr::null_mut();

        // SAFETY: The path is a C string. `data` is null, so that memory is
        // allocated, for the whole file since there is no offset; and there is
        // nowhere to tell its size.
        let len = unsafe {
            raw::kernel_read_file_from_path_initns(
                path.as_char_ptr(),
                0,
                &mut data,
                i32::MAX as usize,
                ptr::null_mut(),
                raw::kernel_read_file_id_READING_UNKNOWN,
            )
        };
        if len < 0 {
            return if len == ENOMEM.to_errno() as isize {
                Err(ENOMEM)
            } else {
                Ok(None)
            };
        }
        // INVARIANT: The length isn't that of an error, so all has been read.
        Ok(Some(Self {
            data,
            len: len as usize,
        }))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: By the type invariant.
        unsafe { slice::from_raw_parts(self.data.cast(), self.len) }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; no slice outlives us.
        unsafe { raw::vfree(self.data) }
    }
}

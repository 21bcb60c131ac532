// SPDX-License-Identifier: GPL-2.0

//! Checking that a function of the running kernel has the type that we think.
//!
//! The types are in `/sys/kernel/btf`, a file for the kernel and one for each module.

use super::{
    btf::{Blob, Indexed, Line, Types, Unreadable},
    Prototype,
};
use crate::raw;
use core::ptr;
use kernel::{error::from_err_ptr, prelude::*, str::CString, types::ScopeGuard};

/// The types of the running kernel's functions, as its BTF tells them.
pub(super) struct Signatures {
    /// None if there is no BTF, or none that can be read.
    kernel: Option<Btf>,
}

impl Signatures {
    /// Reads them, several megabytes. May sleep. Fails with `ENOMEM`.
    pub(super) fn read() -> Result<Self> {
        Ok(Self {
            kernel: Btf::read(c"vmlinux")?,
        })
    }

    /// Fails with `ENOEXEC`, and says why in the log, if function `name`, which
    /// may be in `module`, has another type than `F`. May sleep.
    ///
    /// Where that can't be told, nothing fails.
    pub(super) fn check<F: Prototype>(&self, module: Option<&CStr>, name: &str) -> Result {
        let mut ours = Line::default();
        F::write(&mut ours).map_err(|_| EINVAL)?;

        let module = module.map_or(Ok(None), Btf::read)?;
        let mut theirs = Line::default();
        match self.tell(module.as_ref(), name, &mut theirs) {
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

    fn tell(
        &self,
        module: Option<&Btf>,
        name: &str,
        out: &mut Line,
    ) -> Result<Option<()>, Unreadable> {
        let kernel = self.kernel.as_ref().ok_or(Unreadable)?;
        let module = module.map(Btf::indexed).transpose()?;
        Types::new(kernel.indexed()?, module).prototype(name, out)
    }
}

/// The BTF of the kernel or of a module.
struct Btf {
    file: VVec<u8>,
    /// Where each type begins.
    index: KVVec<u32>,
}

impl Btf {
    /// Reads it; `None` if there is none, or none that can be read. Fails with
    /// `ENOMEM`.
    fn read(name: &CStr) -> Result<Option<Self>> {
        let Some(file) = read(name)? else {
            return Ok(None);
        };
        let Ok(blob) = Blob::parse(&file) else {
            return Ok(None);
        };
        let mut count = 0;
        if blob.for_each(|_| count += 1).is_err() {
            return Ok(None);
        }
        let mut index = KVVec::with_capacity(count, GFP_KERNEL)?;
        // There is room, and nothing fails: the same walk has counted.
        let _ = blob.for_each(|offset| {
            let _ = index.push(offset, GFP_KERNEL);
        });
        Ok(Some(Self { file, index }))
    }

    fn indexed(&self) -> Result<Indexed<'_>, Unreadable> {
        Ok((Blob::parse(&self.file)?, &self.index))
    }
}

/// Reads a file of `/sys/kernel/btf`, as the task's root directory has it;
/// `None` if it can't be read. Fails with `ENOMEM`. May sleep.
///
/// As any reader does: the kernel's function for reading a whole file is for
/// what will be executed or obeyed, and asks the security modules about that.
fn read(name: &CStr) -> Result<Option<VVec<u8>>> {
    let path = CString::try_from_fmt(fmt!("/sys/kernel/btf/{}", name.to_str()?))?;
    // SAFETY: The path is a C string.
    let file = from_err_ptr(unsafe { raw::filp_open(path.as_char_ptr(), raw::O_RDONLY as i32, 0) });
    let file = match file {
        Err(why) if why == ENOMEM => return Err(why),
        Err(_) => return Ok(None),
        // SAFETY: The file was opened above, and nobody has closed it.
        Ok(file) => ScopeGuard::new_with_data(file, |file| unsafe {
            raw::filp_close(file, ptr::null_mut());
        }),
    };
    // SAFETY: The file is open.
    let size = unsafe { raw::vfs_llseek(*file, 0, raw::SEEK_END as i32) };
    let Ok(size) = usize::try_from(size) else {
        return Ok(None);
    };
    let mut data = VVec::from_elem(0, size, GFP_KERNEL)?;
    let mut position = 0;
    let mut rest = &mut data[..];
    while !rest.is_empty() {
        // SAFETY: The file is open, and that many bytes are ours to write.
        let count =
            unsafe { raw::kernel_read(*file, rest.as_mut_ptr().cast(), rest.len(), &mut position) };
        let Some(left) = usize::try_from(count)
            .ok()
            .filter(|&n| n > 0)
            .and_then(|n| rest.get_mut(n..))
        else {
            return Ok(None);
        };
        rest = left;
    }
    Ok(Some(data))
}

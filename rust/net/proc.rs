// SPDX-License-Identifier: GPL-2.0

//! Files in `/proc/net`, of which each network namespace has its own.
//!
//! C headers: `include/linux/proc_fs.h`, `include/linux/seq_file_net.h`

use super::{namespace::Setup, work::yield_cpu};
use crate::raw;
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ops::Deref,
    pin::Pin,
    ptr::{self, NonNull},
};
use kernel::{
    ffi::{c_int, c_uint, c_void},
    prelude::*,
    seq_file::SeqFile,
};

/// What a file lists, a line for each item.
pub trait List: Send + Sync {
    /// Whether who has opened it needs `CAP_NET_ADMIN` over the network namespace. Not by the mode:
    /// the file's owner is root of the user namespace only if that had a user when the network
    /// namespace was made.
    const FOR_ADMIN: bool;

    /// An item, as it was when it was found: the reader may come back for the next one later.
    type Item: Copy;

    /// Returns the first item, or the one after `last`, which may have gone. May sleep. Nothing
    /// is locked between two calls, so each has to find its place quickly.
    fn after(&self, last: Option<&Self::Item>) -> Option<Self::Item>;

    /// Writes the line of an item, or nothing. May sleep.
    fn show(item: &Self::Item, file: &SeqFile);
}

/// A [`List`] that is read in `/proc/net` as long as this is there.
///
/// # Invariants
///
/// `entry` is that of a file whose data is `list`.
#[pin_data(PinnedDrop)]
pub struct File<'net, L: List> {
    #[pin]
    list: L,
    entry: NonNull<raw::proc_dir_entry>,
    _net: PhantomData<Setup<'net>>,
}

// SAFETY: The entry has locks of its own, and `L` is `Send`.
unsafe impl<L: List> Send for File<'_, L> {}
// SAFETY: As above; `L` is `Sync`.
unsafe impl<L: List> Sync for File<'_, L> {}

/// What belongs to one that has been opened: zeroes at first.
#[repr(C)]
struct Reader<I> {
    /// The kernel's own.
    net: raw::seq_net_private,
    /// Whether there is an item to be shown next.
    is_some: bool,
    next: MaybeUninit<I>,
}

impl<I: Copy> Reader<I> {
    fn get(&self) -> Option<&I> {
        // SAFETY: `set` has put one there.
        self.is_some.then(|| unsafe { self.next.assume_init_ref() })
    }

    /// Returns what the kernel hands to `show`.
    fn set(&mut self, item: Option<I>) -> *mut c_void {
        self.is_some = item.is_some();
        item.map_or(ptr::null_mut(), |item| {
            ptr::from_mut(self.next.write(item)).cast()
        })
    }
}

impl<'net, L: List> File<'net, L> {
    const OPS: &'static raw::seq_operations = &raw::seq_operations {
        start: Some(Self::start),
        stop: Some(Self::stop),
        next: Some(Self::next),
        show: Some(Self::show),
    };

    /// Makes the file of this name, which no other may have, in `net`. May sleep. Fails with
    /// `ENOMEM`. Mirrors `proc_create_net_data()`.
    pub fn new(
        net: Setup<'net>,
        name: &'static CStr,
        list: impl PinInit<L, Error>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            list <- list,
            entry: {
                // SAFETY: The namespace has its directory longer than modules have data. The list is
                // there, and stays where it is until `drop` has removed the file.
                let entry = unsafe {
                    raw::proc_create_net_data(
                        name.as_char_ptr(),
                        0o444,
                        raw::xfrm_next_proc_net(net.as_ptr()),
                        Self::OPS,
                        size_of::<Reader<L::Item>>() as c_uint,
                        (&raw mut (*this.as_ptr()).list).cast(),
                    )
                };
                NonNull::new(entry).ok_or(ENOMEM)?
            },
            _net: PhantomData,
        }? Error)
    }

    /// # Safety
    ///
    /// `seq` is one of a file of ours, and the caller's alone.
    unsafe fn parts<'a>(seq: *mut raw::seq_file) -> (&'a L, &'a mut Reader<L::Item>) {
        // SAFETY: Who reads has opened it with a `Reader`; and removing the file, which comes before
        // the list goes, waits for who is reading it.
        unsafe {
            let list: *const L = raw::xfrm_next_seq_data(seq).cast();
            (&*list, &mut *(*seq).private.cast())
        }
    }

    /// # Safety
    ///
    /// These are for the kernel, as operations of the file.
    unsafe extern "C" fn start(seq: *mut raw::seq_file, at: *mut i64) -> *mut c_void {
        // SAFETY: The kernel promises it.
        let ((list, reader), at) = unsafe {
            if L::FOR_ADMIN && !raw::xfrm_next_seq_is_admin(seq) {
                return EPERM.to_ptr();
            }
            (Self::parts(seq), *at)
        };
        // Else it goes on where it stopped.
        let item = if at == 0 {
            list.after(None)
        } else {
            reader.get().copied()
        };
        reader.set(item)
    }

    /// # Safety
    ///
    /// As above.
    unsafe extern "C" fn next(
        seq: *mut raw::seq_file,
        _item: *mut c_void,
        at: *mut i64,
    ) -> *mut c_void {
        yield_cpu();
        // SAFETY: The kernel promises it.
        let (list, reader) = unsafe {
            *at += 1;
            Self::parts(seq)
        };
        let item = reader.get().and_then(|last| list.after(Some(last)));
        reader.set(item)
    }

    /// # Safety
    ///
    /// As above.
    unsafe extern "C" fn stop(_seq: *mut raw::seq_file, _item: *mut c_void) {}

    /// # Safety
    ///
    /// As above; the item is what `start` or `next` has returned last.
    unsafe extern "C" fn show(seq: *mut raw::seq_file, item: *mut c_void) -> c_int {
        // SAFETY: The kernel promises it, and that both are the caller's alone.
        unsafe { L::show(&*item.cast(), SeqFile::from_raw(seq.cast())) };
        0
    }
}

impl<L: List> Deref for File<'_, L> {
    type Target = L;

    fn deref(&self) -> &L {
        &self.list
    }
}

#[pinned_drop]
impl<L: List> PinnedDrop for File<'_, L> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant. This waits for those who are reading; who has it open
        // can't read it afterwards.
        unsafe { raw::proc_remove(self.entry.as_ptr()) }
    }
}

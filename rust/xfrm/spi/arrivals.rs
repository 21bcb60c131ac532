// SPDX-License-Identifier: GPL-2.0

//! Hearing of each SA of a namespace that has an SPI, however it came.
//!
//! The kernel has one list of all SAs, and whatever adds an SA puts it at the
//! front. So a bookmark in that list has behind it what has been read, and in
//! front of it what has come since; nothing has to be told to us, and no SA
//! costs anything before it is asked for. The kernel's own dumps leave entries
//! of their own in the list in the same way, which look like dead SAs.
//!
//! Mirrors `xfrm_state_walk()` of `net/xfrm/xfrm_state.c`, the other way round.

use crate::{
    net::{namespace::Setup, Namespace},
    raw,
    xfrm::{state::tables::listed, State, Table},
};
use core::{marker::PhantomData, pin::Pin};
use kernel::{prelude::*, types::Opaque};

/// A place in the list of the SAs of one namespace, as long as that is there. SAs
/// without an SPI are passed over: they come anew when they get one.
///
/// # Invariants
///
/// The bookmark is in the list of `net`, whose lock protects its links.
///
/// # Examples
///
/// ```ignore
/// /// Whether an SA with an SPI has come since the last call.
/// fn is_news(net: &Namespace, arrivals: &Arrivals<'_>) -> bool {
///     let table = Table::lock(net);
///     matches!(arrivals.next(&table), Next::Unread(unread) if unread.read().has_spi())
/// }
/// ```
#[pin_data(PinnedDrop)]
pub struct Arrivals<'net> {
    /// A whole SA, zeroed but for being dead: xfrm_state_lookup_byspi() takes
    /// entries for SAs without looking whether they are.
    #[pin]
    bookmark: Opaque<raw::xfrm_state>,
    net: *mut raw::net,
    _net: PhantomData<Setup<'net>>,
}

/// What [`Arrivals::next`] has found.
pub enum Next<'t> {
    /// The oldest SA that hasn't been read.
    Unread(Unread<'t>),
    /// Many SAs that needn't be read. Others may lock the tables before it goes on.
    Passed,
    /// All have been read.
    Nothing,
}

/// An SA that hasn't been read.
///
/// # Invariants
///
/// It is in the list of the namespace of `arrivals`, whose tables are locked.
pub struct Unread<'t> {
    state: &'t State,
    arrivals: &'t Arrivals<'t>,
}

impl<'t> Unread<'t> {
    /// Reads it.
    pub fn read(self) -> &'t State {
        // SAFETY: By the type invariant.
        unsafe {
            let entry = &raw mut (*self.state.as_ptr()).km.all;
            self.arrivals.pass(entry);
        }
        self.state
    }
}

/// How many SAs without an SPI are passed over with the tables locked.
const AT_ONCE: usize = 64;

// SAFETY: Nothing is bound to a thread.
unsafe impl Send for Arrivals<'_> {}
// SAFETY: The links are touched under the lock of the tables only.
unsafe impl Sync for Arrivals<'_> {}

impl<'net> Arrivals<'net> {
    /// Starts with all SAs unread. Any context.
    pub fn new(net: Setup<'net>) -> impl PinInit<Self> {
        pin_init!(Self {
            bookmark <- Opaque::ffi_init(move |bookmark: *mut raw::xfrm_state| {
                // SAFETY: The namespace is valid, and the kernel's own part of it, which
                // the tables are, is there before and after that of any module.
                let table = Table::lock(unsafe { Namespace::from_raw(net.as_ptr()) });
                // SAFETY: The bookmark is ours and stays where it is. The list
                // is that of a valid namespace, whose lock we hold.
                unsafe {
                    bookmark.write_bytes(0, 1);
                    (*bookmark).km.state = raw::XFRM_STATE_DEAD as u8;
                    raw::xfrm_next_list_add_tail(&raw mut (*bookmark).km.all, table.all());
                }
            }),
            net: net.as_ptr(),
            _net: PhantomData,
        })
    }

    /// Finds the oldest one that hasn't been read. `table` is that of our
    /// namespace; in another one there is nothing to be read.
    pub fn next<'t>(&'t self, table: &'t Table<'_>) -> Next<'t> {
        if table.net().as_ptr() != self.net {
            return Next::Nothing;
        }
        for _ in 0..AT_ONCE {
            // SAFETY: By the type invariant the bookmark is in the list, and its
            // lock is held. What is in front of it is the head, or an entry.
            unsafe {
                let entry = (*self.bookmark.get()).km.all.prev;
                if entry == table.all() {
                    return Next::Nothing;
                }
                if let Some(state) = listed(entry).filter(|state| state.has_spi()) {
                    let arrivals = self;
                    // INVARIANT: It is listed.
                    return Next::Unread(Unread { state, arrivals });
                }
                self.pass(entry);
            }
        }
        Next::Passed
    }

    /// Takes all SAs for unread again. Takes `xfrm_state_lock`.
    pub fn restart(&self) {
        let table = self.lock();
        // SAFETY: By the type invariant it is in the list, and its lock is held. At the
        // head's end nothing is behind it.
        unsafe { self.pass(table.all()) }
    }

    /// Returns how many SAs the namespace has. Takes `xfrm_state_lock`.
    pub fn states(&self) -> u32 {
        self.lock().len()
    }

    fn lock(&self) -> Table<'_> {
        // SAFETY: The namespace is valid during `'net`, and the kernel's own part of it,
        // which the tables are, is there before and after that of any module.
        Table::lock(unsafe { Namespace::from_raw(self.net) })
    }

    /// Moves on to the front of this entry.
    ///
    /// # Safety
    ///
    /// It must be in the list, and the lock held.
    unsafe fn pass(&self, entry: *mut raw::list_head) {
        // SAFETY: The caller promises it; by the type invariant we are in the
        // same list.
        unsafe { raw::xfrm_next_list_move_tail(&raw mut (*self.bookmark.get()).km.all, entry) }
    }
}

#[pinned_drop]
impl PinnedDrop for Arrivals<'_> {
    fn drop(self: Pin<&mut Self>) {
        let _table = self.lock();
        // SAFETY: By the type invariant it is in the list, and we hold its lock.
        unsafe { raw::xfrm_next_list_del_init(&raw mut (*self.bookmark.get()).km.all) }
    }
}

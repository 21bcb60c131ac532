// SPDX-License-Identifier: GPL-2.0

//! Larval SAs: those that wait for their keys, and maybe for an SPI.
//!
//! The kernel makes one when a packet needs an SA that isn't there (and sends an
//! `ACQUIRE`), or when somebody asks for an SPI; the SA with the keys replaces it.
//!
//! C source: `net/xfrm/xfrm_state.c`, `net/xfrm/xfrm_user.c`

use crate::{
    net::{
        message::{attribute_size, Message},
        Namespace,
    },
    raw,
    xfrm::{
        state::Locked,
        uapi::{attr, Address, Id, Mark, SaInfo, MSG_NEWSA},
        State, Table,
    },
};
use kernel::{
    prelude::*,
    sync::{aref::ARef, rcu},
};

/// What a larval SA is told by.
pub struct Wanted {
    /// Destination, protocol and family; the SPI doesn't matter.
    pub id: Id,
    /// Source.
    pub saddr: Address,
    /// The number by which the kernel has asked for it, or 0.
    pub seq: u32,
    /// `XFRM_MODE_*`.
    pub mode: u8,
    /// What its policies name it by, 0 for nothing.
    pub reqid: u32,
    /// Mark by which it is found.
    pub mark: Mark,
    /// Number of its XFRM interface, 0 for none.
    pub if_id: u32,
    /// CPU, or `u32::MAX`.
    pub pcpu_num: u32,
}

/// Returns the larval SA with this number, else one like it, else a new one.
/// `None` if there is no memory. Doesn't sleep; takes `xfrm_state_lock`.
///
/// Mirrors a part of `xfrm_alloc_userspi()`.
///
/// # Examples
///
/// An SPI that the sender has chosen:
///
/// ```ignore
/// fn reserve(net: &Namespace, wanted: &Wanted) -> Result<ARef<State>> {
///     let state = larval::find_or_make(net, wanted).ok_or(ENOMEM)?;
///     {
///         let locked = state.lock();
///         let table = Table::lock(net);
///         if table.with_id(&wanted.id).next().is_some() {
///             return Err(EEXIST);
///         }
///         locked.give_spi(wanted.id.spi, None, &table);
///     }
///     Ok(state)
/// }
/// ```
pub fn find_or_make(net: &Namespace, wanted: &Wanted) -> Option<ARef<State>> {
    find(net, wanted, true)
}

/// Deletes the SA of `net` that waits for one like `state`: one that was made by an
/// `ACQUIRE`, and has no SPI. May not be called under locks.
///
/// Mirrors the last part of `xfrm_state_add()`.
pub(in crate::xfrm) fn resolve(state: &State, net: &Namespace) {
    let x = state.as_ptr();
    // SAFETY: The SA is valid, and what is read of it doesn't change.
    let wanted = unsafe {
        Wanted {
            id: state.id(),
            saddr: (*x).props.saddr.into(),
            seq: (*x).km.seq,
            mode: (*x).props.mode,
            reqid: (*x).props.reqid,
            mark: state.mark(),
            if_id: (*x).if_id,
            pcpu_num: (*x).pcpu_num,
        }
    };
    if let Some(larval) = find(net, &wanted, false) {
        // SAFETY: The SA is valid.
        unsafe { raw::xfrm_state_delete(larval.as_ptr()) };
    }
}

/// Returns the larval SA with this number, else one like it, else a new one if it is to
/// `make` one.
fn find(net: &Namespace, wanted: &Wanted, make: bool) -> Option<ARef<State>> {
    let id = &wanted.id;
    if wanted.seq != 0 {
        // SAFETY: The namespace is valid. What is returned is null or comes with a
        // reference.
        let state = unsafe {
            let mark = wanted.mark.masked().v;
            State::owned(raw::xfrm_find_acq_byseq(
                net.as_ptr(),
                mark,
                wanted.seq,
                wanted.pcpu_num,
            ))
        };
        // Of the functions mirrored here, xfrm_state_add() alone minds the protocol.
        let fits = |other: Id| {
            other.daddr.equals(&id.daddr, id.family) && (make || other.proto == id.proto)
        };
        if let Some(state) = state.filter(|x| fits(x.id())) {
            return Some(state);
        }
    }
    // SAFETY: The namespace is valid; the addresses are read only, and have
    // the layout of `xfrm_address_t`. What is returned is null or comes with a
    // reference.
    unsafe {
        State::owned(raw::xfrm_find_acq(
            net.as_ptr(),
            &wanted.mark.into(),
            wanted.mode,
            wanted.reqid,
            wanted.if_id,
            wanted.pcpu_num,
            id.proto,
            (&raw const id.daddr).cast(),
            (&raw const wanted.saddr).cast(),
            make.into(),
            id.family,
        ))
    }
}

/// Whether the kernel could have a CPU with this number. Any context.
pub fn is_cpu(number: u32) -> bool {
    // SAFETY: It may be called anywhere.
    number < unsafe { raw::xfrm_next_num_possible_cpus() }
}

impl Locked<'_> {
    /// Whether the SA has been deleted, or has expired.
    pub fn is_dead(&self) -> bool {
        self.state().is_dead()
    }

    /// Whether the SA is in the list of all of this namespace: neither dead nor replaced.
    fn is_listed(&self, table: &Table<'_>) -> bool {
        let state = self.state();
        // SAFETY: The SA is valid; the lock of the list is held if it is of that namespace.
        !self.is_dead()
            && state.is_of(table.net())
            && unsafe {
                let entry = &raw mut (*state.as_ptr()).km.all;
                !(*entry).next.is_null() && (*entry).next != entry
            }
    }

    /// Gives an SPI to the SA, in network byte order, and a direction, `XFRM_SA_DIR_*`,
    /// if there is one. An SA that has an SPI, is dead or of another namespace than
    /// `table` is left alone. The caller has seen in the table, under the same hold of
    /// its lock, that nobody is in the way.
    ///
    /// It counts as having come just now, so whoever reads the arrivals hears
    /// of it once more. Mirrors a part of `xfrm_alloc_spi()`.
    pub fn give_spi(&self, spi: [u8; 4], dir: Option<u8>, table: &Table<'_>) {
        let x = self.as_ptr();
        let state = self.state();
        if state.has_spi() || !self.is_listed(table) {
            return;
        }
        // SAFETY: We hold the lock of the SA and that of its tables, which are in the list of
        // all. It isn't in that of SPIs, having none.
        unsafe {
            (*x).id.spi = u32::from_ne_bytes(spi);
            if let Some(dir) = dir {
                state.put_dir(dir);
            }
            table.insert_by_spi(x);
            raw::xfrm_next_list_move(&raw mut (*x).km.all, table.all());
        }
    }

    /// Changes the direction of an SA that has an SPI, `XFRM_SA_DIR_*`. As for
    /// [`Self::give_spi`], and that it counts as having come just now, too.
    pub fn change_dir(&self, dir: u8, table: &Table<'_>) {
        let state = self.state();
        if state.dir() == dir || !self.is_listed(table) {
            return;
        }
        // SAFETY: As above.
        unsafe {
            state.put_dir(dir);
            raw::xfrm_next_list_move(&raw mut (*self.as_ptr()).km.all, table.all());
        }
    }
}

impl State {
    /// Whether the SA has an SPI. Any context; it keeps one, and gets one only under
    /// [`State::lock`].
    pub fn has_spi(&self) -> bool {
        self.spi() != [0; 4]
    }

    /// Whether the SA is of this namespace. Any context.
    pub(in crate::xfrm) fn is_of(&self, net: &Namespace) -> bool {
        // SAFETY: The SA is valid.
        unsafe { raw::xfrm_next_state_net(self.as_ptr()) == net.as_ptr() }
    }

    /// # Safety
    ///
    /// Whoever has read the SA as an arrival has to hear of it once more.
    unsafe fn put_dir(&self, dir: u8) {
        // SAFETY: The SA is valid; one access.
        unsafe { (&raw mut (*self.as_ptr()).dir).write_volatile(dir) }
    }

    /// Returns the fixed part of messages about the SA. Any context.
    ///
    /// Mirrors `copy_to_user_state()`.
    fn info(&self) -> SaInfo {
        let id = self.id();
        {
            let _rcu = rcu::read_lock();
            // SAFETY: The SA is valid, and the device, of which it asks for
            // counters if there is one, stays under RCU.
            unsafe { raw::xfrm_next_dev_state_update_stats(self.as_ptr()) }
        }
        let x = self.as_ptr();
        // SAFETY: The SA is valid. What changes are counters, which nobody expects to
        // be of one moment: these are read by volatile accesses, as eight, four and three
        // numbers.
        unsafe {
            SaInfo {
                sel: self.selector(),
                daddr: id.daddr,
                spi: id.spi,
                proto: id.proto,
                pad: [0; 3],
                saddr: (*x).props.saddr.into(),
                lft: (&raw const (*x).lft).cast::<[_; 8]>().read_volatile(),
                curlft: (&raw const (*x).curlft).cast::<[_; 4]>().read_volatile(),
                stats: (&raw const (*x).stats).cast::<[_; 3]>().read_volatile(),
                seq: (*x).km.seq,
                reqid: (*x).props.reqid,
                family: id.family,
                mode: (*x).props.mode,
                replay_window: (*x).props.replay_window,
                flags: (*x).props.flags,
                pad2: [0; 7],
            }
        }
    }
}

/// Builds the message that answers who asked for a larval SA: `portid` and
/// `seq` are of the request. May sleep. Fails with `ENOMEM`.
///
/// Mirrors `xfrm_state_netlink()` as far as larval SAs have what that shows.
pub fn message(state: &State, portid: u32, seq: u32) -> Result<Message> {
    // SAFETY: The SA is valid. What a larval one has is set before it is found; the
    // counters of another may change.
    let (replay, if_id, pcpu_num) = unsafe {
        let x = state.as_ptr();
        let replay = (&raw const (*x).replay).read_volatile();
        (replay, (*x).if_id, (*x).pcpu_num)
    };
    let context = state.security_context()?;
    let room = attribute_size(size_of::<raw::xfrm_replay_state>())
        + attribute_size(size_of::<Mark>())
        + 2 * attribute_size(size_of::<u64>())
        + 2 * attribute_size(size_of::<u32>())
        + attribute_size(context.len());
    let mut message = Message::new(portid, seq, MSG_NEWSA, &state.info(), room)?;

    let mark = state.mark();
    if mark.is_set() {
        message.put(attr::MARK, &mark)?;
    }
    message.put(attr::REPLAY_VAL, &[replay.oseq, replay.seq, replay.bitmap])?;
    if let Some(offload) = state.offload() {
        message.put(attr::OFFLOAD_DEV, &offload)?;
    }
    if if_id != 0 {
        message.put(attr::IF_ID, &if_id)?;
    }
    if !context.is_empty() {
        message.put(attr::SEC_CTX, &context[..])?;
    }
    if pcpu_num != u32::MAX {
        message.put(attr::SA_PCPU, &pcpu_num)?;
    }
    if state.dir() != 0 {
        message.put(attr::SA_DIR, &state.dir())?;
    }
    Ok(message)
}

#[kernel::macros::kunit_tests(xfrm_next_larval)]
mod tests {
    use super::*;
    use crate::xfrm::{state::lookup, uapi};

    const ID: Id = Id {
        daddr: Address([192, 0, 2, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        spi: [0x5a, 0xa5, 0x5a, 0xa5],
        family: uapi::AF_INET,
        proto: uapi::IPPROTO_ESP,
        pad: 0,
    };

    fn wanted(reqid: u32) -> Wanted {
        Wanted {
            id: ID,
            saddr: Address([192, 0, 2, 98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            seq: 0,
            mode: 0,
            reqid,
            mark: Mark::default(),
            if_id: 0,
            pcpu_num: u32::MAX,
        }
    }

    /// Deletes an SA in the end, also if the test fails.
    struct Deleted(ARef<State>);

    impl Drop for Deleted {
        fn drop(&mut self) {
            // SAFETY: The SA is valid.
            unsafe { raw::xfrm_state_delete(self.0.as_ptr()) };
        }
    }

    fn make(reqid: u32) -> Result<Deleted> {
        let state = find_or_make(Namespace::first(), &wanted(reqid)).ok_or(ENOMEM)?;
        Ok(Deleted(state))
    }

    #[test]
    fn one_for_each_that_is_wanted() -> Result {
        let net = Namespace::first();
        let (one, other) = (make(1)?, make(2)?);
        assert!(!core::ptr::eq(&*one.0, &*other.0));
        assert!(core::ptr::eq(&*one.0, &*make(1)?.0));
        // The line above has deleted it.
        let dead = one.0.lock().is_dead();
        let others = other.0.lock().is_dead();
        assert_eq!((dead, others), (true, false));
        assert!(other.0.is_of(net));
        assert_eq!(other.0.phase(), raw::XFRM_STATE_ACQ);
        Ok(())
    }

    #[test]
    fn found_by_its_spi_once_it_has_one() -> Result {
        let net = Namespace::first();
        let state = make(3)?;
        assert!(!state.0.has_spi());
        assert!(lookup::find(net, &ID, 0, |_| true).is_none());

        // A test that fails ends at once, so not under locks.
        let (before, after, listed, len) = {
            let locked = state.0.lock();
            let table = Table::lock(net);
            let before = table.with_id(&ID).count();
            locked.give_spi(ID.spi, None, &table);
            // It keeps the one that it has.
            locked.give_spi([0xff; 4], None, &table);
            let listed = table.iter().any(|other| core::ptr::eq(other, &*state.0));
            (before, table.with_id(&ID).count(), listed, table.len())
        };
        assert_eq!((before, after, listed), (0, 1, true));
        assert!(len > 0);
        assert!(state.0.id() == ID);
        let found = lookup::find(net, &ID, 0, |_| true);
        assert!(found.is_some_and(|found| core::ptr::eq(&*found, &*state.0)));
        assert!(lookup::find(net, &ID, 0, |other| other.mark().is_set()).is_none());
        assert!(message(&state.0, 1, 2).is_ok());

        drop(state);
        assert!(lookup::find(net, &ID, 0, |_| true).is_none());
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Larval SAs: those that wait for their keys, and maybe for an SPI.
//!
//! C source: `net/xfrm/xfrm_state.c`, `net/xfrm/xfrm_user.c`

use super::{
    lookup::{chain, Table},
    state::{address, Locked},
    uapi::{attr, Address, Id, Mark, SaInfo, MSG_NEWSA},
    State,
};
use crate::{
    net::{
        message::{attribute_size, Message},
        Namespace,
    },
    raw,
};
use core::{ptr::NonNull, slice};
use kernel::{prelude::*, sync::aref::ARef};

/// What a larval SA is told by.
pub struct Wanted {
    /// Destination, protocol and family; the SPI doesn't matter.
    pub id: Id,
    /// Source.
    pub saddr: Address,
    /// The number by which the kernel has asked for it, or 0.
    pub seq: u32,
    pub mode: u8,
    pub reqid: u32,
    pub mark: Mark,
    pub if_id: u32,
    /// CPU, or `u32::MAX`.
    pub pcpu_num: u32,
}

/// Returns the larval SA with this number, else one like it, else a new one.
/// `None` if there is no memory.
///
/// Mirrors what `xfrm_alloc_userspi()` does.
pub fn find_or_make(net: &Namespace, wanted: &Wanted) -> Option<ARef<State>> {
    let id = &wanted.id;
    let mark = raw::xfrm_mark {
        v: wanted.mark.v,
        m: wanted.mark.m,
    };
    if wanted.seq != 0 {
        // SAFETY: The namespace is valid.
        let state = unsafe {
            let mark = wanted.mark.masked().v;
            raw::xfrm_find_acq_byseq(net.as_ptr(), mark, wanted.seq, wanted.pcpu_num)
        };
        // SAFETY: It is null or comes with a reference.
        let state = unsafe { owned(state) };
        if let Some(state) = state.filter(|x| x.id().daddr.equals(&id.daddr, id.family)) {
            return Some(state);
        }
    }
    // SAFETY: The namespace is valid; the addresses are read only, and have
    // the layout of `xfrm_address_t`. What is returned is null or comes with a
    // reference.
    unsafe {
        owned(raw::xfrm_find_acq(
            net.as_ptr(),
            &mark,
            wanted.mode,
            wanted.reqid,
            wanted.if_id,
            wanted.pcpu_num,
            id.proto,
            (&raw const id.daddr).cast(),
            (&raw const wanted.saddr).cast(),
            1,
            id.family,
        ))
    }
}

/// # Safety
///
/// `state` must be null, or come with a reference that the caller gives up.
unsafe fn owned(state: *mut raw::xfrm_state) -> Option<ARef<State>> {
    // SAFETY: The caller promises it.
    NonNull::new(state).map(|state| unsafe { ARef::from_raw(state.cast()) })
}

/// Whether the kernel could have a CPU with this number.
pub fn is_cpu(number: u32) -> bool {
    // SAFETY: It may be called anywhere.
    number < unsafe { raw::xfrm_next_num_possible_cpus() }
}

impl Locked<'_> {
    /// Whether the SA has been deleted, or has expired.
    pub fn is_dead(&self) -> bool {
        self.state().phase() == raw::XFRM_STATE_DEAD
    }

    /// Gives an SPI to the SA, in network byte order. One that has an SPI or is
    /// dead is left alone. `table` is that of its namespace.
    ///
    /// It counts as having come just now, so whoever reads the arrivals hears
    /// of it once more. Mirrors a part of `xfrm_alloc_spi()`.
    pub fn give_spi(&self, spi: [u8; 4], table: &Table<'_>) {
        let x = self.as_ptr();
        let same_net = core::ptr::eq(self.state().net(), table.net());
        if self.state().has_spi() || self.is_dead() || !same_net {
            return;
        }
        let id = Id {
            spi,
            ..self.state().id()
        };
        // SAFETY: We hold the lock of the SA and that of its tables. It isn't in
        // that of SPIs, having none. While it isn't dead, the list of all holds
        // it, or nothing does.
        unsafe {
            (*x).id.spi = u32::from_ne_bytes(spi);
            insert(x, chain(table.net(), &id));
            raw::xfrm_next_list_move(
                &raw mut (*x).km.all,
                &raw mut (*table.net().as_ptr()).xfrm.state_all,
            );
        }
    }
}

/// Puts an SA into a chain of the table of SPIs, behind those that a device
/// handles by itself.
///
/// Mirrors `XFRM_STATE_INSERT()`.
///
/// # Safety
///
/// The SA isn't in the table, the chain is the right one, and its lock is held.
unsafe fn insert(x: *mut raw::xfrm_state, chain: *mut raw::hlist_head) {
    // SAFETY: The caller promises it; what is in the chain stays there.
    unsafe {
        let by_device =
            |x: *mut raw::xfrm_state| u32::from((*x).xso.type_()) == raw::XFRM_DEV_OFFLOAD_PACKET;
        let mut other = raw::xfrm_next_state_first_byspi(chain);
        while !other.is_null() && by_device(other) {
            other = raw::xfrm_next_state_next_byspi(other);
        }
        if by_device(x) || other.is_null() {
            raw::xfrm_next_hlist_add_head_rcu(&raw mut (*x).byspi, chain);
        } else {
            raw::xfrm_next_hlist_add_before_rcu(&raw mut (*x).byspi, &raw mut (*other).byspi);
        }
    }
}

impl State {
    /// Whether the SA has an SPI.
    pub fn has_spi(&self) -> bool {
        self.id().spi != [0; 4]
    }

    /// Marks a larval SA with a direction. The caller holds `xfrm_cfg_mutex`.
    pub fn set_dir(&self, dir: u8) {
        // SAFETY: The SA is valid; one access.
        unsafe { (&raw mut (*self.as_ptr()).dir).write_volatile(dir) }
    }

    /// Returns the fixed part of messages about the SA.
    ///
    /// Mirrors `copy_to_user_state()`.
    fn info(&self) -> SaInfo {
        let id = self.id();
        // SAFETY: The SA is valid. What changes are counters, which nobody
        // expects to be of one moment; the layouts are the same.
        let x = unsafe { &*self.as_ptr() };
        if !x.xso.dev.is_null() {
            // SAFETY: The SA is valid.
            unsafe { raw::xfrm_next_dev_state_update_stats(self.as_ptr()) }
        }
        SaInfo {
            sel: self.selector(),
            daddr: id.daddr,
            spi: id.spi,
            proto: id.proto,
            pad: [0; 3],
            saddr: address(&x.props.saddr),
            // SAFETY: Both are eight numbers.
            lft: unsafe { core::mem::transmute_copy(&x.lft) },
            // SAFETY: Both are four numbers.
            curlft: unsafe { core::mem::transmute_copy(&x.curlft) },
            stats: [
                x.stats.replay_window,
                x.stats.replay,
                x.stats.integrity_failed,
            ],
            seq: x.km.seq,
            reqid: x.props.reqid,
            family: id.family,
            mode: x.props.mode,
            replay_window: x.props.replay_window,
            flags: x.props.flags,
            pad2: [0; 7],
        }
    }
}

/// Builds the message that answers who asked for a larval SA: `portid` and
/// `seq` are of the request. May sleep. Fails with `ENOMEM`.
///
/// Mirrors `xfrm_state_netlink()` as far as larval SAs have what that shows.
pub fn message(state: &State, portid: u32, seq: u32) -> Result<Message> {
    // SAFETY: The SA is valid; what a larval one has is set before it is found.
    let x = unsafe { &*state.as_ptr() };
    let context = security_context(x)?;
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
    let replay = &x.replay;
    message.put(attr::REPLAY_VAL, &[replay.oseq, replay.seq, replay.bitmap])?;
    if let Some(offload) = state.offload() {
        message.put(attr::OFFLOAD_DEV, &offload)?;
    }
    if x.if_id != 0 {
        message.put(attr::IF_ID, &x.if_id)?;
    }
    if !context.is_empty() {
        message.put(attr::SEC_CTX, &context[..])?;
    }
    if x.pcpu_num != u32::MAX {
        message.put(attr::SA_PCPU, &x.pcpu_num)?;
    }
    if state.dir() != 0 {
        message.put(attr::SA_DIR, &state.dir())?;
    }
    Ok(message)
}

/// Returns `struct xfrm_user_sec_ctx` with its text; nothing if the SA has no
/// context. Fails with `ENOMEM`.
///
/// Mirrors `copy_sec_ctx()`.
fn security_context(x: &raw::xfrm_state) -> Result<KVec<u8>> {
    let mut bytes = KVec::new();

    // SAFETY: A context is freed with its SA.
    if let Some(context) = unsafe { x.security.as_ref() } {
        let size = size_of::<raw::xfrm_user_sec_ctx>() as u16 + context.ctx_len;
        bytes.extend_from_slice(&size.to_ne_bytes(), GFP_KERNEL)?;
        bytes.extend_from_slice(&attr::SEC_CTX.to_ne_bytes(), GFP_KERNEL)?;
        bytes.extend_from_slice(&[context.ctx_alg, context.ctx_doi], GFP_KERNEL)?;
        bytes.extend_from_slice(&context.ctx_len.to_ne_bytes(), GFP_KERNEL)?;
        // SAFETY: The text has this length.
        let text = unsafe {
            slice::from_raw_parts(context.ctx_str.as_ptr().cast(), context.ctx_len.into())
        };
        bytes.extend_from_slice(text, GFP_KERNEL)?;
    }
    Ok(bytes)
}

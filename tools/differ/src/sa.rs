// SPDX-License-Identifier: GPL-2.0

//! SAs as NEWSA and a dump have them.

use crate::generate::is_ours;
use crate::message::{flag, kind, read, Message};
use module::xfrm::uapi::{Address, Encap, Mark, Offload, SaInfo, Selector, AF_INET6};
use zerocopy::{transmute, IntoBytes};

/// Attribute types beside those of [`module::xfrm::uapi::attr`].
pub mod attr {
    pub use module::xfrm::uapi::attr::*;

    pub const ALG_AUTH: u16 = 1;
    pub const ALG_CRYPT: u16 = 2;
    pub const ALG_COMP: u16 = 3;
    pub const TMPL: u16 = 5;
    pub const LTIME_VAL: u16 = 9;
    pub const REPLAY_VAL: u16 = 10;
    pub const REPLAY_THRESH: u16 = 11;
    pub const ETIMER_THRESH: u16 = 12;
    pub const COADDR: u16 = 14;
    pub const LASTUSED: u16 = 15;
    pub const ALG_AEAD: u16 = 18;
    pub const ALG_AUTH_TRUNC: u16 = 20;
    pub const TFCPAD: u16 = 22;
    pub const REPLAY_ESN_VAL: u16 = 23;
    pub const SA_EXTRA_FLAGS: u16 = 24;
    pub const IF_ID: u16 = 31;
    pub const SA_PCPU: u16 = 35;
    pub const IPTFS_DROP_TIME: u16 = 36;
    pub const IPTFS_PKT_SIZE: u16 = 41;
}

pub const ESP: u8 = 50;
pub const AH: u8 = 51;
pub const COMP: u8 = 108;
/// Protocols of what IPComp keeps for itself, in IPv4 and IPv6.
pub const IPIP: u8 = 4;
pub const IPV6: u8 = 41;
pub const HIDDEN: [u8; 2] = [IPIP, IPV6];

pub const TRANSPORT: u8 = 0;
pub const TUNNEL: u8 = 1;
pub const BEET: u8 = 4;
pub const IPTFS: u8 = 5;

/// Any time since the tester was started.
const RECENT: u64 = 1;
const LONG_AGO: u64 = 1_600_000_000;

/// An ESP SA in transport mode, without limits.
pub fn plain(src: Address, dst: Address, family: u16, spi: u32) -> SaInfo {
    SaInfo {
        daddr: dst,
        saddr: src,
        spi: spi.to_be_bytes(),
        proto: ESP,
        lft: transmute!([u64::MAX, u64::MAX, u64::MAX, u64::MAX, 0, 0, 0, 0]),
        family,
        ..SaInfo::default()
    }
}

/// The traffic between the ends of an SA.
pub fn ends(info: &SaInfo) -> Selector {
    let host = host_prefix(info.family);
    Selector {
        daddr: info.daddr,
        saddr: info.saddr,
        family: info.family,
        prefixlen_d: host,
        prefixlen_s: host,
        ..Selector::default()
    }
}

/// An SA, or a request for one.
pub trait Sa {
    fn info(&self) -> SaInfo;
    fn set_info(&mut self, info: &SaInfo);
    fn mark(&self) -> Mark;
    fn encap(&self) -> Option<Encap>;
    fn offload(&self) -> Option<Offload>;
    fn number(&self, kind: u16) -> u32;
    fn dir(&self) -> u8;
    fn is_larval(&self) -> bool;
    /// Whether the kernel made it for another SA.
    fn is_hidden(&self) -> bool;
    /// Whether it is found by this id and mark.
    fn takes(&self, daddr: &Address, spi: [u8; 4], proto: u8, family: u16, mark: u32) -> bool;
}

impl Sa for Message {
    fn info(&self) -> SaInfo {
        read(&self.body).expect("an SA has its fixed part")
    }

    fn set_info(&mut self, info: &SaInfo) {
        self.body[..size_of::<SaInfo>()].copy_from_slice(info.as_bytes());
    }

    fn mark(&self) -> Mark {
        self.attr(attr::MARK).and_then(read).unwrap_or_default()
    }

    fn encap(&self) -> Option<Encap> {
        self.attr(attr::ENCAP).and_then(read)
    }

    fn offload(&self) -> Option<Offload> {
        self.attr(attr::OFFLOAD_DEV).and_then(read)
    }

    fn number(&self, kind: u16) -> u32 {
        self.attr(kind).and_then(read).unwrap_or_default()
    }

    fn dir(&self) -> u8 {
        self.attr(attr::SA_DIR).map_or(0, |value| value[0])
    }

    fn is_larval(&self) -> bool {
        let keys = [
            attr::ALG_AUTH,
            attr::ALG_CRYPT,
            attr::ALG_COMP,
            attr::ALG_AEAD,
        ];
        !self.is_hidden() && keys.iter().all(|kind| self.attr(*kind).is_none())
    }

    fn is_hidden(&self) -> bool {
        HIDDEN.contains(&self.info().proto)
    }

    fn takes(&self, daddr: &Address, spi: [u8; 4], proto: u8, family: u16, mark: u32) -> bool {
        let info = self.info();
        let own = self.mark();
        info.spi == spi
            && info.proto == proto
            && info.family == family
            && info.daddr.equals(daddr, family)
            && mark & own.m == own.v
    }
}

/// Makes what a dump or an event says about an SA comparable.
pub fn settle(message: &mut Message) {
    if message.kind == kind::ACQUIRE || message.kind == kind::GETAE {
        return;
    }
    let mut info = message.info();
    let mut used: [u64; 4] = transmute!(info.curlft);
    for time in used[2..].iter_mut().filter(|time| **time > LONG_AGO) {
        *time = RECENT;
    }
    info.curlft = transmute!(used);
    if message.kind == kind::NEWSA && message.is_larval() {
        info.seq = 0; // counted for all namespaces
    }
    if info.proto == IPV6 {
        info.spi = [0; 4]; // counted for all that were ever made
    }
    message.set_info(&info);
    for (kind, value) in &mut message.attrs {
        if *kind == attr::LASTUSED {
            value.copy_from_slice(&RECENT.to_ne_bytes());
        }
    }
    message.attrs.sort();
}

/// A request to add an SA.
pub fn newsa(info: &SaInfo) -> Message {
    Message::new(kind::NEWSA, flag::ACK, info)
}

/// A request for a larval SA with just this SPI.
pub fn allocspi(info: &SaInfo) -> Message {
    let spi = u32::from_be_bytes(info.spi);
    let mut message = Message::new(kind::ALLOCSPI, flag::ACK, info);
    message.body.extend([spi, spi].as_bytes());
    message
}

/// The length of the fixed part of what tells of an SA.
pub fn fixed(kind: u16) -> usize {
    match kind {
        kind::ALLOCSPI => size_of::<SaInfo>() + 8,
        kind::EXPIRE => size_of::<SaInfo>() + 8,
        _ => size_of::<SaInfo>(),
    }
}

/// `struct xfrm_algo` and its siblings: name, bits of the key, what else there is, key.
pub fn algorithm(name: &str, more: Option<u32>, key: usize) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(64, 0);
    bytes.extend((8 * key as u32).to_ne_bytes());
    bytes.extend(more.into_iter().flat_map(u32::to_ne_bytes));
    bytes.extend(1..=key as u8);
    bytes
}

/// Whether packets between its ends take this SA, and nothing else is needed for it.
/// Not IPComp: its packets may still be on their way when they are counted. Not TFC padding:
/// only what the in-tree handler has made pads without offload, as it lacks the type (row 1).
pub fn carries_packets(sa: &Message) -> bool {
    let info = sa.info();
    let sel = &info.sel;
    [ESP, AH].contains(&info.proto)
        && [TRANSPORT, TUNNEL].contains(&info.mode)
        && !sa.is_larval()
        && !has_geniv(sa)
        && sa.dir() != 1
        && !sa.mark().is_set()
        && sa.encap().is_none()
        && sa.number(attr::SET_MARK) == 0
        && sa.number(attr::IF_ID) == 0
        && sa.number(attr::TFCPAD) == 0
        && sa.attr(attr::SA_PCPU).is_none()
        && sa.offload().is_none()
        && [0, info.family].contains(&sel.family)
        && (sel.proto, sel.ifindex) == (0, 0)
        && (sel.sport_mask, sel.dport_mask) == ([0; 2], [0; 2])
        && (sel.prefixlen_d, sel.prefixlen_s) == (0, 0)
        && is_ours(&info.saddr, info.family)
        && is_ours(&info.daddr, info.family)
}

/// Whether its cipher needs a generator of IVs, which the in-tree handler loses (row 2).
fn has_geniv(sa: &Message) -> bool {
    let null = b"ecb(cipher_null)";
    sa.attr(attr::ALG_CRYPT)
        .is_some_and(|cipher| !cipher.starts_with(null))
}

/// The prefix of a single host.
pub fn host_prefix(family: u16) -> u8 {
    if family == AF_INET6 {
        128
    } else {
        32
    }
}

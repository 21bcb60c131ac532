// SPDX-License-Identifier: GPL-2.0

//! Random requests about an SA.

use super::{address, offload, put, Generator, DIR_IN, FAMILIES, LO, OCCUPIED};
use crate::message::{flag, kind, read, Message, OWN_PORT};
use crate::sa::{self, attr, host_prefix, Sa};
use module::xfrm::uapi::{
    Mark, MigrateState, Selector, AF_INET, CLEAR_OFFLOAD, STATE_AF_UNSPEC, UPDATE_H2H_SEL,
};
use zerocopy::IntoBytes;

impl Generator<'_> {
    pub(super) fn request(&mut self, sa: &Message, sas: &[Message]) -> Message {
        let mut request = plain(sa);
        request.port = self.one(&[OWN_PORT, OWN_PORT, OWN_PORT, 0, 0xdead]);
        for _ in 0..self.random.usize(1..=4) {
            self.mutate(&mut request, sa, sas);
        }
        self.aim(&mut request, sa, sas);
        if self.percent(30) {
            self.random.shuffle(&mut request.attrs);
        }
        match self.random.u8(..100) {
            0..=9 => self.flip(&mut request),
            10..=12 => self.rubbish(&mut request),
            _ => {}
        }
        request
    }

    /// Asks for one more thing, or asks for it wrongly.
    fn mutate(&mut self, request: &mut Message, sa: &Message, sas: &[Message]) {
        let mut header: MigrateState = read(&request.body).expect("a whole header");
        match self.random.u8(..32) {
            0..=5 => self.ends(&mut header, sa),
            6..=8 => header.new_sel = self.new_selector(&header, sa),
            9 => header.new_reqid = self.random.u32(..),
            10..=11 => header.flags |= self.one(&[UPDATE_H2H_SEL, CLEAR_OFFLOAD]),
            12 => self.wrong(&mut header),
            13 => self.other_sa(&mut header, sas),
            14 => self.tails(&mut header),
            15..=17 => {
                let mut encap = self.udp();
                encap.encap_type = self.one(&[2, 2, 2, 2, 0, 0, 1, 3]);
                if self.percent(15) {
                    encap.dport = [0; 2];
                }
                put(request, attr::ENCAP, &encap);
            }
            18..=19 => {
                let m = self.one(&[0xff, 0xff, u32::MAX, 0]);
                let any = self.random.u32(..);
                let v = self.one(&[5, 0x45, 0x55, 0x155, 0, any]);
                put(request, attr::MARK, &Mark { v, m });
            }
            20..=21 => {
                put(request, attr::SET_MARK, &self.one(&[0, 6, u32::MAX]));
            }
            22 => {
                let mask: u32 = self.one(&[0, 0xff, u32::MAX]);
                put(request, attr::SET_MARK_MASK, &mask);
            }
            23..=24 => {
                put(request, attr::MTIMER_THRESH, &self.one(&[0, 0, 5u32]));
            }
            25 => {
                let interval = self.one(&[0, 20_000u32]);
                put(request, attr::NAT_KEEPALIVE_INTERVAL, &interval);
            }
            26..=28 => {
                let device = self.one(&[LO, self.world.device, self.world.device, 0]);
                let inbound = if sa.dir() == DIR_IN { 2 } else { 0 };
                let flags = self.one(&[inbound, inbound, inbound, 2, 0, 4, 8]);
                put(request, attr::OFFLOAD_DEV, &offload(device, flags));
            }
            29 => self.any_attribute(request),
            30 => self.damage(request),
            _ => {}
        }
        request.body[..size_of::<MigrateState>()].copy_from_slice(header.as_bytes());
    }

    /// Asks for what hardly any request would come upon.
    fn aim(&mut self, request: &mut Message, sa: &Message, sas: &[Message]) {
        let mut header: MigrateState = read(&request.body).expect("a whole header");
        let info = sa.info();
        if info.proto == sa::COMP && info.mode == sa::TUNNEL && self.percent(30) {
            // What IPComp keeps for itself has the source as its SPI.
            header.id.proto = sa::IPIP;
            header.id.spi.copy_from_slice(&info.saddr.0[..4]);
        }
        let single_host =
            info.sel.prefixlen_d == info.sel.prefixlen_s && info.sel.prefixlen_d >= 32;
        if single_host && self.percent(40) {
            header.flags |= UPDATE_H2H_SEL;
        }
        // The last one has the same destination.
        if let Some(other) = sas
            .last()
            .filter(|_| sa.mark().is_set() && self.percent(40))
        {
            put(request, attr::MARK, &other.mark());
        }
        request.body[..size_of::<MigrateState>()].copy_from_slice(header.as_bytes());
    }

    fn ends(&mut self, header: &mut MigrateState, sa: &Message) {
        let family = match self.percent(25) {
            true => self.one(&FAMILIES),
            false => sa.info().family,
        };
        header.new_family = family;
        let dst = self.one(&[1, 2, 2, 3, 4, 5, OCCUPIED]);
        header.new_daddr = address(family, dst);
        header.new_saddr = address(family, self.random.u8(1..6));
        if self.percent(60) && header.new_sel.family != family {
            header.new_sel = Selector {
                family,
                ..Selector::default()
            };
        }
    }

    fn new_selector(&mut self, header: &MigrateState, sa: &Message) -> Selector {
        let family = header.new_family;
        let host = host_prefix(family);
        let pair = Selector {
            daddr: header.new_daddr,
            saddr: header.new_saddr,
            family,
            prefixlen_d: host,
            prefixlen_s: host,
            ..Selector::default()
        };
        match self.random.u8(..8) {
            0 => pair,
            1 => Selector {
                family: 0,
                prefixlen_d: self.one(&[0, 24, 33, 128, 129]),
                ..Selector::default()
            },
            2 => Selector::default(),
            3 => Selector {
                prefixlen_s: self.one(&[33, 64, 129]),
                ..pair
            },
            4 => Selector {
                family: self.one(&[2, 7, 10]),
                ..pair
            },
            5 => Selector {
                sport: self.random.u16(..).to_be_bytes(),
                sport_mask: [0xff, 0],
                proto: 17,
                ifindex: LO,
                user: 1,
                ..pair
            },
            _ => sa.info().sel,
        }
    }

    fn wrong(&mut self, header: &mut MigrateState) {
        match self.random.u8(..5) {
            0 => header.reserved = self.random.u16(..),
            1 => header.flags |= self.random.u32(..),
            2 => header.id.spi = [0; 4],
            3 => header.new_family = self.one(&[0, 7, 2, 10]),
            _ => header.new_sel.prefixlen_d = self.random.u8(..),
        }
    }

    /// Names another SA, or none.
    fn other_sa(&mut self, header: &mut MigrateState, sas: &[Message]) {
        match self.random.u8(..6) {
            0..=1 => {
                let other = self.random.usize(..sas.len());
                let info = sas[other].info();
                header.id.daddr = info.daddr;
                header.id.family = info.family;
                header.old_mark = sas[other].mark();
            }
            2..=3 => header.id.proto = self.one(&[sa::ESP, sa::AH, sa::COMP, sa::IPIP, 43]),
            4 => header.id.family = self.one(&[0, 2, 10]),
            _ => {
                header.old_mark = Mark {
                    v: self.one(&[0, 0x55, 0x45, 0x155]),
                    m: self.one(&[0, 0xff, u32::MAX]),
                }
            }
        }
    }

    /// What a sender may leave behind addresses.
    fn tails(&mut self, header: &mut MigrateState) {
        let addresses = [
            (&mut header.id.daddr, header.id.family),
            (&mut header.new_daddr, header.new_family),
            (&mut header.new_saddr, header.new_family),
            (&mut header.new_sel.daddr, header.new_sel.family),
            (&mut header.new_sel.saddr, header.new_sel.family),
        ];
        for (address, family) in addresses {
            if family == AF_INET {
                address.0[4..].fill(self.random.u8(..));
            }
        }
    }

    fn any_attribute(&mut self, request: &mut Message) {
        let kind = self.random.u16(..48);
        let length = self.one(&[0, 1, 4, 8, 24, 64]);
        let value = (0..length).map(|_| self.random.u8(..)).collect();
        request.attrs.push((kind, value));
    }

    /// Makes an attribute longer or shorter, flags it, says it twice.
    fn damage(&mut self, request: &mut Message) {
        let count = request.attrs.len();
        if count == 0 {
            return;
        }
        let at = self.random.usize(..count);
        match self.random.u8(..5) {
            0 => request.attrs[at].1.push(1),
            1 => request.attrs[at].1.truncate(3),
            2 => request.attrs[at].0 |= 0x8000,
            3 => request.attrs[at].0 |= 0x4000,
            _ => {
                let again = request.attrs[at].clone();
                request.attrs.push(again);
            }
        }
    }

    /// Changes some bytes, and cuts some off.
    fn flip(&mut self, request: &mut Message) {
        let mut bytes = request.payload();
        for _ in 0..self.random.usize(1..4) {
            let at = self.random.usize(..bytes.len());
            bytes[at] = self.random.u8(..);
        }
        if self.percent(20) {
            bytes.truncate(bytes.len() - self.one(&[1, 4, 5]));
        }
        request.body = bytes;
        request.attrs.clear();
    }

    /// Anything, maybe behind what names the SA.
    fn rubbish(&mut self, request: &mut Message) {
        let whole = size_of::<MigrateState>();
        let keep = self.one(&[0, 24, whole, whole]);
        request.body.truncate(keep);
        request.attrs.clear();
        for _ in 0..self.random.usize(..256) {
            request.body.push(self.random.u8(..));
        }
    }
}

/// The request that changes nothing.
pub fn plain(sa: &Message) -> Message {
    let info = sa.info();
    let mut sel = info.sel;
    if sel.family == 0 && info.flags & STATE_AF_UNSPEC == 0 {
        sel.family = info.family;
    }
    let header = MigrateState {
        id: info.id(),
        new_daddr: info.daddr,
        new_saddr: info.saddr,
        old_mark: sa.mark(),
        new_sel: sel,
        new_reqid: info.reqid,
        flags: 0,
        new_family: info.family,
        reserved: 0,
    };
    let mut request = Message::new(kind::MIGRATE_STATE, flag::ACK, &header);
    request.port = OWN_PORT;
    request
}

/// The SA as it is found if the request is done.
pub(super) fn after(sa: &Message, request: &Message) -> Option<Message> {
    let header: MigrateState = read(&request.body)?;
    let mut next = sa.clone();
    let mut info = next.info();
    info.daddr = header.new_daddr.trimmed(header.new_family);
    info.saddr = header.new_saddr.trimmed(header.new_family);
    info.family = header.new_family;
    info.reqid = header.new_reqid;
    info.sel = header.new_sel;
    next.set_info(&info);
    if let Some(mark) = request.attr(attr::MARK).and_then(read::<Mark>) {
        put(&mut next, attr::MARK, &mark.masked());
    }
    Some(next)
}

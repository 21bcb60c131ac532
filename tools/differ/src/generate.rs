// SPDX-License-Identifier: GPL-2.0

//! Random SAs, and random requests about them.

use crate::case::{Case, Step};
use crate::message::{flag, kind, read, Message, OWN_PORT};
use crate::sa::{self, algorithm, attr, host_prefix, Info, Sa};
use fastrand::Rng;
use module::xfrm::uapi::{
    Address, Encap, Mark, MigrateState, Offload, Selector, AF_INET, AF_INET6, CLEAR_OFFLOAD,
    STATE_AF_UNSPEC, UPDATE_H2H_SEL,
};
use zerocopy::IntoBytes;

/// What the namespaces have.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// A device that can offload ESP, the same number in both.
    pub device: i32,
}

const FAMILIES: [u16; 2] = [AF_INET, AF_INET6];
const LO: i32 = 1;
const FLAG_ESN: u8 = 128;
const DIR_IN: u8 = 1;
const DIR_OUT: u8 = 2;
/// Longer than ago any SA was made.
const FAR: u64 = 4_000_000_000;
const MADE: u64 = 1_000_000_000;
/// SAs that others occupy have this address.
const OCCUPIED: u8 = 9;

/// 192.0.2.N or 2001:db8::N.
pub fn address(family: u16, last: u8) -> Address {
    let mut bytes = [0; 16];
    match family {
        AF_INET => bytes[..4].copy_from_slice(&[192, 0, 2, last]),
        _ => {
            bytes[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
            bytes[15] = last;
        }
    }
    Address(bytes)
}

/// Whether lo has this address.
pub fn is_ours(found: &Address, family: u16) -> bool {
    (1..=OCCUPIED).any(|last| address(family, last) == found.trimmed(family))
}

/// The case with this number of the run that `seed` stands for.
pub fn case(seed: u64, number: u64, world: World) -> Case {
    let mut random = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
    Generator {
        random: &mut random,
        world,
    }
    .case()
}

struct Generator<'a> {
    random: &'a mut Rng,
    world: World,
}

impl Generator<'_> {
    fn percent(&mut self, chance: u8) -> bool {
        self.random.u8(..100) < chance
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.usize(..of.len())]
    }

    fn case(&mut self) -> Case {
        let with_packets = self.percent(4);
        let target = loop {
            let sa = self.sa();
            if !with_packets || sa::carries_packets(&sa) {
                break sa;
            }
        };
        let mut sas = vec![target.clone()];
        if self.percent(40) {
            self.neighbours(&target, &mut sas);
        }
        let mut steps = Vec::new();
        let mut now = target;
        for _ in 0..self.random.usize(2..=5) {
            if with_packets {
                steps.push(Step::Packets(self.random.u32(1..=3)));
            }
            let request = self.request(&now, &sas);
            // As if it were done: the next one is about what would be then.
            if let Some(next) = after(&now, &request).filter(|_| self.random.u8(..4) != 0) {
                now = next;
            }
            steps.push(Step::Migrate(request));
        }
        if with_packets {
            steps.push(Step::Packets(self.random.u32(1..=3)));
        }
        Case {
            sas,
            steps,
            heard: !self.percent(10),
        }
    }

    /// Others that are in the way of a migration.
    fn neighbours(&mut self, target: &Message, sas: &mut Vec<Message>) {
        let info = target.info();
        let keys: Vec<_> = [
            attr::ALG_AEAD,
            attr::ALG_AUTH,
            attr::ALG_AUTH_TRUNC,
            attr::ALG_CRYPT,
            attr::ALG_COMP,
        ]
        .into();
        let plain = |info: &Info| {
            let mut sa = sa::newsa(info);
            let known = target.attrs.iter().filter(|(kind, _)| keys.contains(kind));
            sa.attrs.extend(known.cloned());
            sa
        };
        let family = self.one(&FAMILIES);
        let spi = u32::from_be_bytes(info.spi);
        let mut there = Info::plain(
            address(family, OCCUPIED),
            address(family, OCCUPIED),
            family,
            spi,
        );
        there.proto = info.proto;
        let mut occupant = plain(&there);
        if self.percent(30) {
            occupant = occupant.with(attr::MARK, &Mark { v: 5, m: 0xff });
        }
        sas.push(occupant);
        if target.mark().m != 0 {
            let other = Info {
                mode: sa::TRANSPORT,
                ..Info::plain(info.saddr, info.daddr, info.family, spi)
            };
            let mark = Mark {
                v: target.mark().v ^ 1,
                m: target.mark().m,
            };
            let other = Info {
                proto: info.proto,
                ..other
            };
            sas.push(plain(&other).with(attr::MARK, &mark));
        }
    }

    fn sa(&mut self) -> Message {
        let family = self.one(&FAMILIES);
        let spi = self.random.u32(0x100..0x8000);
        let (src, dst) = (address(family, 1), address(family, 2));
        let mut info = Info::plain(src, dst, family, spi);
        info.proto = self.one(&[
            sa::ESP,
            sa::ESP,
            sa::ESP,
            sa::ESP,
            sa::ESP,
            sa::AH,
            sa::COMP,
        ]);
        info.mode = self.mode(info.proto);
        info.reqid = self.one(&[0, 7, u32::MAX]);
        info.seq = self.one(&[0, 0, 3]);
        if self.percent(5) {
            return self.larval(&info);
        }

        let mut sa = sa::newsa(&info);
        let dir = match info.mode {
            sa::IPTFS => self.one(&[DIR_IN, DIR_OUT]),
            _ => self.one(&[0, DIR_IN, DIR_OUT]),
        };
        if dir != 0 {
            sa = sa.with(attr::SA_DIR, &dir);
        }
        info.sel = self.selector(&info);
        info.flags = self.flags(&info, dir);
        if self.percent(30) {
            // A soft limit may be reached by the tester's packets.
            let soft = self.one(&[9, 1 << 20]);
            info.lft = [FAR, 1 << 40, soft, 1 << 40, FAR, FAR + 1, FAR + 2, FAR + 3];
        }
        sa = self.algorithms(sa, &info);
        sa = self.windows(sa, &mut info, dir);
        sa.set_info(&info);
        sa = self.marks(sa);
        sa = self.encapsulation(sa, &info, dir);
        self.extras(sa, &info, dir)
    }

    fn mode(&mut self, proto: u8) -> u8 {
        let modes = [sa::TRANSPORT, sa::TRANSPORT, sa::TUNNEL, sa::TUNNEL];
        match proto {
            sa::ESP => self.one(&[&modes[..], &[sa::BEET, sa::IPTFS]].concat()),
            sa::AH => self.one(&[&modes[..], &[sa::BEET]].concat()),
            _ => self.one(&modes),
        }
    }

    fn flags(&mut self, info: &Info, dir: u8) -> u8 {
        let mut flags = 0;
        if info.mode == sa::TUNNEL && self.percent(10) {
            flags |= STATE_AF_UNSPEC;
        }
        for (bit, fits) in [
            (1, true),
            (2, dir != DIR_OUT),
            (4, dir != DIR_IN),
            (16, dir != DIR_OUT),
            (64, true),
        ] {
            if fits && self.percent(8) {
                flags |= bit;
            }
        }
        flags
    }

    fn larval(&mut self, info: &Info) -> Message {
        let mut info = *info;
        if info.mode == sa::IPTFS {
            info.mode = sa::TUNNEL;
        }
        self.marks(sa::allocspi(&info))
    }

    fn selector(&mut self, info: &Info) -> Selector {
        let pair = info.ends();
        let tunnel = info.mode == sa::TUNNEL;
        match self.random.u8(..10) {
            0..=4 => Selector::default(),
            5..=6 => pair,
            7 => Selector {
                dport: 80u16.to_be_bytes(),
                dport_mask: [0xff; 2],
                proto: 6,
                user: 1000,
                ..pair
            },
            8 if tunnel && info.family == AF_INET => Selector {
                // It looks like a host selector of IPv4.
                family: AF_INET6,
                ..pair
            },
            _ => Selector {
                prefixlen_d: 24,
                prefixlen_s: 8,
                ..pair
            },
        }
    }

    fn algorithms(&mut self, sa: Message, info: &Info) -> Message {
        let sha256 = algorithm("hmac(sha256)", Some(128), 32);
        let sha1 = algorithm("hmac(sha1)", Some(96), 20);
        match info.proto {
            sa::AH if self.percent(50) => sa.with(attr::ALG_AUTH_TRUNC, &sha1[..]),
            sa::AH => sa.with(attr::ALG_AUTH_TRUNC, &sha256[..]),
            sa::COMP => sa.with(attr::ALG_COMP, &algorithm("deflate", None, 0)[..]),
            _ => match self.random.u8(..8) {
                0..=2 => {
                    let gcm = algorithm("rfc4106(gcm(aes))", Some(128), 20);
                    sa.with(attr::ALG_AEAD, &gcm[..])
                }
                3 => {
                    let gcm = algorithm("rfc4106(gcm(aes))", Some(64), 36);
                    sa.with(attr::ALG_AEAD, &gcm[..])
                }
                4 => {
                    let poly = algorithm("rfc7539esp(chacha20,poly1305)", Some(128), 36);
                    sa.with(attr::ALG_AEAD, &poly[..])
                }
                5 => sa
                    .with(attr::ALG_CRYPT, &algorithm("cbc(aes)", None, 16)[..])
                    .with(attr::ALG_AUTH_TRUNC, &sha256[..]),
                6 => sa
                    .with(
                        attr::ALG_CRYPT,
                        &algorithm("rfc3686(ctr(aes))", None, 20)[..],
                    )
                    .with(attr::ALG_AUTH_TRUNC, &sha256[..]),
                _ => sa
                    .with(attr::ALG_CRYPT, &algorithm("ecb(cipher_null)", None, 0)[..])
                    .with(attr::ALG_AUTH, &algorithm("hmac(sha1)", None, 20)[..]),
            },
        }
    }

    /// Windows and counters, plain and ESN, as the direction allows.
    fn windows(&mut self, sa: Message, info: &mut Info, dir: u8) -> Message {
        let (inbound, outbound) = (dir != DIR_OUT, dir != DIR_IN);
        let number = |used: bool, random: &mut Rng| match used {
            true => random.u32(..1 << 20),
            false => 0,
        };
        let oseq = number(outbound, self.random);
        let seq = number(inbound, self.random);
        let bits = number(inbound, self.random);
        if info.proto != sa::COMP && self.percent(40) {
            let words = if inbound { self.random.u32(1..=4) } else { 0 };
            if self.percent(70) {
                info.flags |= FLAG_ESN;
            }
            let high = |used: bool| u32::from(used && info.flags & FLAG_ESN != 0);
            let mut esn = vec![words, oseq, seq, high(outbound), high(inbound), 32 * words];
            esn.extend((0..words).map(|word| bits << word));
            return sa.with(attr::REPLAY_ESN_VAL, esn.as_bytes());
        }
        info.replay_window = if inbound { self.one(&[0, 32]) } else { 0 };
        match self.percent(50) {
            true => sa.with(attr::REPLAY_VAL, &[oseq, seq, bits]),
            false => sa,
        }
    }

    fn marks(&mut self, mut sa: Message) -> Message {
        if self.percent(25) {
            let m = self.one(&[0xff, u32::MAX, 0xf0]);
            sa = sa.with(attr::MARK, &Mark { v: 0x55 & m, m });
        }
        if sa.kind == kind::NEWSA && self.percent(15) {
            sa = sa.with(attr::SET_MARK, &self.random.u32(..));
            if self.percent(50) {
                sa = sa.with(attr::SET_MARK_MASK, &self.one(&[0, 0xff, u32::MAX]));
            }
        }
        sa
    }

    fn encapsulation(&mut self, mut sa: Message, info: &Info, dir: u8) -> Message {
        if info.proto != sa::ESP || !self.percent(20) {
            return sa;
        }
        sa = sa.with(attr::ENCAP, &self.udp());
        if dir == DIR_OUT && self.percent(50) {
            sa = sa.with(attr::NAT_KEEPALIVE_INTERVAL, &20_000u32);
        }
        if dir != DIR_OUT && self.percent(50) {
            sa = sa.with(attr::MTIMER_THRESH, &self.random.u32(1..99));
        }
        sa
    }

    fn udp(&mut self) -> Encap {
        Encap {
            encap_type: 2,
            sport: self.random.u16(1..).to_be_bytes(),
            dport: self.random.u16(1..).to_be_bytes(),
            pad: [0; 2],
            oa: address(AF_INET, 66),
        }
    }

    fn extras(&mut self, mut sa: Message, info: &Info, dir: u8) -> Message {
        if self.percent(60) {
            let counters: [u64; 4] = [self.random.u64(..FAR / 2), 8, MADE, MADE + 1];
            sa = sa.with(attr::LTIME_VAL, &counters);
        }
        if self.percent(10) {
            sa = sa.with(attr::IF_ID, &8u32);
        }
        if info.proto == sa::ESP && info.mode == sa::TUNNEL && self.percent(15) {
            sa = sa.with(attr::TFCPAD, &self.random.u32(..1000));
        }
        if self.percent(10) {
            sa = sa.with(attr::COADDR, &address(info.family, 77));
        }
        if dir != 0 && self.percent(15) {
            sa = sa.with(attr::SA_PCPU, &self.one(&[0u32, 1]));
        }
        if dir != DIR_IN && self.percent(10) {
            sa = sa.with(attr::SA_EXTRA_FLAGS, &self.random.u32(1..4));
        }
        if self.percent(10) {
            sa = sa.with(attr::REPLAY_THRESH, &self.random.u32(1..99));
            sa = sa.with(attr::ETIMER_THRESH, &self.random.u32(100..199));
        }
        if info.mode == sa::IPTFS {
            sa = match dir {
                DIR_OUT => sa.with(attr::IPTFS_PKT_SIZE, &self.random.u32(500..1400)),
                _ => sa.with(attr::IPTFS_DROP_TIME, &self.random.u32(1000..9999)),
            };
        }
        let offloadable = sa.attr(attr::ALG_AEAD).is_some() && info.flags & FLAG_ESN == 0;
        if offloadable && dir != 0 && self.percent(25) {
            let inbound = if dir == DIR_IN { 2 } else { 0 };
            sa = sa.without(&[attr::TFCPAD, attr::IF_ID]);
            sa = sa.with(attr::OFFLOAD_DEV, &offload(self.world.device, inbound));
        }
        sa
    }

    fn request(&mut self, sa: &Message, sas: &[Message]) -> Message {
        let mut request = plain(sa);
        request.port = self.one(&[OWN_PORT, OWN_PORT, OWN_PORT, 0, 0xdead]);
        for _ in 0..self.random.usize(1..=4) {
            self.mutate(&mut request, sa, sas);
        }
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
            13 => self.other_sa(&mut header, sa, sas),
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
                let v = self.one(&[5, 0x54, 0x55, 0x155, 0, any]);
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
    fn other_sa(&mut self, header: &mut MigrateState, sa: &Message, sas: &[Message]) {
        match self.random.u8(..6) {
            // What IPComp keeps for itself has the source as its SPI.
            0..=1 if sa.info().proto == sa::COMP => {
                header.id.proto = sa::IPIP;
                header.id.spi.copy_from_slice(&sa.info().saddr.0[..4]);
            }
            2 => {
                let other = self.random.usize(..sas.len());
                let info = sas[other].info();
                header.id.daddr = info.daddr;
                header.id.family = info.family;
                header.old_mark = sas[other].mark();
            }
            3 => header.id.proto = self.one(&[sa::ESP, sa::AH, sa::COMP, sa::IPIP, 43]),
            4 => header.id.family = self.one(&[0, 2, 10]),
            _ => {
                header.old_mark = Mark {
                    v: self.one(&[0, 0x55, 0x54, 0x155]),
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

fn offload(ifindex: i32, flags: u8) -> Offload {
    Offload {
        ifindex,
        flags,
        pad: [0; 3],
    }
}

fn put<T: IntoBytes + zerocopy::Immutable>(request: &mut Message, kind: u16, value: &T) {
    request.attrs.retain(|(known, _)| *known != kind);
    request.attrs.push((kind, value.as_bytes().to_vec()));
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
fn after(sa: &Message, request: &Message) -> Option<Message> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const WORLD: World = World { device: 2 };

    #[test]
    fn a_seed_says_all() {
        for number in 0..50 {
            assert_eq!(case(7, number, WORLD), case(7, number, WORLD));
        }
        assert_ne!(case(7, 1, WORLD), case(7, 2, WORLD));
        assert_ne!(case(7, 1, WORLD), case(8, 1, WORLD));
    }

    #[test]
    fn requests_of_all_kinds() {
        let cases: Vec<_> = (0..2000).map(|number| case(1, number, WORLD)).collect();
        let attrs = |kind| {
            let steps = cases.iter().flat_map(|case| &case.steps);
            steps
                .filter(|step| matches!(step, Step::Migrate(r) if r.attr(kind).is_some()))
                .count()
        };
        for kind in (1..42).filter(|kind| *kind != 0) {
            assert!(attrs(kind) > 0, "no request has attribute {kind}");
        }
        let with = |kind| {
            cases
                .iter()
                .filter(|case| case.sas[0].attr(kind).is_some())
                .count()
        };
        for kind in [
            1, 2, 3, 4, 9, 10, 11, 12, 14, 18, 20, 21, 22, 23, 24, 28, 29, 30, 31, 32,
        ]
        .into_iter()
        .chain([33, 34, 35, 36, 41])
        {
            assert!(with(kind) > 5, "hardly any SA has attribute {kind}");
        }
        assert!(cases.iter().any(|case| case.sas[0].kind == kind::ALLOCSPI));
    }

    #[test]
    fn what_changes_nothing_is_what_it_is_after() {
        for number in 0..200 {
            let sa = case(3, number, WORLD).sas.remove(0);
            let next = after(&sa, &plain(&sa)).unwrap();
            assert_eq!(plain(&next), plain(&sa));
        }
    }
}

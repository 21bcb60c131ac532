// SPDX-License-Identifier: GPL-2.0

//! Random SAs.

use super::{address, offload, Generator, DIR_IN, DIR_OUT, FAMILIES};
use crate::message::{kind, Message};
use crate::sa::{self, algorithm, attr, Sa};
use fastrand::Rng;
use module::xfrm::uapi::{Mark, SaInfo, Selector, AF_INET, AF_INET6, STATE_AF_UNSPEC};
use zerocopy::{transmute, IntoBytes};

pub(super) const FLAG_ESN: u8 = 128;
/// Longer than ago any SA was made.
const FAR: u64 = 4_000_000_000;
const MADE: u64 = 1_000_000_000;
/// Packets of an SA that has been used, and the soft limit that the tester's reach.
const PACKETS: u64 = 8;
pub(super) const SOON: u64 = PACKETS + 1;

impl Generator<'_> {
    pub(super) fn sa(&mut self) -> Message {
        let family = self.one(&FAMILIES);
        let spi = self.random.u32(0x100..0x8000);
        let (src, dst) = (address(family, 1), address(family, 2));
        let mut info = sa::plain(src, dst, family, spi);
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
            info.lft = transmute!(limits(self.one(&[SOON, 1 << 20])));
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

    fn flags(&mut self, info: &SaInfo, dir: u8) -> u8 {
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

    fn larval(&mut self, info: &SaInfo) -> Message {
        let mut info = *info;
        if info.mode == sa::IPTFS {
            info.mode = sa::TUNNEL;
        }
        self.marks(sa::allocspi(&info))
    }

    fn selector(&mut self, info: &SaInfo) -> Selector {
        let pair = sa::ends(info);
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

    fn algorithms(&mut self, sa: Message, info: &SaInfo) -> Message {
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
    fn windows(&mut self, sa: Message, info: &mut SaInfo, dir: u8) -> Message {
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

    fn encapsulation(&mut self, mut sa: Message, info: &SaInfo, dir: u8) -> Message {
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

    fn extras(&mut self, mut sa: Message, info: &SaInfo, dir: u8) -> Message {
        if self.percent(60) {
            sa = sa.with(attr::LTIME_VAL, &used(self.random.u64(..FAR / 2)));
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
}

/// Limits of which only that of packets, `soft`, may be near.
pub(super) fn limits(soft: u64) -> [u64; 8] {
    [FAR, 1 << 40, soft, 1 << 40, FAR, FAR + 1, FAR + 2, FAR + 3]
}

/// The counters of an SA that has been used.
pub(super) fn used(bytes: u64) -> [u64; 4] {
    [bytes, PACKETS, MADE, MADE + 1]
}

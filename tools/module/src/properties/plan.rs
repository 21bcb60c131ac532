// SPDX-License-Identifier: GPL-2.0

//! A request is refused by the first rule of the contract that it breaks; else
//! the plan is what the contract says of each field of the new SA.
//!
//! The message is put together by the offsets of the contract, not by the
//! structures that read it.

use crate::{
    migrate_state::{
        plan::Plan,
        refusal::Errno,
        request::{Attributes, Request},
    },
    xfrm::{
        migrate::snapshot::{Changes, Snapshot},
        uapi::{Address, Encap, Id, Mark, MigrateState, Offload, Selector},
    },
};
use arbitrary::{Result, Unstructured};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const V4: u16 = 2;
const V6: u16 = 10;

const NO_IPV6: &str = "IPv6 support disabled";
const IN_USE: &str = "SA is in use by tunnels";

/// Attributes by their type.
#[derive(Debug, Default)]
pub struct Attrs(Vec<(u16, Vec<u8>)>);

impl Attrs {
    /// Adds one.
    pub fn with<T: IntoBytes + Immutable>(mut self, kind: u16, value: T) -> Self {
        self.0.push((kind, value.as_bytes().to_vec()));
        self
    }
}

impl Attributes for Attrs {
    fn get(&self, kind: u16) -> Option<&[u8]> {
        self.0.iter().find(|(k, _)| *k == kind).map(|(_, v)| &v[..])
    }
}

/// A request as its sender means it, and the SA that it is for.
#[derive(Debug)]
struct Case {
    ipv6: bool,
    header: MigrateState,
    encap: Option<Encap>,
    mark: Option<Mark>,
    offload: Option<Offload>,
    set_mark: Option<u32>,
    set_mark_mask: Option<u32>,
    mapping_maxage: Option<u32>,
    nat_keepalive: Option<u32>,
    sa: Snapshot,
}

/// Chooses values, more often than not such that have a meaning.
struct Chooser<'a, 'b>(&'a mut Unstructured<'b>);

impl Chooser<'_, '_> {
    fn flag(&mut self) -> Result<bool> {
        self.0.arbitrary()
    }

    fn word(&mut self) -> Result<u32> {
        self.0.arbitrary()
    }

    /// Two addresses are often equal, or equal as far as IPv4 goes.
    fn address(&mut self) -> Result<Address> {
        let bits = self.0.arbitrary::<u8>()?;
        let mut bytes = [bits & 1; 16];
        bytes[4..].fill(bits >> 1 & 1);
        bytes[3] |= bits & 4;
        bytes[15] |= bits & 8;
        Ok(Address(bytes))
    }

    fn family(&mut self) -> Result<u16> {
        let other = *self.0.choose(&[0, 1, 7, 0xff02])?;
        Ok(*self.0.choose(&[V4, V6, V4, V6, 0, other])?)
    }

    fn prefix(&mut self) -> Result<u8> {
        Ok(*self.0.choose(&[32, 128, 0, 31, 33, 127, 129, 255])?)
    }

    fn port(&mut self) -> Result<[u8; 2]> {
        Ok(*self.0.choose(&[[17, 148], [0, 0], [0, 1], [1, 0]])?)
    }

    fn mark(&mut self) -> Result<Mark> {
        let v = *self.0.choose(&[0, 1, 0x12, u32::MAX])?;
        let m = *self.0.choose(&[0, 1, 0xff, u32::MAX])?;
        Ok(Mark { v, m })
    }

    fn selector(&mut self) -> Result<Selector> {
        Ok(Selector {
            daddr: self.address()?,
            saddr: self.address()?,
            dport: self.port()?,
            dport_mask: self.port()?,
            sport: self.port()?,
            sport_mask: self.port()?,
            family: self.family()?,
            prefixlen_d: self.prefix()?,
            prefixlen_s: self.prefix()?,
            proto: self.0.arbitrary()?,
            pad: self.0.arbitrary()?,
            ifindex: self.0.arbitrary()?,
            user: self.word()?,
        })
    }

    fn encap(&mut self) -> Result<Encap> {
        Ok(Encap {
            encap_type: *self.0.choose(&[2, 0, 1, 7])?,
            sport: self.port()?,
            dport: self.port()?,
            pad: self.0.arbitrary()?,
            oa: self.address()?,
        })
    }

    fn offload(&mut self) -> Result<Offload> {
        Ok(Offload {
            ifindex: self.0.arbitrary()?,
            flags: self.0.arbitrary()?,
            pad: self.0.arbitrary()?,
        })
    }

    fn header(&mut self) -> Result<MigrateState> {
        Ok(MigrateState {
            id: Id {
                daddr: self.address()?,
                spi: *self.0.choose(&[[0, 0, 1, 0], [1, 0, 0, 0], [0; 4]])?,
                family: self.family()?,
                proto: self.0.arbitrary()?,
                pad: self.0.arbitrary()?,
            },
            new_daddr: self.address()?,
            new_saddr: self.address()?,
            old_mark: self.mark()?,
            new_sel: self.selector()?,
            new_reqid: self.word()?,
            flags: *self.0.choose(&[0, 1, 2, 3, 4, 0xdead_beef])?,
            new_family: self.family()?,
            reserved: *self.0.choose(&[0, 0, 0, 1, 0x100])?,
        })
    }

    fn sa(&mut self) -> Result<Snapshot> {
        Ok(Snapshot {
            daddr: self.address()?,
            saddr: self.address()?,
            family: *self.0.choose(&[V4, V6])?,
            proto: *self.0.choose(&[50, 51, 108, 4, 41, 0])?,
            flags: self.0.arbitrary()?,
            dir: *self.0.choose(&[0, 1, 2])?,
            selector: self.selector()?,
            mark: self.mark()?,
            output_mark: self.mark()?,
            encap: self.maybe(Self::encap)?,
            mapping_maxage: self.word()?,
            nat_keepalive: self.word()?,
            offload: self.maybe(Self::offload)?,
            larval: self.0.ratio(1, 8)?,
            kernel_owned: self.0.ratio(1, 8)?,
        })
    }

    fn maybe<T>(&mut self, choose: fn(&mut Self) -> Result<T>) -> Result<Option<T>> {
        Ok(if self.flag()? {
            Some(choose(self)?)
        } else {
            None
        })
    }

    fn case(&mut self) -> Result<Case> {
        let mut case = Case {
            ipv6: !self.0.ratio(1, 8)?,
            header: self.header()?,
            encap: self.maybe(Self::encap)?,
            mark: self.maybe(Self::mark)?,
            offload: self.maybe(Self::offload)?,
            set_mark: self.maybe(Self::word)?,
            set_mark_mask: self.maybe(Self::word)?,
            mapping_maxage: self.maybe(Self::word)?,
            nat_keepalive: self.maybe(Self::word)?,
            sa: self.sa()?,
        };
        if self.flag()? {
            let sa = &mut case.sa;
            sa.selector.daddr = sa.daddr;
            sa.selector.saddr = sa.saddr;
        }
        Ok(case)
    }
}

/// The address without what lies behind it.
fn cut(address: Address, family: u16) -> Address {
    let mut bytes = [0; 16];
    let len = if family == V6 { 16 } else { 4 };
    bytes[..len].copy_from_slice(&address.0[..len]);
    Address(bytes)
}

fn bits(family: u16) -> u8 {
    if family == V6 {
        128
    } else {
        32
    }
}

impl Case {
    fn body(&self, header: &MigrateState) -> [u8; 132] {
        let mut body = [0; 132];
        let mut put = |at: usize, bytes: &[u8]| body[at..][..bytes.len()].copy_from_slice(bytes);
        let h = header;

        put(0, &h.id.daddr.0);
        put(16, &h.id.spi);
        put(20, &h.id.family.to_ne_bytes());
        put(22, &[h.id.proto, h.id.pad]);
        put(24, &h.new_daddr.0);
        put(40, &h.new_saddr.0);
        put(56, &h.old_mark.v.to_ne_bytes());
        put(60, &h.old_mark.m.to_ne_bytes());
        put(64, &h.new_sel.daddr.0);
        put(80, &h.new_sel.saddr.0);
        put(96, &h.new_sel.dport);
        put(98, &h.new_sel.dport_mask);
        put(100, &h.new_sel.sport);
        put(102, &h.new_sel.sport_mask);
        put(104, &h.new_sel.family.to_ne_bytes());
        put(106, &[h.new_sel.prefixlen_d, h.new_sel.prefixlen_s]);
        put(108, &[h.new_sel.proto]);
        put(109, &h.new_sel.pad);
        put(112, &h.new_sel.ifindex.to_ne_bytes());
        put(116, &h.new_sel.user.to_ne_bytes());
        put(120, &h.new_reqid.to_ne_bytes());
        put(124, &h.flags.to_ne_bytes());
        put(128, &h.new_family.to_ne_bytes());
        put(130, &h.reserved.to_ne_bytes());
        body
    }

    /// The attributes; each is longer than it has to be.
    fn attributes(&self) -> Attrs {
        let mut attrs = Attrs::default();
        let mut put = |kind: u16, parts: &[&[u8]]| {
            attrs
                .0
                .push((kind, [parts.concat(), vec![0xaa; 4]].concat()));
        };
        if let Some(e) = self.encap {
            let kind = e.encap_type.to_ne_bytes();
            put(4, &[&kind, &e.sport, &e.dport, &e.pad, &e.oa.0]);
        }
        if let Some(m) = self.mark {
            put(21, &[&m.v.to_ne_bytes(), &m.m.to_ne_bytes()]);
        }
        if let Some(o) = self.offload {
            put(28, &[&o.ifindex.to_ne_bytes(), &[o.flags], &o.pad]);
        }
        for (kind, word) in [
            (29, self.set_mark),
            (30, self.set_mark_mask),
            (32, self.mapping_maxage),
            (34, self.nat_keepalive),
        ] {
            if let Some(word) = word {
                put(kind, &[&word.to_ne_bytes()]);
            }
        }
        attrs
    }

    fn host_to_host(&self) -> bool {
        self.header.flags & 2 != 0
    }

    fn new_encap(&self) -> Option<Encap> {
        match self.encap {
            None => self.sa.encap,
            Some(encap) => (encap.encap_type != 0).then_some(Encap {
                pad: [0; 2],
                ..encap
            }),
        }
    }

    /// Whether the selector of the SA is for its two addresses and no others.
    fn is_single_host(&self) -> bool {
        let sel = &self.sa.selector;
        let family = self.sa.family;
        sel.family == family
            && [sel.prefixlen_d, sel.prefixlen_s] == [bits(family); 2]
            && cut(sel.daddr, family) == cut(self.sa.daddr, family)
            && cut(sel.saddr, family) == cut(self.sa.saddr, family)
    }

    /// The first rule that is broken.
    fn refusal(&self) -> Option<(Errno, String)> {
        let (h, sel, sa) = (&self.header, &self.header.new_sel, &self.sa);
        let as_given = !self.host_to_host();
        let longest = sel.prefixlen_d.max(sel.prefixlen_s);
        let prefix = |family| {
            let of = if family == V6 { "IPv6" } else { "IPv4" };
            let bits = bits(family);
            format!("Invalid prefix length in selector (must be <= {bits} for {of})")
        };
        let flags = format!("Unknown flags: 0x{:x}", h.flags & !3);
        let encap_type = self.encap.map_or(0, |encap| encap.encap_type);
        let no_port = |e: Encap| e.encap_type == 2 && (e.sport == [0; 2] || e.dport == [0; 2]);
        let has_encap = self.new_encap().is_some();
        let keepalive = self.nat_keepalive.is_some_and(|n| n != 0);
        let threshold = self.mapping_maxage.is_some_and(|n| n != 0);

        let rules: &[(bool, &str)] = &[
            (h.id.spi == [0; 4], "Invalid SPI 0x0"),
            (h.reserved != 0, "Reserved field must be zero"),
            (h.flags > 3, &flags),
            (![V4, V6].contains(&h.new_family), "Invalid address family"),
            (h.new_family == V6 && !self.ipv6, NO_IPV6),
            (
                as_given && ![0, V4, V6].contains(&sel.family),
                "Invalid address family in selector",
            ),
            (as_given && sel.family == V6 && !self.ipv6, NO_IPV6),
            (
                as_given && sel.family != 0 && longest > bits(sel.family),
                &prefix(sel.family),
            ),
            (
                self.set_mark.is_none() && self.set_mark_mask.is_some(),
                "SET_MARK_MASK requires SET_MARK",
            ),
            (
                self.offload.is_some() && h.flags & 1 != 0,
                "OFFLOAD_DEV and the CLEAR_OFFLOAD flag exclude each other",
            ),
            (
                ![50, 51, 108].contains(&sa.proto),
                "Only ESP, AH and IPComp SAs can be migrated",
            ),
            (sa.kernel_owned, IN_USE),
            (sa.larval, "Can not migrate a larval SA"),
            (
                as_given && sel.family == 0 && longest > bits(h.new_family),
                &prefix(h.new_family),
            ),
            (
                !as_given && !self.is_single_host(),
                "SA selector is not a single-host match for SA addresses",
            ),
            (
                ![0, 2].contains(&encap_type),
                "Unsupported encapsulation type",
            ),
            (
                self.encap.is_some_and(no_port) && self.new_encap() != self.sa.encap,
                "Encapsulation ports must not be zero",
            ),
            (
                threshold && !has_encap,
                "MTIMER_THRESH requires encapsulation",
            ),
            (
                self.mapping_maxage.is_some() && has_encap && sa.dir == 2,
                "MTIMER_THRESH should not be set on output SA",
            ),
            (
                keepalive && !has_encap,
                "NAT_KEEPALIVE_INTERVAL requires encapsulation",
            ),
        ];
        let (_, text) = rules.iter().find(|(broken, _)| *broken)?;
        let errno = match *text {
            NO_IPV6 => Errno::AfNoSupport,
            IN_USE => Errno::Perm,
            _ => Errno::Inval,
        };
        Some((errno, text.to_string()))
    }

    fn new_selector(&self) -> Selector {
        let h = &self.header;
        let sel = h.new_sel;

        if self.host_to_host() {
            return Selector {
                daddr: cut(h.new_daddr, h.new_family),
                saddr: cut(h.new_saddr, h.new_family),
                family: h.new_family,
                prefixlen_d: bits(h.new_family),
                prefixlen_s: bits(h.new_family),
                ..self.sa.selector
            };
        }
        // XFRM_STATE_AF_UNSPEC
        if sel.family == 0 && self.sa.flags & 32 != 0 {
            return sel;
        }
        let family = if sel.family == 0 {
            h.new_family
        } else {
            sel.family
        };
        Selector {
            daddr: cut(sel.daddr, family),
            saddr: cut(sel.saddr, family),
            family,
            pad: [0; 3],
            ..sel
        }
    }

    /// What becomes of the SA if no rule is broken.
    fn plan(&self) -> Plan {
        let (h, sa) = (&self.header, &self.sa);
        let encap = self.new_encap();
        let mark = self.mark.unwrap_or(sa.mark);
        let mark = Mark {
            v: mark.v & mark.m,
            ..mark
        };
        let tuple = |daddr, family, mark| (cut(daddr, family), family, mark);
        let changes = Changes {
            daddr: cut(h.new_daddr, h.new_family),
            saddr: cut(h.new_saddr, h.new_family),
            family: h.new_family,
            reqid: h.new_reqid,
            selector: self.new_selector(),
            mark,
            output_mark: match (self.set_mark, self.set_mark_mask) {
                (None, _) => sa.output_mark,
                (Some(0), None) => Mark { v: 0, m: 0 },
                (Some(v), m) => Mark {
                    v,
                    m: m.unwrap_or(!0),
                },
            },
            encap,
            mapping_maxage: encap.map_or(0, |_| self.mapping_maxage.unwrap_or(sa.mapping_maxage)),
            nat_keepalive: encap.map_or(0, |_| self.nat_keepalive.unwrap_or(sa.nat_keepalive)),
        };
        Plan {
            moves: tuple(changes.daddr, changes.family, mark)
                != tuple(sa.daddr, sa.family, sa.mark),
            changes,
            offload: if h.flags & 1 != 0 {
                None
            } else {
                self.offload.or(sa.offload)
            },
        }
    }

    /// The header as listeners are told it, but for the selector that is found.
    fn announced(&self) -> MigrateState {
        let h = self.header;
        let sel = h.new_sel;
        let new_sel = match sel.family {
            0 => sel,
            family => Selector {
                daddr: cut(sel.daddr, family),
                saddr: cut(sel.saddr, family),
                pad: [0; 3],
                ..sel
            },
        };
        MigrateState {
            id: Id {
                daddr: cut(h.id.daddr, h.id.family),
                pad: 0,
                ..h.id
            },
            new_daddr: cut(h.new_daddr, h.new_family),
            new_saddr: cut(h.new_saddr, h.new_family),
            new_sel,
            ..h
        }
    }
}

pub(super) fn holds(u: &mut Unstructured<'_>) -> Result<()> {
    let case = Chooser(u).case()?;
    let header = MigrateState::read_from_bytes(&case.body(&case.header)).expect("132 bytes");
    let request = Request::parse(&header, &case.attributes(), case.ipv6);

    if let Ok(request) = &request {
        let announced = case.body(&case.announced());
        assert_eq!(request.header.as_bytes(), announced, "{case:?}");
    }
    let plan = request.and_then(|request| Plan::new(&request, &case.sa));
    let plan = plan.map_err(|refusal| (refusal.errno(), refusal.to_string()));
    let expected = case.refusal().map_or_else(|| Ok(case.plan()), Err);
    assert_eq!(plan, expected, "{case:?}");
    // An extended ack holds no more.
    assert!(plan.map_or_else(|(_, text)| text.len() < 80, |_| true));
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! Where the handlers are meant to differ: the rows of docs/differences.md.
//!
//! Each explanation turns what the in-tree handler gives, if that is what the
//! row says, into what ours has to give. What none of them turns has to be
//! equal as it is.

use crate::case::{Ack, Outcome};
use crate::message::{has_rest, kind, read, Message, OWN_PORT};
use crate::sa::{self, attr, host_prefix, Info, Sa};
use module::xfrm::uapi::{
    Encap, Mark, MigrateState, Offload, Selector, AF_INET, AF_UNSPEC, CLEAR_OFFLOAD,
    OFFLOAD_PACKET, STATE_AF_UNSPEC, UDP_ENCAP_ESPINUDP, UPDATE_H2H_SEL,
};
use rustix::io::Errno;
use zerocopy::{FromZeros, IntoBytes};

/// The length of a request's fixed part.
pub const HEADER: usize = size_of::<MigrateState>();

/// Why ours gives something else.
pub struct Explanation {
    /// Of docs/differences.md.
    pub row: u8,
    pub what: &'static str,
    apply: Apply,
}

/// Turns an outcome of the in-tree handler into the right one.
enum Apply {
    /// That of a request.
    Request(fn(&View<'_>, &Outcome, &mut Used) -> Option<Outcome>),
    /// That of packets.
    Packets(fn(&History, &Outcome) -> Option<Outcome>),
}

/// What has happened before packets are sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct History {
    /// A migration was done.
    pub migrated: bool,
    /// A soft limit was told.
    pub warned: bool,
}

/// Places in [`EXPLANATIONS`].
pub type Used = Vec<usize>;

/// Rows that no single request can show, and why.
pub const NOT_HERE: [(u8, &str); 5] = [
    (
        2,
        "the packets sent here are for ciphers without a generator of IVs",
    ),
    (3, "needs packets that are being decrypted meanwhile"),
    (4, "needs packets on their way meanwhile"),
    (6, "needs an SA that expires meanwhile"),
    (7, "needs an offloaded SA that expires meanwhile"),
];

/// A request, and what it meets.
pub struct View<'a> {
    pub before: &'a [Message],
    pub heard: bool,
    /// Whether something that is no attribute follows the attributes.
    has_rest: bool,
    request: Message,
    header: MigrateState,
    /// The SA that is meant: that with the mark of the request.
    old: Option<&'a Message>,
    /// The SA that the in-tree handler takes: the newest that takes this mark.
    found: Option<&'a Message>,
}

impl<'a> View<'a> {
    pub fn new(before: &'a [Message], heard: bool, request: &Message) -> Self {
        let request = request.whole();
        let has_rest = request.body.get(HEADER..).is_some_and(has_rest);
        let request = request.split(HEADER);
        let header: MigrateState = read(&request.body).unwrap_or_else(MigrateState::new_zeroed);
        let id = header.id;
        let mark = header.old_mark.masked();
        let takes = |sa: &&Message| sa.takes(&id.daddr, id.spi, id.proto, id.family, mark.v);
        let exact = |sa: &&Message| takes(sa) && sa.mark() == mark;
        Self {
            before,
            heard,
            has_rest,
            request,
            header,
            old: before.iter().find(exact),
            found: before.iter().find(takes),
        }
    }

    fn attr<T>(&self, kind: u16) -> Option<T>
    where
        T: zerocopy::FromBytes + zerocopy::KnownLayout + zerocopy::Immutable,
    {
        self.request.attr(kind).and_then(read)
    }

    fn host_to_host(&self) -> bool {
        self.header.flags & UPDATE_H2H_SEL != 0
    }

    /// The encapsulation of the new SA.
    fn encap(&self) -> Option<Encap> {
        match self.attr::<Encap>(attr::ENCAP) {
            None => self.old.and_then(Sa::encap),
            Some(encap) if encap.encap_type == 0 => None,
            encap => encap,
        }
    }

    fn offload(&self) -> Option<Offload> {
        let inherited = self.old.and_then(Sa::offload);
        self.attr(attr::OFFLOAD_DEV).or(inherited)
    }

    fn mark(&self) -> Mark {
        let inherited = self.old.map(Sa::mark).unwrap_or_default();
        self.attr::<Mark>(attr::MARK).unwrap_or(inherited).masked()
    }

    fn clears_output_mark(&self) -> bool {
        self.attr(attr::SET_MARK) == Some(0u32) && self.request.attr(attr::SET_MARK_MASK).is_none()
    }
}

/// Turns the outcome of the in-tree handler into that which is right.
pub fn expect(view: &View<'_>, c: &Outcome, used: &mut Used) -> Outcome {
    let mut expected = c.clone();
    for (place, explanation) in EXPLANATIONS.iter().enumerate() {
        let Apply::Request(apply) = explanation.apply else {
            continue;
        };
        if let Some(changed) = apply(view, &expected, used) {
            used.push(place);
            expected = changed;
        }
    }
    expected
}

/// Likewise for what became of packets.
pub fn expect_packets(history: &History, c: &Outcome, used: &mut Used) -> Outcome {
    let mut expected = c.clone();
    for (place, explanation) in EXPLANATIONS.iter().enumerate() {
        let Apply::Packets(apply) = explanation.apply else {
            continue;
        };
        if let Some(changed) = apply(history, &expected) {
            used.push(place);
            expected = changed;
        }
    }
    expected
}

/// Whether it tells of a soft limit.
pub fn is_soft(message: &Message) -> bool {
    let hard = message.body.get(size_of::<Info>());
    message.kind == kind::EXPIRE && hard == Some(&0)
}

/// Another form of a request, that the in-tree handler takes if it has refused
/// this one with a text for which there is no reason.
pub fn retry(request: &Message, text: &str) -> Option<Message> {
    let request = request.whole().split(HEADER);
    match text {
        MTIMER if request.number(attr::MTIMER_THRESH) == 0 => {
            Some(request.without(&[attr::MTIMER_THRESH]))
        }
        NO_OFFLOAD => {
            let mut software = request.without(&[attr::OFFLOAD_DEV]);
            with_header(&mut software, |header| header.flags |= CLEAR_OFFLOAD);
            Some(software)
        }
        _ => None,
    }
}

const MTIMER: &str = "MTIMER_THRESH requires encapsulation";
const NO_OFFLOAD: &str = "Type doesn't support offload";
const NOT_TOLD: &str = "Failed to send migration notification";
const REST: &str = "bytes leftover after parsing attributes";
const LONE_MASK: &str = "SET_MARK_MASK requires SET_MARK";
const OFFLOAD_TWICE: &str = "OFFLOAD_DEV and the CLEAR_OFFLOAD flag exclude each other";
const NOT_FOUND: &str = "Can not find state";
const PROTOCOL: &str = "Only ESP, AH and IPComp SAs can be migrated";
const LARVAL: &str = "Can not migrate a larval SA";
const PREFIX4: &str = "Invalid prefix length in selector (must be <= 32 for IPv4)";
const PREFIX6: &str = "Invalid prefix length in selector (must be <= 128 for IPv6)";
const NOT_H2H: &str = "SA selector is not a single-host match for SA addresses";
const ENCAP_PORT: &str = "Encapsulation ports must not be zero";
const OCCUPIED: &str = "New SA tuple already occupied";

/// The checks, in their order. Those that only ours makes stand where it makes them.
const CHECKS: [&str; 23] = [
    "Invalid header length",
    "Invalid attribute SA_DIR",
    "Invalid attribute SA_PCPU",
    "Invalid SPI 0x0",
    "Reserved field must be zero",
    "Unknown flags: ",
    "Invalid address family",
    "Invalid prefix length in selector",
    "Invalid address family in selector",
    LONE_MASK,
    OFFLOAD_TWICE,
    NOT_FOUND,
    PROTOCOL,
    LARVAL,
    PREFIX4,
    PREFIX6,
    NOT_H2H,
    "Unsupported encapsulation type",
    ENCAP_PORT,
    MTIMER,
    "MTIMER_THRESH should not be set on output SA",
    "NAT_KEEPALIVE_INTERVAL requires encapsulation",
    OCCUPIED,
];

/// Where the in-tree handler ended; behind all checks if it made or tried to make an SA.
fn stage(ack: &Ack) -> usize {
    const PARSING: usize = 0;
    let text = ack.text();
    // Only what is wrong with an attribute has a place.
    if ack.details.iter().any(|(kind, _)| *kind != 1) || ack.errno == Errno::RANGE.raw_os_error() {
        return PARSING;
    }
    let is = |check: &&str| match *check {
        "Invalid address family" => text == *check,
        check => text.starts_with(check),
    };
    CHECKS.iter().position(is).unwrap_or(CHECKS.len())
}

/// Ours refuses, where the other goes on to a later check or does it.
fn refused(view: &View<'_>, c: &Outcome, why: bool, errno: Errno, text: &str) -> Option<Outcome> {
    let check = CHECKS.iter().position(|check| *check == text);
    let later = stage(&c.ack) > check.expect("a check of ours");
    (why && later).then(|| Outcome {
        ack: Ack::refusal(errno.raw_os_error(), text),
        sas: view.before.to_vec(),
        ..Outcome::default()
    })
}

/// A migration that was done: changes of its SA, and of what was told about it; then of
/// the SA that the kernel made for it.
fn done(
    view: &View<'_>,
    c: &Outcome,
    mut change: impl FnMut(&mut Message, Option<&mut Message>),
) -> Option<Outcome> {
    if c.ack.errno != 0 {
        return None;
    }
    let mut changed = c.clone();
    let told = changed.told.first_mut().map(|(_, message)| message);
    let (new, others) = changed.sas.split_first_mut()?;
    change(new, told);
    for sa in others {
        if sa.is_hidden() && !view.before.contains(sa) {
            change(sa, None);
        }
    }
    (changed != *c).then_some(changed)
}

/// The attributes of a notification, in their order.
const TOLD: [u16; 8] = [
    attr::ENCAP,
    attr::OFFLOAD_DEV,
    attr::MARK,
    attr::SET_MARK,
    attr::SET_MARK_MASK,
    attr::MTIMER_THRESH,
    attr::NAT_KEEPALIVE_INTERVAL,
    attr::SA_DIR,
];

fn tell(told: &mut Message, kind: u16, value: &[u8]) {
    let place = |kind: u16| TOLD.iter().position(|known| *known == kind);
    told.attrs.retain(|(known, _)| *known != kind);
    let after = told
        .attrs
        .iter()
        .position(|(known, _)| place(*known) > place(kind));
    let at = after.unwrap_or(told.attrs.len());
    told.attrs.insert(at, (kind, value.to_vec()));
}

fn drop_attr(message: &mut Message, kind: u16) {
    message.attrs.retain(|(known, _)| *known != kind);
}

fn with_info(sa: &mut Message, change: impl FnOnce(&mut Info)) {
    let mut info = sa.info();
    change(&mut info);
    sa.set_info(&info);
}

fn with_header(told: &mut Message, change: impl FnOnce(&mut MigrateState)) {
    let mut header: MigrateState = read(&told.body).expect("a notification has its fixed part");
    change(&mut header);
    told.body = header.as_bytes().to_vec();
}

fn trim(selector: &mut Selector) {
    if selector.family != AF_UNSPEC {
        *selector = selector.trimmed();
    }
}

/// Those about a refusal first, in the order of the checks.
pub const EXPLANATIONS: [Explanation; 23] = [
    Explanation {
        row: 14,
        what: "a mask without an output mark is refused",
        apply: Apply::Request(|view, c, _| {
            let has = |kind| view.request.attr(kind).is_some();
            let lone = has(attr::SET_MARK_MASK) && !has(attr::SET_MARK);
            refused(view, c, lone, Errno::INVAL, LONE_MASK)
        }),
    },
    Explanation {
        row: 11,
        what: "offload is set and cleared",
        apply: Apply::Request(|view, c, _| {
            let clear = view.header.flags & CLEAR_OFFLOAD != 0;
            let set = view.request.attr(attr::OFFLOAD_DEV).is_some();
            refused(view, c, clear && set, Errno::INVAL, OFFLOAD_TWICE)
        }),
    },
    Explanation {
        row: 9,
        what: "an SA with another mark is not meant",
        apply: Apply::Request(|view, c, _| {
            let other = view.found.is_some() && view.old.is_none();
            refused(view, c, other, Errno::SRCH, NOT_FOUND)
        }),
    },
    Explanation {
        row: 5,
        what: "an SA of the kernel's own",
        apply: Apply::Request(|view, c, _| {
            let own = view.old.is_some_and(Sa::is_hidden);
            refused(view, c, own, Errno::INVAL, PROTOCOL)
        }),
    },
    Explanation {
        row: 18,
        what: "a larval SA",
        apply: Apply::Request(|view, c, _| {
            let larval = view.old.is_some_and(Sa::is_larval);
            refused(view, c, larval, Errno::INVAL, LARVAL)
        }),
    },
    Explanation {
        row: 16,
        what: "prefixes of a selector without family are checked",
        apply: Apply::Request(|view, c, _| {
            let header = &view.header;
            let sel = &header.new_sel;
            let longest = sel.prefixlen_d.max(sel.prefixlen_s);
            let wrong = !view.host_to_host()
                && sel.family == AF_UNSPEC
                && longest > host_prefix(header.new_family);
            let text = match header.new_family {
                AF_INET => PREFIX4,
                _ => PREFIX6,
            };
            refused(view, c, wrong, Errno::INVAL, text)
        }),
    },
    Explanation {
        row: 17,
        what: "a host selector of the other family is none",
        apply: Apply::Request(|view, c, _| {
            let other = |sa: &Message| sa.info().sel.family != sa.info().family;
            let wrong = view.host_to_host() && view.old.is_some_and(other);
            refused(view, c, wrong, Errno::INVAL, NOT_H2H)
        }),
    },
    Explanation {
        row: 19,
        what: "encapsulation with a port of 0",
        apply: Apply::Request(|view, c, _| {
            let wrong = view.attr::<Encap>(attr::ENCAP).is_some_and(|encap| {
                encap.encap_type == UDP_ENCAP_ESPINUDP
                    && (encap.sport == [0; 2] || encap.dport == [0; 2])
            });
            refused(view, c, wrong, Errno::INVAL, ENCAP_PORT)
        }),
    },
    Explanation {
        row: 8,
        what: "the new mark is another SA's",
        apply: Apply::Request(|view, c, _| {
            let old = view.old?;
            let (info, mark) = (old.info(), view.mark());
            let header = &view.header;
            let stays = header.new_family == info.family
                && header.new_daddr.equals(&info.daddr, info.family);
            let id = &header.id;
            let taken = view.before.iter().any(|sa| {
                !std::ptr::eq(sa, old)
                    && sa.takes(&info.daddr, id.spi, id.proto, info.family, mark.v)
            });
            let collides = stays && mark != old.mark() && taken;
            refused(view, c, collides, Errno::EXIST, OCCUPIED)
        }),
    },
    Explanation {
        row: 15,
        what: "there is no threshold to be cleared",
        apply: Apply::Request(|view, c, used| {
            let retried = c.retry.as_ref().filter(|_| c.ack.text() == MTIMER)?;
            if view.encap().is_some() {
                return None;
            }
            let request = view.request.without(&[attr::MTIMER_THRESH]);
            let view = View::new(view.before, view.heard, &request);
            Some(expect(&view, retried, used))
        }),
    },
    Explanation {
        row: 1,
        what: "an ESP SA can be offloaded",
        apply: Apply::Request(offloaded),
    },
    Explanation {
        row: 1,
        what: "an ESP SA can be offloaded, but this device can't",
        apply: Apply::Request(|view, c, _| {
            can_offload(view, c)?;
            let text = device_refuses(view)?;
            Some(Outcome {
                ack: Ack::refusal(Errno::INVAL.raw_os_error(), text),
                sas: view.before.to_vec(),
                ..Outcome::default()
            })
        }),
    },
    Explanation {
        row: 21,
        what: "what fails while the SA is made has its errno",
        apply: Apply::Request(|_, c, _| {
            let unsupported = [
                "Only tunnel modes can accommodate a change of family",
                "Requested mode not found",
                "Requested type not found",
            ];
            let masked = c.ack.errno == Errno::INVAL.raw_os_error();
            (masked && unsupported.contains(&c.ack.text())).then(|| {
                let mut right = c.clone();
                right.ack.errno = Errno::PROTONOSUPPORT.raw_os_error();
                right
            })
        }),
    },
    Explanation {
        row: 10,
        what: "no listener is no error",
        apply: Apply::Request(|view, c, _| {
            let complains = c.ack.errno == 0 && c.ack.text() == NOT_TOLD && !view.heard;
            complains.then(|| {
                let mut right = c.clone();
                right.ack.set_text(view.has_rest.then_some(REST));
                right
            })
        }),
    },
    Explanation {
        row: 12,
        what: "statistics are kept",
        apply: Apply::Request(|view, c, _| {
            let stats = view.old?.info().stats;
            done(view, c, |sa, _| {
                let hidden = sa.is_hidden();
                with_info(sa, |info| {
                    if !hidden && info.stats == [0; 3] {
                        info.stats = stats;
                    }
                });
            })
        }),
    },
    Explanation {
        row: 14,
        what: "an output mark of 0 is none",
        apply: Apply::Request(|view, c, _| {
            let all_ones = [(attr::SET_MARK, 0), (attr::SET_MARK_MASK, u32::MAX)];
            let wrong = |message: &Message| {
                let said = |(kind, value): &(u16, u32)| {
                    message.attr(*kind) == Some(&value.to_ne_bytes()[..])
                };
                all_ones.iter().all(said)
            };
            let clear = |message: &mut Message| {
                if view.clears_output_mark() && wrong(message) {
                    drop_attr(message, attr::SET_MARK);
                    drop_attr(message, attr::SET_MARK_MASK);
                }
            };
            done(view, c, |sa, told| {
                clear(sa);
                told.map(clear);
            })
        }),
    },
    Explanation {
        row: 16,
        what: "a selector without family takes that of the SA",
        apply: Apply::Request(|view, c, _| {
            let unspecified = view.old?.info().flags & STATE_AF_UNSPEC != 0;
            let family = view.header.new_family;
            done(view, c, |sa, told| {
                if unspecified || view.host_to_host() || sa.info().sel.family != AF_UNSPEC {
                    return;
                }
                with_info(sa, |info| info.sel.family = family);
                if let Some(told) = told {
                    with_header(told, |header| header.new_sel.family = family);
                }
            })
        }),
    },
    Explanation {
        row: 22,
        what: "unused bytes are zeroed",
        apply: Apply::Request(|view, c, _| {
            done(view, c, |sa, told| {
                with_info(sa, |info| {
                    info.daddr = info.daddr.trimmed(info.family);
                    info.saddr = info.saddr.trimmed(info.family);
                    trim(&mut info.sel);
                });
                let Some(told) = told else { return };
                with_header(told, |header| {
                    header.id.daddr = header.id.daddr.trimmed(header.id.family);
                    header.id.pad = 0;
                    header.new_daddr = header.new_daddr.trimmed(header.new_family);
                    header.new_saddr = header.new_saddr.trimmed(header.new_family);
                    trim(&mut header.new_sel);
                });
                if let Some(encap) = told.encap() {
                    let zeroed = Encap {
                        pad: [0; 2],
                        ..encap
                    };
                    tell(told, attr::ENCAP, zeroed.as_bytes());
                }
            })
        }),
    },
    Explanation {
        row: 13,
        what: "encapsulation that was removed is not told",
        apply: Apply::Request(|view, c, _| {
            done(view, c, |_, told| {
                if let Some(told) = told.filter(|t| t.encap().is_some_and(|e| e.encap_type == 0)) {
                    drop_attr(told, attr::ENCAP);
                }
            })
        }),
    },
    Explanation {
        row: 13,
        what: "a device that does not offload is not told",
        apply: Apply::Request(|view, c, _| {
            done(view, c, |sa, told| {
                if let Some(told) = told.filter(|_| sa.offload().is_none()) {
                    drop_attr(told, attr::OFFLOAD_DEV);
                }
            })
        }),
    },
    Explanation {
        row: 13,
        what: "the mark that is told is the SA's",
        apply: Apply::Request(|view, c, _| {
            done(view, c, |sa, told| {
                let Some(told) = told else { return };
                match sa.mark() {
                    mark if mark.is_set() => tell(told, attr::MARK, mark.as_bytes()),
                    _ => drop_attr(told, attr::MARK),
                }
            })
        }),
    },
    Explanation {
        row: 20,
        what: "the sender that is told is genuine",
        apply: Apply::Request(|view, c, _| {
            done(view, c, |_, told| {
                if let Some(told) = told.filter(|told| told.port == view.request.port) {
                    told.port = OWN_PORT;
                }
            })
        }),
    },
    Explanation {
        row: 12,
        what: "a soft limit is told once",
        apply: Apply::Packets(|history, c| {
            if !(history.migrated && history.warned) {
                return None;
            }
            let mut right = c.clone();
            right.told.retain(|(_, message)| !is_soft(message));
            (right != *c).then_some(right)
        }),
    },
];

/// Whether only the in-tree handler can't offload this SA.
fn can_offload(view: &View<'_>, c: &Outcome) -> Option<()> {
    let esp = view.old?.info().proto == sa::ESP;
    (esp && c.ack.text() == NO_OFFLOAD && view.offload().is_some()).then_some(())
}

/// The same as without offload, but with it.
fn offloaded(view: &View<'_>, c: &Outcome, used: &mut Used) -> Option<Outcome> {
    can_offload(view, c)?;
    if device_refuses(view).is_some() {
        return None;
    }
    let retried = c.retry.as_ref()?;
    let request = retry(&view.request, NO_OFFLOAD)?;
    let software = View::new(view.before, view.heard, &request);
    let mut right = expect(&software, retried, used);
    let asked = view.offload()?;
    let known = module::xfrm::uapi::OFFLOAD_INBOUND | OFFLOAD_PACKET;
    let offload = Offload {
        flags: asked.flags & known,
        pad: [0; 3],
        ..asked
    };
    let sa = right.sas.first_mut()?;
    sa.attrs
        .push((attr::OFFLOAD_DEV, offload.as_bytes().to_vec()));
    sa.attrs.sort();
    for (_, told) in &mut right.told {
        tell(told, attr::OFFLOAD_DEV, offload.as_bytes());
        with_header(told, |header| header.flags = view.header.flags);
    }
    Some(right)
}

/// Why netdevsim doesn't take this SA.
fn device_refuses(view: &View<'_>) -> Option<&'static str> {
    if view.offload()?.flags & OFFLOAD_PACKET != 0 {
        return Some("netdevsim: Unsupported ipsec offload type");
    }
    let aead = view.old?.attr(attr::ALG_AEAD);
    let right = |aead: &[u8]| {
        let bits: Option<[u32; 2]> = aead.get(64..).and_then(read);
        aead.starts_with(b"rfc4106(gcm(aes))\0") && bits == Some([160, 128])
    };
    match aead.is_some_and(right) {
        true => None,
        false => Some("netdevsim: Failed to get key data for SA table"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The rows of the table.
    fn rows() -> BTreeSet<u8> {
        let table = include_str!("../../../docs/differences.md");
        let row = |line: &str| line.strip_prefix("| ")?.split(' ').next()?.parse().ok();
        table.lines().filter_map(row).collect()
    }

    #[test]
    fn every_row_is_explained_or_said_to_be_out_of_reach() {
        let explained: BTreeSet<u8> = EXPLANATIONS.iter().map(|e| e.row).collect();
        let not_here: BTreeSet<u8> = NOT_HERE.iter().map(|(row, _)| *row).collect();
        assert!(explained.is_disjoint(&not_here));
        assert_eq!(&explained | &not_here, rows());
    }

    #[test]
    fn refusals_come_in_the_order_of_the_checks() {
        let prefix = "Invalid prefix length in selector";
        for (at, check) in CHECKS.iter().enumerate() {
            // The in-tree handler checks prefixes once, and early.
            let early = check
                .starts_with(prefix)
                .then(|| CHECKS.iter().position(|c| *c == prefix));
            assert_eq!(
                stage(&Ack::refusal(22, check)),
                early.flatten().unwrap_or(at)
            );
        }
        assert_eq!(stage(&Ack::default()), CHECKS.len());
    }
}

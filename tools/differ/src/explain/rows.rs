// SPDX-License-Identifier: GPL-2.0

//! The rows.

use super::checks::{
    is_behind, refused, ENCAP_PORT, LARVAL, LONE_MASK, MTIMER, NOT_FOUND, NOT_H2H, NOT_TOLD,
    OCCUPIED, OFFLOAD_TWICE, PREFIX4, PREFIX6, PROTOCOL, REST,
};
use super::done::{done, drop_attr, tell, trim, with_header, with_info};
use super::offload::{can_offload, device_refuses, offloaded};
use super::{expect_retried, is_soft, Apply, Explanation};
use crate::case::{Ack, Outcome};
use crate::message::{Message, OWN_PORT};
use crate::sa::{attr, host_prefix, Sa};
use module::xfrm::uapi::{
    Encap, AF_INET, AF_UNSPEC, CLEAR_OFFLOAD, STATE_AF_UNSPEC, UDP_ENCAP_ESPINUDP,
};
use rustix::io::Errno;
use zerocopy::IntoBytes;

/// Rows that no single request can show, and why.
pub const NOT_HERE: [(u8, &str); 7] = [
    (
        2,
        "the packets sent here are for ciphers without a generator of IVs",
    ),
    (3, "needs packets that are being decrypted meanwhile"),
    (4, "needs packets on their way meanwhile"),
    (6, "needs an SA that expires meanwhile"),
    (7, "needs an offloaded SA that expires meanwhile"),
    (
        33,
        "the packets sent here are for ciphers without a generator of IVs",
    ),
    (34, "needs a device that receives meanwhile"),
];

/// Those about a refusal first, in the order of the checks.
pub const EXPLANATIONS: [Explanation; 24] = [
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
        row: 9,
        what: "the mark's SA wins over a newer one that takes the mark",
        apply: Apply::Unknown(|view, c| match (view.found, view.old) {
            (Some(found), Some(old)) => !std::ptr::eq(found, old) && is_behind(&c.ack, NOT_FOUND),
            _ => false,
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
            Some(expect_retried(view, &request, retried, used))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The rows of the table.
    fn rows() -> BTreeSet<u8> {
        let table = include_str!("../../../../docs/differences.md");
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
}

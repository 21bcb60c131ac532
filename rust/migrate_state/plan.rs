// SPDX-License-Identifier: GPL-2.0

//! What the new SA will be: the request applied to the SA it is for.

use super::{
    refusal::Refusal,
    request::{check_prefixes, OffloadChange, Request},
};
use crate::xfrm::{
    migrate::snapshot::{Changes, Snapshot},
    uapi::{self, Encap, Offload, Selector},
};

/// What is to be done for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How the new SA differs from the old one; the rest is inherited.
    pub changes: Changes,
    /// Device and direction of the offload.
    pub offload: Option<Offload>,
    /// Whether another SA may be found under the new destination and mark.
    pub moves: bool,
}

impl Plan {
    /// Makes the plan, or says why there can be none.
    pub fn new(request: &Request, old: &Snapshot) -> Result<Self, Refusal> {
        check_kind(old)?;
        let header = &request.header;
        let selector = new_selector(request, old)?;
        let encap = new_encap(request, old)?;

        match request.mapping_maxage {
            // "Send 0 to clear": nothing to be cleared is no reason to fail.
            None | Some(0) if encap.is_none() => {}
            Some(_) if encap.is_none() => return Err(Refusal::MtimerWithoutEncap),
            Some(_) if old.dir == uapi::SA_DIR_OUT => return Err(Refusal::MtimerOnOutput),
            _ => {}
        }
        if encap.is_none() && request.nat_keepalive.unwrap_or(0) != 0 {
            return Err(Refusal::KeepaliveWithoutEncap);
        }

        let with_encap = |asked: Option<u32>, inherited| match encap {
            Some(_) => asked.unwrap_or(inherited),
            None => 0,
        };
        let mark = request.mark.unwrap_or(old.mark).masked();
        Ok(Self {
            changes: Changes {
                daddr: header.new_daddr,
                saddr: header.new_saddr,
                family: header.new_family,
                reqid: header.new_reqid,
                selector,
                mark,
                output_mark: request.set_mark.unwrap_or(old.output_mark),
                encap,
                mapping_maxage: with_encap(request.mapping_maxage, old.mapping_maxage),
                nat_keepalive: with_encap(request.nat_keepalive, old.nat_keepalive),
            },
            offload: match request.offload {
                OffloadChange::Inherit => old.offload,
                OffloadChange::Clear => None,
                OffloadChange::Set(offload) => Some(offload),
            },
            moves: header.new_family != old.family
                || !header.new_daddr.equals(&old.daddr, old.family)
                || mark != old.mark,
        })
    }
}

/// Checks that the SA is user space's, and complete.
fn check_kind(old: &Snapshot) -> Result<(), Refusal> {
    match old.proto {
        uapi::IPPROTO_ESP | uapi::IPPROTO_AH | uapi::IPPROTO_COMP => {}
        _ => return Err(Refusal::Protocol),
    }
    if old.kernel_owned {
        return Err(Refusal::KernelOwned);
    }
    if old.larval {
        return Err(Refusal::Larval);
    }
    Ok(())
}

fn new_selector(request: &Request, old: &Snapshot) -> Result<Selector, Refusal> {
    let header = &request.header;

    if request.host_to_host() {
        let width = host_prefix(old.family);
        let sel = &old.selector;
        if sel.family != old.family
            || sel.prefixlen_d != width
            || sel.prefixlen_s != width
            || !sel.daddr.equals(&old.daddr, old.family)
            || !sel.saddr.equals(&old.saddr, old.family)
        {
            return Err(Refusal::NotHostToHost);
        }
        return Ok(Selector {
            daddr: header.new_daddr,
            saddr: header.new_saddr,
            family: header.new_family,
            prefixlen_d: host_prefix(header.new_family),
            prefixlen_s: host_prefix(header.new_family),
            ..*sel
        });
    }

    let sel = &header.new_sel;
    if sel.family == uapi::AF_UNSPEC {
        check_prefixes(sel, header.new_family)?;
        // As a new SA has it: unspecified only if the SA says that it is.
        if old.flags & uapi::STATE_AF_UNSPEC == 0 {
            let family = header.new_family;
            return Ok(Selector { family, ..*sel }.trimmed());
        }
    }
    Ok(*sel)
}

fn new_encap(request: &Request, old: &Snapshot) -> Result<Option<Encap>, Refusal> {
    match request.encap {
        None => Ok(old.encap),
        Some(encap) if encap.encap_type == 0 => Ok(None),
        Some(encap) if encap.encap_type != uapi::UDP_ENCAP_ESPINUDP => Err(Refusal::EncapType),
        Some(encap) => {
            let new = Some(Encap {
                pad: [0; 2],
                ..encap
            });
            let has_ports = encap.sport != [0; 2] && encap.dport != [0; 2];
            // A new SA may have none, and then keep that.
            if has_ports || new == old.encap {
                Ok(new)
            } else {
                Err(Refusal::EncapPort)
            }
        }
    }
}

fn host_prefix(family: u16) -> u8 {
    if family == uapi::AF_INET6 {
        128
    } else {
        32
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Offload, which the in-tree handler refuses.

use super::checks::NO_OFFLOAD;
use super::done::{tell, with_header};
use super::{expect_retried, retry, Used, View};
use crate::case::Outcome;
use crate::message::read;
use crate::sa::{self, attr, Sa};
use module::xfrm::uapi::{Offload, OFFLOAD_INBOUND, OFFLOAD_PACKET};
use zerocopy::IntoBytes;

/// Whether only the in-tree handler can't offload this SA.
pub(super) fn can_offload(view: &View<'_>, c: &Outcome) -> Option<()> {
    let esp = view.old?.info().proto == sa::ESP;
    (esp && c.ack.text() == NO_OFFLOAD && view.offload().is_some()).then_some(())
}

/// The same as without offload, but with it.
pub(super) fn offloaded(view: &View<'_>, c: &Outcome, used: &mut Used) -> Option<Outcome> {
    can_offload(view, c)?;
    if device_refuses(view).is_some() {
        return None;
    }
    let retried = c.retry.as_ref()?;
    let request = retry(&view.request, NO_OFFLOAD)?;
    let mut right = expect_retried(view, &request, retried, used);
    let asked = view.offload()?;
    let known = OFFLOAD_INBOUND | OFFLOAD_PACKET;
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
pub(super) fn device_refuses(view: &View<'_>) -> Option<&'static str> {
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

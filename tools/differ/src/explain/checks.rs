// SPDX-License-Identifier: GPL-2.0

//! What the handlers check, in which order, and what they say.

use super::View;
use crate::case::{Ack, Outcome};
use rustix::io::Errno;

pub(super) const MTIMER: &str = "MTIMER_THRESH requires encapsulation";
pub(super) const NO_OFFLOAD: &str = "Type doesn't support offload";
pub(super) const NOT_TOLD: &str = "Failed to send migration notification";
pub(super) const REST: &str = "bytes leftover after parsing attributes";
pub(super) const LONE_MASK: &str = "SET_MARK_MASK requires SET_MARK";
pub(super) const OFFLOAD_TWICE: &str = "OFFLOAD_DEV and the CLEAR_OFFLOAD flag exclude each other";
pub(super) const NOT_FOUND: &str = "Can not find state";
pub(super) const PROTOCOL: &str = "Only ESP, AH and IPComp SAs can be migrated";
pub(super) const LARVAL: &str = "Can not migrate a larval SA";
pub(super) const PREFIX4: &str = "Invalid prefix length in selector (must be <= 32 for IPv4)";
pub(super) const PREFIX6: &str = "Invalid prefix length in selector (must be <= 128 for IPv6)";
pub(super) const NOT_H2H: &str = "SA selector is not a single-host match for SA addresses";
pub(super) const ENCAP_PORT: &str = "Encapsulation ports must not be zero";
pub(super) const OCCUPIED: &str = "New SA tuple already occupied";

/// The checks, in their order. Those that only ours makes stand where it makes them.
pub(super) const CHECKS: [&str; 23] = [
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
pub(super) fn stage(ack: &Ack) -> usize {
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

/// Whether the in-tree handler went on behind this check.
pub(super) fn is_behind(ack: &Ack, check: &str) -> bool {
    let place = CHECKS.iter().position(|known| *known == check);
    stage(ack) > place.expect("a check of ours")
}

/// Ours refuses, where the other goes on to a later check or does it.
pub(super) fn refused(
    view: &View<'_>,
    c: &Outcome,
    why: bool,
    errno: Errno,
    text: &str,
) -> Option<Outcome> {
    (why && is_behind(&c.ack, text)).then(|| Outcome {
        ack: Ack::refusal(errno.raw_os_error(), text),
        sas: view.before.to_vec(),
        ..Outcome::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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

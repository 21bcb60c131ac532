// SPDX-License-Identifier: GPL-2.0

//! Where the handlers are meant to differ: the rows of docs/differences.md.
//!
//! Each explanation turns what the in-tree handler gives, if that is what the
//! row says, into what ours has to give. What none of them turns has to be
//! equal as it is.

mod checks;
mod done;
mod offload;
mod rows;

pub use rows::{EXPLANATIONS, NOT_HERE};

use crate::case::Outcome;
use crate::message::{has_rest, kind, read, Message};
use crate::sa::{attr, Sa};
use checks::{MTIMER, NO_OFFLOAD, REST};
use done::with_header;
use module::xfrm::uapi::{
    Encap, Mark, MigrateState, Offload, SaInfo, CLEAR_OFFLOAD, UPDATE_H2H_SEL,
};
use zerocopy::FromZeros;

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
    /// None: the in-tree handler has taken another SA, and what it would have made of the
    /// right one nobody knows.
    Unknown(fn(&View<'_>, &Outcome) -> bool),
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

/// Which explanations were needed, and which one doesn't count.
#[derive(Clone, Debug, Default)]
pub struct Used {
    /// Places in [`EXPLANATIONS`].
    pub places: Vec<usize>,
    without: Option<u8>,
}

impl Used {
    /// None so far; those of this row are never to be.
    pub fn without(row: Option<u8>) -> Self {
        Self {
            places: Vec::new(),
            without: row,
        }
    }

    /// All that count, with their places.
    fn known(&self) -> impl Iterator<Item = (usize, &'static Explanation)> {
        let without = self.without;
        let all = EXPLANATIONS.iter().enumerate();
        all.filter(move |(_, explanation)| Some(explanation.row) != without)
    }
}

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
    pub found: Option<&'a Message>,
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
    for (place, explanation) in used.known() {
        let Apply::Request(apply) = explanation.apply else {
            continue;
        };
        if let Some(changed) = apply(view, &expected, used) {
            used.places.push(place);
            expected = changed;
        }
    }
    expected
}

/// Whether the outcome of the in-tree handler says something about the right one.
pub fn comparable(view: &View<'_>, c: &Outcome, used: &mut Used) -> bool {
    for (place, explanation) in used.known() {
        if matches!(explanation.apply, Apply::Unknown(applies) if applies(view, c)) {
            used.places.push(place);
            return false;
        }
    }
    true
}

/// What is right if the in-tree handler answered the other form of a request, [`retry`].
fn expect_retried(
    view: &View<'_>,
    request: &Message,
    retried: &Outcome,
    used: &mut Used,
) -> Outcome {
    let mut right = expect(&View::new(view.before, view.heard, request), retried, used);
    // That form has lost what follows the attributes, and netlink's word about it, which
    // stays unless there is another.
    if view.has_rest && right.ack.text().is_empty() {
        right.ack.set_text(Some(REST));
    }
    right
}

/// Likewise for what became of packets.
pub fn expect_packets(history: &History, c: &Outcome, used: &mut Used) -> Outcome {
    let mut expected = c.clone();
    for (place, explanation) in used.known() {
        let Apply::Packets(apply) = explanation.apply else {
            continue;
        };
        if let Some(changed) = apply(history, &expected) {
            used.places.push(place);
            expected = changed;
        }
    }
    expected
}

/// Whether it tells of a soft limit.
pub fn is_soft(message: &Message) -> bool {
    let hard = message.body.get(size_of::<SaInfo>());
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

// SPDX-License-Identifier: GPL-2.0

//! What ours did against what it should have done.

use crate::case::{Case, Outcome, Step, Trace};
use crate::explain::{
    comparable, expect, expect_packets, is_soft, History, Used, View, EXPLANATIONS,
};
use crate::message::Message;
use crate::sa::Sa;
use crate::words;

/// How far two traces agree.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Requests that were compared.
    pub compared: usize,
    /// Of those, how many were done.
    pub done: usize,
    /// Which explanations were needed.
    pub used: Used,
    /// The step at which ours is wrong (all if it is what came before or after), and how.
    pub failure: Option<(usize, Vec<Difference>)>,
}

/// One thing that isn't as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub what: String,
    pub right: String,
    pub ours: String,
}

/// Compares step by step, until the SAs differ as they should: not only in a dump, so that
/// a migration that only one has done is the last step. Explanations of the row
/// `without` don't count.
pub fn compare(case: &Case, c: &Trace, ours: &Trace, without: Option<u8>) -> Verdict {
    let mut verdict = Verdict {
        used: Used::without(without),
        ..Verdict::default()
    };
    let fail = |step, differences: Vec<Difference>| {
        (!differences.is_empty()).then_some((step, differences))
    };
    verdict.failure = fail(0, start(c, ours));
    let mut before = &ours.start;
    let mut history = History::default();
    for (number, step) in case.steps.iter().enumerate() {
        if verdict.failure.is_some() {
            return verdict;
        }
        let (Some(theirs), Some(ours)) = (c.outcomes.get(number), ours.outcomes.get(number)) else {
            return verdict;
        };
        let right = match step {
            Step::Migrate(request) => {
                verdict.compared += 1;
                verdict.done += usize::from(ours.ack.errno == 0);
                let view = View::new(before, case.heard, request);
                if !comparable(&view, theirs, &mut verdict.used) {
                    verdict.failure = fail(number, taken(&view, ours));
                    return verdict;
                }
                let mut right = expect(&view, theirs, &mut verdict.used);
                right.retry = None;
                right
            }
            Step::Packets(_) => expect_packets(&history, theirs, &mut verdict.used),
        };
        history.migrated |= matches!(step, Step::Migrate(_)) && ours.ack.errno == 0;
        history.warned |= ours.told.iter().any(|(_, message)| is_soft(message));
        let mut found = differences(&right, ours);
        if ours.ack.errno != 0 && &ours.sas != before {
            found.push(Difference {
                what: "SAs after a refusal".into(),
                right: "as before".into(),
                ours: "changed".into(),
            });
        }
        verdict.failure = fail(number, found);
        let last = theirs.last();
        let same = (last.ack.errno == 0) == (ours.ack.errno == 0) && last.sas == ours.sas;
        if verdict.failure.is_none() && !same {
            return verdict;
        }
        before = &ours.sas;
    }
    if verdict.failure.is_none() {
        let mut found = Vec::new();
        list(&mut found, "end", &c.end, &ours.end);
        verdict.failure = fail(case.steps.len(), found);
    }
    verdict
}

/// Ours has to leave the SA alone that only the in-tree handler takes.
fn taken(view: &View<'_>, ours: &Outcome) -> Vec<Difference> {
    let alone = view.found.is_none_or(|sa| ours.sas.contains(sa));
    let wrong = Difference {
        what: "the newer SA that takes the mark".into(),
        right: "as before".into(),
        ours: "changed".into(),
    };
    (!alone).then_some(wrong).into_iter().collect()
}

fn start(c: &Trace, ours: &Trace) -> Vec<Difference> {
    let mut found = Vec::new();
    note(
        &mut found,
        "answers before the first step",
        &c.made,
        &ours.made,
    );
    list(
        &mut found,
        "SAs before the first step",
        &c.start,
        &ours.start,
    );
    found
}

/// All that is not as it should be.
pub fn differences(right: &Outcome, ours: &Outcome) -> Vec<Difference> {
    let mut found = Vec::new();
    if right.ack != ours.ack {
        found.push(Difference {
            what: "answer".into(),
            right: right.ack.to_string(),
            ours: ours.ack.to_string(),
        });
    }
    let told = |outcome: &Outcome| {
        outcome
            .told
            .iter()
            .map(|(_, m)| m.clone())
            .collect::<Vec<_>>()
    };
    let seqs = |outcome: &Outcome| outcome.told.iter().map(|(s, _)| *s).collect::<Vec<_>>();
    list(&mut found, "notification", &told(right), &told(ours));
    note(
        &mut found,
        "sequence numbers of notifications",
        &seqs(right),
        &seqs(ours),
    );
    list(&mut found, "SA", &right.sas, &ours.sas);
    note(&mut found, "traffic", &right.traffic, &ours.traffic);
    found
}

fn note<T: std::fmt::Debug + PartialEq + ?Sized>(
    found: &mut Vec<Difference>,
    what: &str,
    a: &T,
    b: &T,
) {
    if a != b {
        found.push(Difference {
            what: what.into(),
            right: format!("{a:?}"),
            ours: format!("{b:?}"),
        });
    }
}

fn list(found: &mut Vec<Difference>, what: &str, right: &[Message], ours: &[Message]) {
    let both = right.len().min(ours.len());
    note(
        found,
        &format!("more of {what}"),
        &right[both..],
        &ours[both..],
    );
    for (right, ours) in right.iter().zip(ours).filter(|(right, ours)| right != ours) {
        note(found, &format!("{what}: type"), &right.kind, &ours.kind);
        note(found, &format!("{what}: flags"), &right.flags, &ours.flags);
        note(found, &format!("{what}: port"), &right.port, &ours.port);
        let body = |message: &Message| match message.body.len() {
            224 => format!("{:?}", message.info()),
            132 => words::migrate(message),
            _ => format!("{:02x?}", message.body),
        };
        if right.body != ours.body {
            found.push(Difference {
                what: format!("{what}: fixed part"),
                right: body(right),
                ours: body(ours),
            });
        }
        let mut kinds: Vec<_> = right
            .attrs
            .iter()
            .chain(&ours.attrs)
            .map(|(k, _)| *k)
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            let value = |message: &Message| message.attr(kind).map(<[u8]>::to_vec);
            note(
                found,
                &format!("{what}: attribute {kind}"),
                &value(right),
                &value(ours),
            );
        }
        let order = |message: &Message| message.attrs.iter().map(|(k, _)| *k).collect::<Vec<_>>();
        if found.is_empty() {
            note(
                found,
                &format!("{what}: order of attributes"),
                &order(right),
                &order(ours),
            );
        }
    }
}

/// How a case is reported: what to type, and what comes of it.
pub fn report(case: &Case, verdict: &Verdict) -> String {
    let mut lines: Vec<String> = case.sas.iter().map(words::add).collect();
    if !case.heard {
        lines.push("# nobody listens".into());
    }
    for step in &case.steps {
        lines.push(match step {
            Step::Migrate(request) => words::migrate(request),
            Step::Packets(count) => format!("# {count} packets through the newest SA"),
        });
    }
    if let Some((step, differences)) = &verdict.failure {
        for difference in differences {
            let Difference { what, right, ours } = difference;
            lines.push(format!("step {}: {what}", step + 1));
            lines.push(format!("  right  {right}"));
            lines.push(format!("  ours   {ours}"));
        }
    }
    for place in &verdict.used.places {
        let explanation = &EXPLANATIONS[*place];
        lines.push(format!("(row {}: {})", explanation.row, explanation.what));
    }
    lines.join("\n")
}

// SPDX-License-Identifier: GPL-2.0

//! Sends the same random requests to both handlers of XFRM_MSG_MIGRATE_STATE,
//! from equal states, and compares all that can be seen.
//!
//! usage: differ C RUST DEVICE SEED REQUESTS [CASE | without ROW]
//!
//! C and RUST name network namespaces (files of nsfs): that which the in-tree
//! handler serves and ours. DEVICE is the index of one that offloads ESP, in
//! both. REQUESTS is how many to send, or `all`: until one fails. CASE: only
//! this one, printed whatever comes of it. ROW: as if docs/differences.md hadn't
//! this row, so that what it says is found as a failure.
//!
//! The status is 0 if all were answered as they should be, and each
//! explanation of a difference was needed (if there were enough requests).

mod case;
mod compare;
mod explain;
mod generate;
mod message;
mod minimise;
mod sa;
mod side;
mod words;

use case::{Case, Trace};
use compare::{compare, report, Verdict};
use explain::{EXPLANATIONS, NOT_HERE};
use generate::World;
use side::Side;
use std::collections::VecDeque;
use std::io;
use std::process::ExitCode;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread;

/// As many as show each explanation.
const ENOUGH: usize = 10_000;
/// Requests after which a word is said.
const PROGRESS: usize = 2_000;
/// So many kinds of failures are enough for one run.
const FAILURES: usize = 5;
/// Cases that are on their way, so that nobody waits.
const AHEAD: usize = 4;

/// Where cases go to, and traces come from.
type Channel = (Sender<Arc<Case>>, Receiver<io::Result<Trace>>);

/// Both namespaces, each with a thread in it.
struct Sides {
    channels: [Channel; 2],
    /// The row whose explanations don't count.
    without: Option<u8>,
}

impl Sides {
    fn new(c: &str, rust: &str, without: Option<u8>) -> Self {
        let start = |path: &str, retries| {
            let (cases, work) = channel::<Arc<Case>>();
            let (answer, traces) = channel();
            let path = path.to_string();
            thread::spawn(move || {
                let mut side = match Side::enter(&path, retries) {
                    Ok(side) => side,
                    Err(error) => return drop(answer.send(Err(error))),
                };
                for case in work {
                    if answer.send(side.run(&case)).is_err() {
                        return;
                    }
                }
            });
            (cases, traces)
        };
        Self {
            channels: [start(c, true), start(rust, false)],
            without,
        }
    }

    fn send(&self, case: &Arc<Case>) {
        for (cases, _) in &self.channels {
            // If the thread is gone, it has left the reason.
            let _ = cases.send(case.clone());
        }
    }

    fn receive(&self, case: &Case) -> io::Result<Verdict> {
        let trace = |side: usize| {
            let (_, traces) = &self.channels[side];
            traces
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("a thread is gone")))
        };
        let (c, ours) = (trace(0), trace(1));
        Ok(compare(case, &c?, &ours?, self.without))
    }

    fn run(&self, case: &Case) -> io::Result<Verdict> {
        self.send(&Arc::new(case.clone()));
        self.receive(case)
    }
}

struct Options {
    world: World,
    seed: u64,
    requests: usize,
    case: Option<u64>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some((sides, options)) = parse(&words) else {
        eprintln!("usage: differ C RUST DEVICE SEED REQUESTS|all [CASE | without ROW]");
        return ExitCode::from(2);
    };
    let result = match options.case {
        Some(number) => one(&sides, &options, number),
        None => many(&sides, &options),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("differ: {error}");
            ExitCode::from(2)
        }
    }
}

fn parse(words: &[String]) -> Option<(Sides, Options)> {
    let (c, rust) = (words.first()?, words.get(1)?);
    let requests = words.get(4)?;
    let (case, without) = match words.get(5..)? {
        [] => (None, None),
        [case] => (Some(case.parse().ok()?), None),
        [word, row] if word == "without" => (None, Some(row.parse().ok()?)),
        _ => return None,
    };
    let options = Options {
        world: World {
            device: words.get(2)?.parse().ok()?,
        },
        seed: words.get(3)?.parse().ok()?,
        requests: match requests.as_str() {
            "all" => usize::MAX,
            number => number.parse().ok()?,
        },
        case,
    };
    Some((Sides::new(c, rust, without), options))
}

fn one(sides: &Sides, options: &Options, number: u64) -> io::Result<bool> {
    let case = generate::case(options.seed, number, options.world);
    let verdict = sides.run(&case)?;
    println!("{}", report(&case, &verdict));
    Ok(verdict.failure.is_none())
}

fn many(sides: &Sides, options: &Options) -> io::Result<bool> {
    let mut cases = (0..).map(|number| {
        let case = Arc::new(generate::case(options.seed, number, options.world));
        sides.send(&case);
        (number, case)
    });
    let mut ahead: VecDeque<_> = cases.by_ref().take(AHEAD).collect();
    let (mut compared, mut done) = (0, 0);
    let mut failures = Vec::new();
    let mut used = [0usize; EXPLANATIONS.len()];
    while compared < options.requests {
        let (number, case) = ahead.pop_front().expect("cases without end");
        let verdict = sides.receive(&case)?;
        compared += verdict.compared;
        done += verdict.done;
        for place in &verdict.used.places {
            used[*place] += 1;
        }
        if let Some(whats) = whats(&verdict).filter(|whats| !failures.contains(whats)) {
            let waiting: Vec<_> = ahead.iter().map(|(_, case)| sides.receive(case)).collect();
            waiting.into_iter().collect::<io::Result<Vec<_>>>()?;
            println!(
                "seed {}, case {number}: ours is not as it should be",
                options.seed
            );
            failed(sides, &case, &verdict)?;
            failures.push(whats);
            for (_, case) in &ahead {
                sides.send(case);
            }
        }
        if failures.len() == FAILURES {
            break;
        }
        ahead.extend(cases.next());
        if compared / PROGRESS != (compared - verdict.compared) / PROGRESS {
            println!("{compared} requests, {done} done");
        }
    }
    println!("{compared} requests, {done} done");
    // Else they are too wild, or too tame, to show anything.
    let balanced = done > compared / 10 && done < compared * 9 / 10;
    if !balanced {
        println!("too many or too few of them were done");
    }
    Ok(explained(&used, compared) && balanced && failures.is_empty())
}

/// Prints how often each explanation was needed; none may be there in vain.
fn explained(used: &[usize], compared: usize) -> bool {
    let mut all = true;
    for (explanation, count) in EXPLANATIONS.iter().zip(used) {
        println!("{count:6} row {}: {}", explanation.row, explanation.what);
        all &= *count != 0;
    }
    for (row, why) in NOT_HERE {
        println!("     - row {row}: {why}");
    }
    if !all && compared >= ENOUGH {
        println!("an explanation that nothing needs is wrong");
    }
    all || compared < ENOUGH
}

/// What is different; one failure is like another if that is the same.
fn whats(verdict: &Verdict) -> Option<Vec<String>> {
    let (_, differences) = verdict.failure.as_ref()?;
    Some(
        differences
            .iter()
            .map(|difference| difference.what.clone())
            .collect(),
    )
}

fn failed(sides: &Sides, case: &Case, verdict: &Verdict) -> io::Result<()> {
    let as_before = whats(verdict);
    let again = |case: &Case| {
        sides
            .run(case)
            .is_ok_and(|verdict| whats(&verdict) == as_before)
    };
    if !again(case) {
        println!(
            "it does not happen again; what happened:\n{}",
            report(case, verdict)
        );
        return Ok(());
    }
    let small = minimise::minimise(case.clone(), again);
    println!("{}", report(&small, &sides.run(&small)?));
    Ok(())
}

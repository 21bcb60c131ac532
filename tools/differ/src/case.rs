// SPDX-License-Identifier: GPL-2.0

//! What is done in both namespaces, and what came of it.

use crate::message::{find, read, Attr, Message};
use std::fmt;

/// SAs, and what happens to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Requests that make the SAs.
    pub sas: Vec<Message>,
    pub steps: Vec<Step>,
    /// Whether somebody listens to migrations.
    pub heard: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A request, valid or not.
    Migrate(Message),
    /// Packets through the newest SA that can be used.
    Packets(u32),
}

/// What one namespace did with a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Answers to the requests that make the SAs.
    pub made: Vec<Ack>,
    /// The SAs before the first step.
    pub start: Vec<Message>,
    pub outcomes: Vec<Outcome>,
    /// What a dump doesn't show, after the last step.
    pub end: Vec<Message>,
}

/// What came of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub ack: Ack,
    /// What was told to those who listen, with the sequence numbers.
    pub told: Vec<(u32, Message)>,
    /// All SAs, the newest first.
    pub sas: Vec<Message>,
    pub traffic: Option<Traffic>,
    /// What the in-tree handler made of a request like the refused one.
    pub retry: Option<Box<Outcome>>,
}

impl Outcome {
    /// What the last form of the request gave.
    pub fn last(&self) -> &Outcome {
        match &self.retry {
            Some(retry) => retry.last(),
            None => self,
        }
    }
}

/// What became of packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub sent: u32,
    pub delivered: u32,
    /// Changes in /proc/net/xfrm_stat.
    pub errors: Vec<(String, u64)>,
}

/// The kernel's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// Positive; 0 is success.
    pub errno: i32,
    /// Text, offset and whatever else the kernel says.
    pub details: Vec<Attr>,
}

const TEXT: u16 = 1;
const OFFSET: u16 = 2;

impl Ack {
    pub fn refusal(errno: i32, text: &str) -> Self {
        let mut ack = Self {
            errno,
            details: Vec::new(),
        };
        ack.set_text(Some(text));
        ack
    }

    pub fn text(&self) -> &str {
        let bytes = find(&self.details, TEXT).unwrap_or_default();
        std::str::from_utf8(bytes)
            .unwrap_or("not UTF-8")
            .trim_end_matches('\0')
    }

    pub fn set_text(&mut self, text: Option<&str>) {
        self.details.retain(|(kind, _)| *kind != TEXT);
        if let Some(text) = text {
            let bytes = [text.as_bytes(), &[0]].concat();
            self.details.insert(0, (TEXT, bytes));
        }
    }

    fn offset(&self) -> Option<u32> {
        find(&self.details, OFFSET).and_then(read)
    }
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            0 => f.write_str("success")?,
            errno => write!(f, "{}", std::io::Error::from_raw_os_error(errno))?,
        }
        if !self.text().is_empty() {
            write!(f, " {:?}", self.text())?;
        }
        if let Some(offset) = self.offset() {
            write!(f, " at {offset}")?;
        }
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0
//! The subcommands. To add one: a file with its grammar and a `run()`,
//! a line in [`COMMANDS`], and what `tests/command.rs` then misses.

mod lag_show;
mod monitor_migrate;
mod moved_show;
mod probe;
mod show;
mod spi_show;
mod state_allocspi;
mod state_migrate;

use crate::args::Args;
use crate::error::Result;
use crate::link::Links;
use crate::output::Output;

/// One subcommand.
#[derive(Debug)]
pub struct Command {
    /// The first word.
    pub object: &'static str,
    /// The second word; empty if the object is the whole command.
    pub verb: &'static str,
    /// Its words, and after them a line for each `NAME :=` that they use. Keywords are lower case.
    pub grammar: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Runs it on the words that follow; gives the exit status.
    pub run: fn(Args<'_>, &mut Output<'_>, &dyn Links) -> Result<u8>,
}

/// All of them, in the order of the help text.
pub const COMMANDS: &[Command] = &[
    probe::COMMAND,
    state_migrate::COMMAND,
    state_allocspi::COMMAND,
    spi_show::COMMAND,
    lag_show::COMMAND,
    moved_show::COMMAND,
    show::COMMAND,
    monitor_migrate::COMMAND,
];

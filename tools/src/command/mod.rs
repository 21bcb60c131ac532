// SPDX-License-Identifier: GPL-2.0
//! The subcommands. To add one (`lag show`): a file with its grammar,
//! its usage and a `run()`, and a line in [`COMMANDS`].

mod monitor_migrate;
mod probe;
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
    /// Its part of the help text.
    pub usage: &'static str,
    /// Runs it on the words that follow; gives the exit status.
    pub run: fn(Args<'_>, &mut Output<'_>, &dyn Links) -> Result<u8>,
}

/// All of them, in the order of the help text.
pub const COMMANDS: &[Command] = &[
    probe::COMMAND,
    state_migrate::COMMAND,
    state_allocspi::COMMAND,
    spi_show::COMMAND,
    monitor_migrate::COMMAND,
];

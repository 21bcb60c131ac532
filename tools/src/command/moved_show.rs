// SPDX-License-Identifier: GPL-2.0
//! `moved show`: which SAs are also found at addresses that they have left.

use super::Command;
use crate::args::Args;
use crate::error::{Result, SUCCESS};
use crate::link::Links;
use crate::module::Module;
use crate::moved::Report;
use crate::output::Output;

pub(super) const COMMAND: Command = Command {
    object: "moved",
    verb: "show",
    grammar: "\
moved show
",
    about: "\
shows the SAs of this network namespace that also receive at an address
which they have left: that one, where they are now, and for how many
milliseconds still.
",
    run,
};

fn run(mut args: Args<'_>, output: &mut Output<'_>, _links: &dyn Links) -> Result<u8> {
    args.end()?;
    output.put(&Report::parse(&Module::proc_net("moved")?))?;
    Ok(SUCCESS)
}

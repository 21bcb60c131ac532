// SPDX-License-Identifier: GPL-2.0
//! `show`: what the module has counted in this network namespace.

use super::Command;
use crate::args::Args;
use crate::error::{Result, SUCCESS};
use crate::link::Links;
use crate::module::Module;
use crate::output::Output;
use crate::stats::Report;

pub(super) const COMMAND: Command = Command {
    object: "show",
    verb: "",
    grammar: "\
show
",
    about: "\
shows what the module has counted in this network namespace. docs/uapi.md
says what each counter means.
",
    run,
};

fn run(mut args: Args<'_>, output: &mut Output<'_>, _links: &dyn Links) -> Result<u8> {
    args.end()?;
    output.put(&Report::parse(&Module::proc_net("stat")?))?;
    Ok(SUCCESS)
}

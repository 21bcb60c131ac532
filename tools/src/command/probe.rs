// SPDX-License-Identifier: GPL-2.0
//! `probe`: asks kernel and module what they offer.

use std::io;

use super::Command;
use crate::args::Args;
use crate::error::Result;
use crate::extack::Ack;
use crate::link::Links;
use crate::module::Module;
use crate::output::Output;
use crate::probe::{question, Feature, Report};
use crate::socket::XfrmSocket;

pub(super) const COMMAND: Command = Command {
    object: "probe",
    verb: "",
    grammar: "\
probe
",
    about: "\
says whether XFRM_MSG_MIGRATE_STATE is served here, and by whom.
Exit status: 0 it is served (by the module or the kernel), 1 it is not,
2 could not ask.
",
    run,
};

fn run(mut args: Args<'_>, output: &mut Output<'_>, _links: &dyn Links) -> Result<u8> {
    args.end()?;
    let module = Module::read();
    let report = Report {
        migrate_state: Feature::migrate_state(&ask(), &module),
        module,
    };
    output.put(&report)?;
    Ok(report.status())
}

/// Asks the kernel; that there is no way to ask is an answer too.
fn ask() -> Ack {
    let answer = XfrmSocket::open().and_then(|mut socket| socket.ask(question().into()));
    answer.unwrap_or_else(|error: io::Error| Ack {
        errno: error.raw_os_error().unwrap_or_default(),
        text: None,
    })
}

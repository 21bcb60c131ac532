// SPDX-License-Identifier: GPL-2.0
//! `spi show`: the SPIs of this network namespace.

use netlink_packet_core::NLM_F_DUMP;

use super::Command;
use crate::args::Args;
use crate::error::{Error, Result, SUCCESS};
use crate::link::Links;
use crate::message::XfrmMessage;
use crate::module::Module;
use crate::output::Output;
use crate::sa::Sa;
use crate::socket::XfrmSocket;
use crate::spis::Report;

const XFRM_MSG_GETSA: u16 = 18;

pub(super) const COMMAND: Command = Command {
    object: "spi",
    verb: "show",
    grammar: "\
spi show
",
    about: "\
shows with whom a new SPI may be shared in this network namespace, how
many SAs there are, how many of them wait for their keys, and which SPIs
are shared.
",
    run,
};

fn run(mut args: Args<'_>, output: &mut Output<'_>, _links: &dyn Links) -> Result<u8> {
    args.end()?;
    let mut socket = XfrmSocket::open().map_err(Error::system("Cannot open netlink socket"))?;
    let all = XfrmMessage::Other {
        kind: XFRM_MSG_GETSA,
        payload: Vec::new(),
    };
    let answers = socket.answers(all, NLM_F_DUMP)?;
    let sas: Vec<_> = answers.iter().filter_map(Sa::of).collect();
    output.put(&Report::new(Module::spi_scope(), &sas))?;
    Ok(SUCCESS)
}

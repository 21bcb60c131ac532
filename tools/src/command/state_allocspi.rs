// SPDX-License-Identifier: GPL-2.0
//! `state allocspi`: the grammar of `ip xfrm state allocspi`, and a direction.

use super::Command;
use crate::allocspi;
use crate::args::Args;
use crate::error::{Error, Result, FAILURE, SUCCESS};
use crate::link::Links;
use crate::output::Output;
use crate::sa::{Sa, SaView};
use crate::socket::XfrmSocket;

pub(super) const COMMAND: Command = Command {
    object: "state",
    verb: "allocspi",
    grammar: "\
state allocspi [ src ADDR ] dst ADDR
        proto { esp | ah | comp } [ mode MODE ] [ mark MARK [ mask MASK ] ]
        [ reqid REQID ] [ seq SEQ ] [ min SPI max SPI ] [ dir { in | out } ]
MODE := transport | tunnel | beet | ro | in_trigger | iptfs
",
    about: "\
reserves an SPI: makes an SA that waits for its keys, and shows it. dir
says whether we will receive by it; net.xfrm_next.spi_scope says what
follows from that.
",
    run,
};

fn run(mut args: Args<'_>, output: &mut Output<'_>, _links: &dyn Links) -> Result<u8> {
    let request = allocspi::parse(&mut args)?;
    let mut socket = XfrmSocket::open().map_err(Error::system("Cannot open netlink socket"))?;
    let answers = socket.answers(request.into(), 0)?;
    let Some(sa) = answers.iter().find_map(Sa::of) else {
        eprintln!("The kernel has reserved an SPI without showing it.");
        return Ok(FAILURE);
    };
    output.put(&SaView::from(&sa))?;
    Ok(SUCCESS)
}

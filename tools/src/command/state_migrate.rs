// SPDX-License-Identifier: GPL-2.0
//! `state migrate`: the grammar of `ip xfrm state migrate`, word for word.

use super::Command;
use crate::args::Args;
use crate::error::{sentence, Error, Result, SUCCESS};
use crate::link::Links;
use crate::output::Output;
use crate::request;
use crate::socket::XfrmSocket;

pub(super) const COMMAND: Command = Command {
    object: "state",
    verb: "migrate",
    grammar: "\
state migrate dst ADDR proto XFRM-PROTO
        spi SPI [ mark MARK [ mask MASK ] ]
        new-dst ADDR new-src ADDR new-reqid REQID
        [ sel SELECTOR | update-h2h-sel ] [ new-mark MARK [ mask MASK ] ]
        [ set-mark MARK [ mask MASK ] ] [ encap ENCAP ] [ offload OFFLOAD ]
        [ { mapping-maxage | mtimer-thresh } SECONDS ] [ nat-keepalive SECONDS ]
XFRM-PROTO := esp | ah | comp | route2 | hao
SELECTOR := [ src ADDR[/PLEN] ] [ dst ADDR[/PLEN] ] [ dev DEV ] [ UPSPEC ]
UPSPEC := proto { PORTS | ICMP | GRE | PROTO }
PORTS := { tcp | udp | sctp | dccp } [ sport PORT ] [ dport PORT ]
ICMP := { icmp | ipv6-icmp | mobility-header }
        [ type NUMBER ] [ code NUMBER ]
GRE := gre [ key { DOTTED-QUAD | NUMBER } ]
ENCAP := none | espinudp SPORT DPORT OADDR
OFFLOAD := none | [ crypto | packet ] dev DEV dir { in | out }
",
    about: "\
gives one SA new addresses. What is not named is inherited, except the
selector, which is that of all traffic.
",
    run,
};

fn run(mut args: Args<'_>, _output: &mut Output<'_>, links: &dyn Links) -> Result<u8> {
    let request = request::parse(&mut args, links)?;
    let mut socket = XfrmSocket::open().map_err(Error::system("Cannot open netlink socket"))?;
    if let Some(warning) = socket.request(request.into())? {
        eprintln!("Warning: {}", sentence(&warning));
    }
    Ok(SUCCESS)
}

// SPDX-License-Identifier: GPL-2.0
//! `monitor migrate`: prints what the kernel announces to XFRMNLGRP_MIGRATE.

use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::NetlinkPayload;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::Command;
use crate::args::{Args, Once};
use crate::error::{Error, Result, FAILURE, SUCCESS};
use crate::event::{Migration, PolicyMigration};
use crate::layout::{XFRMNLGRP_MIGRATE, XFRM_MSG_MIGRATE};
use crate::link::Links;
use crate::message::XfrmMessage;
use crate::output::Output;
use crate::socket::{Received, XfrmSocket};

pub(super) const COMMAND: Command = Command {
    object: "monitor",
    verb: "migrate",
    grammar: "\
monitor migrate [ count N ] [ timeout SECONDS ]
",
    about: "\
prints a line for each migration, until there were N or the time is over.
Exit status: 1 if the time was over before N were printed.
",
    run,
};

/// When to stop.
#[derive(Debug, Default, PartialEq, Eq)]
struct Limits {
    count: Option<u32>,
    timeout: Option<Duration>,
}

fn parse(mut args: Args<'_>) -> Result<Limits> {
    let mut count = Once::new("count");
    let mut timeout = Once::new("timeout");
    while let Some(keyword) = args.next() {
        let read = |args: &mut Args<'_>| args.u32(&format!("{keyword} value is invalid"));
        match keyword {
            "count" => count.read(&mut args, read)?,
            "timeout" => timeout.read(&mut args, read)?,
            word => return Err(Error::invalid(word, "unknown")),
        }
    }
    let seconds = timeout.optional().map(u64::from);
    Ok(Limits {
        count: count.optional(),
        timeout: seconds.map(Duration::from_secs),
    })
}

fn run(args: Args<'_>, output: &mut Output<'_>, links: &dyn Links) -> Result<u8> {
    let limits = parse(args)?;
    let mut socket = XfrmSocket::open().map_err(Error::system("Cannot open netlink socket"))?;
    socket
        .join(XFRMNLGRP_MIGRATE)
        .map_err(Error::system("Cannot join XFRMNLGRP_MIGRATE"))?;
    let end = limits.timeout.map(|timeout| Instant::now() + timeout);
    let mut left = limits.count;
    while left != Some(0) {
        if !wait(&socket, end).map_err(Error::system("Cannot wait"))? {
            return Ok(if left.is_some() { FAILURE } else { SUCCESS });
        }
        for message in receive(&socket)? {
            if left != Some(0) && print(&message, output, links)? {
                left = left.map(|left| left - 1);
            }
        }
    }
    Ok(SUCCESS)
}

/// Waits for a datagram; false if the time is over.
fn wait(socket: &XfrmSocket, end: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives what is there; that some was lost or cannot be decoded does not end the watch.
fn receive(socket: &XfrmSocket) -> Result<Vec<Received>> {
    match socket.receive() {
        Ok(messages) => Ok(messages),
        Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
            eprintln!("Warning: notifications were lost.");
            Ok(Vec::new())
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            eprintln!("Warning: {error}.");
            Ok(Vec::new())
        }
        Err(error) => Err(Error::system("Cannot receive")(error)),
    }
}

/// Prints a notification; false if it is none.
fn print(message: &Received, output: &mut Output<'_>, links: &dyn Links) -> Result<bool> {
    let header = &message.header;
    match &message.payload {
        NetlinkPayload::InnerMessage(XfrmMessage::MigrateState(state)) => {
            output.put(&Migration::new(header, state, links))?;
        }
        NetlinkPayload::InnerMessage(XfrmMessage::Other {
            kind: XFRM_MSG_MIGRATE,
            payload,
        }) => output.put(&PolicyMigration::new(header, payload, links))?,
        _ => return Ok(false),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::words;

    #[test]
    fn limits() {
        let read = |line| parse(Args::new(&words(line)));
        assert_eq!(read("").unwrap(), Limits::default());
        let limits = read("timeout 2 count 1").unwrap();
        assert_eq!(limits.count, Some(1));
        assert_eq!(limits.timeout, Some(Duration::from_secs(2)));
        assert!(read("count 1 count 2").is_err());
        assert!(read("count").is_err());
        let error = read("timeout x").unwrap_err().to_string();
        assert_eq!(
            error,
            "Error: argument \"x\" is wrong: timeout value is invalid"
        );
    }
}

// SPDX-License-Identifier: GPL-2.0
//! `lag show`: the bonds of this network namespace, and their SAs.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use std::{fs, io, thread};

use rustix::io::Errno;

use super::Command;
use crate::args::{Args, Once};
use crate::error::{Error, Result, SUCCESS};
use crate::lag::Report;
use crate::link::Links;
use crate::output::Output;

const FILE: &str = "/sys/kernel/debug/xfrm_next/lag";

pub(super) const COMMAND: Command = Command {
    object: "lag",
    verb: "show",
    grammar: "\
lag show [ dev BOND ]
",
    about: "\
shows for each bond of this network namespace, or this one, whether IPsec
is offloaded to all its slaves, and if not why; its SAs, and the handle
that each slave has given them. Needs the module on a kernel with its
patches, and debugfs.
",
    run,
};

fn run(mut args: Args<'_>, output: &mut Output<'_>, _links: &dyn Links) -> Result<u8> {
    let dev = parse(&mut args)?;
    let what = "Cannot read the module's list of bonds (is it loaded, debugfs mounted, the kernel patched?)";
    let text = read().map_err(Error::system(what))?;
    let netns = fs::metadata("/proc/self/ns/net")
        .map_err(Error::system("Cannot name the network namespace"))?
        .ino();
    let mut report = Report::parse(&text, netns);
    if let Some(dev) = dev {
        report.keep(dev)?;
    }
    output.put(&report)?;
    Ok(SUCCESS)
}

/// Reads the list. While the module is unloaded or loaded, debugfs fails with EIO for a moment.
fn read() -> io::Result<String> {
    let mut tries = 100;
    loop {
        match fs::read_to_string(FILE) {
            Err(e) if e.raw_os_error() == Some(Errno::IO.raw_os_error()) && tries > 0 => {
                tries -= 1;
                thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

fn parse<'a>(args: &mut Args<'a>) -> Result<Option<&'a str>> {
    let mut dev = Once::new("dev");
    while let Some(keyword) = args.next() {
        match keyword {
            "dev" => dev.read(args, |args| args.value())?,
            word => return Err(Error::invalid(word, "unknown")),
        }
    }
    Ok(dev.optional())
}

// SPDX-License-Identifier: GPL-2.0

//! Requests as command lines, and in hexadecimal where no words say the same.

use crate::message::{kind, read, Message};
use crate::sa::{attr, Sa};
use module::xfrm::uapi::{
    Address, Encap, Mark, MigrateState, Offload, SaInfo, Selector, AF_UNSPEC, CLEAR_OFFLOAD,
    UDP_ENCAP_ESPINUDP, UPDATE_H2H_SEL,
};
use netlink_packet_core::Emitable;
use std::fmt::Write;
use xfrm_next::address::show;
use xfrm_next::args::Args;
use xfrm_next::layout;
use xfrm_next::link::Links;
use xfrm_next::proto::{show_upper, show_xfrm};
use xfrm_next::request;

/// lo, and one other device.
struct Devices;

impl Links for Devices {
    fn index(&self, name: &str) -> Option<i32> {
        name.strip_prefix("if")?.parse().ok()
    }

    fn name(&self, index: i32) -> Option<String> {
        Some(format!("if{index}"))
    }
}

/// The command that sends a request; with its bytes, if it is not quite that.
pub fn migrate(message: &Message) -> String {
    let header: Option<MigrateState> = read(&message.body);
    let line = match header {
        Some(header) => request_line(&header, message),
        None => String::from("# shorter than any command"),
    };
    match bytes(&line).as_ref() == Some(&message.payload()) {
        true => line,
        false => format!(
            "{line}\n# but its payload is, and its nlmsg_pid {}:\n#   {}",
            message.port as i32,
            hex(&message.payload())
        ),
    }
}

/// What the command line sends.
fn bytes(line: &str) -> Option<Vec<u8>> {
    let words: Vec<_> = line.split(' ').skip(3).map(String::from).collect();
    let message = request::parse(&mut Args::new(&words), &Devices).ok()?;
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    Some(bytes)
}

fn request_line(header: &MigrateState, message: &Message) -> String {
    let id = &header.id;
    let mut line = format!(
        "xfrm-next state migrate dst {} proto {} spi {:#x}",
        ip(&id.daddr, id.family),
        show_xfrm(id.proto),
        u32::from_be_bytes(id.spi)
    );
    if header.old_mark != Mark::default() {
        say(&mut line, &mark("mark", &header.old_mark));
    }
    let new = |address| ip(address, header.new_family);
    let (dst, src) = (new(&header.new_daddr), new(&header.new_saddr));
    let _ = write!(
        line,
        " new-dst {dst} new-src {src} new-reqid {}",
        header.new_reqid
    );
    if header.flags & UPDATE_H2H_SEL != 0 {
        say(&mut line, "update-h2h-sel");
    }
    if header.new_sel
        != (Selector {
            family: header.new_family,
            ..Selector::default()
        })
    {
        say(&mut line, &selector(&header.new_sel));
    }
    if header.flags & CLEAR_OFFLOAD != 0 {
        say(&mut line, "offload none");
    }
    say(&mut line, &attributes(message, "new-mark", "set-mark"));
    line
}

/// The commands that make an SA, and its bytes: not all has words.
pub fn add(message: &Message) -> String {
    let info = message.info();
    let spi = u32::from_be_bytes(info.spi);
    let mut line = format!(
        "ip xfrm state {} src {} dst {} proto {} spi {spi:#x} mode {}",
        if message.kind == kind::ALLOCSPI {
            "allocspi"
        } else {
            "add"
        },
        ip(&info.saddr, info.family),
        ip(&info.daddr, info.family),
        show_xfrm(info.proto),
        mode(info.mode)
    );
    if message.kind == kind::ALLOCSPI {
        let _ = write!(line, " min {spi:#x} max {spi:#x}");
    }
    for (name, value) in [("reqid", info.reqid), ("seq", info.seq)] {
        if value != 0 {
            let _ = write!(line, " {name} {value}");
        }
    }
    say(&mut line, &options(&info));
    say(&mut line, &attributes(message, "mark", "output-mark"));
    say(&mut line, &algorithms(message));
    if info.sel != Selector::default() {
        say(&mut line, &selector(&info.sel));
    }
    format!("{line}\n#   {} {}", message.kind, hex(&message.payload()))
}

fn options(info: &SaInfo) -> String {
    let names = [
        "noecn",
        "decap-dscp",
        "nopmtudisc",
        "wildrecv",
        "icmp",
        "af-unspec",
        "align4",
        "esn",
    ];
    let set = (0..8).filter(|bit| info.flags >> bit & 1 != 0);
    let mut words: Vec<_> = set.map(|bit| format!("flag {}", names[bit])).collect();
    if info.replay_window != 0 {
        words.push(format!("replay-window {}", info.replay_window));
    }
    let limits = [
        "byte-soft",
        "byte-hard",
        "packet-soft",
        "packet-hard",
        "time-soft",
        "time-hard",
        "time-use-soft",
        "time-use-hard",
    ];
    let values: [u64; 8] = zerocopy::transmute!(info.lft);
    for (name, value) in limits.iter().zip(values) {
        if value != 0 && value != u64::MAX {
            words.push(format!("limit {name} {value}"));
        }
    }
    words.join(" ")
}

/// What an SA and a request have in common.
fn attributes(message: &Message, mark_word: &str, output_word: &str) -> String {
    let mut words = Vec::new();
    if let Some(encap) = message.attr(attr::ENCAP).and_then(read::<Encap>) {
        words.push(encapsulation(&encap));
    }
    if let Some(value) = message.attr(attr::MARK).and_then(read::<Mark>) {
        words.push(mark(mark_word, &value));
    }
    if let Some(offload) = message.attr(attr::OFFLOAD_DEV).and_then(read::<Offload>) {
        let inbound = offload.flags & 2 != 0;
        words.push(format!(
            "offload {} dev {} dir {}",
            if offload.flags & 4 != 0 {
                "packet"
            } else {
                "crypto"
            },
            Devices.show(offload.ifindex),
            if inbound { "in" } else { "out" }
        ));
    }
    let number = |kind| message.attr(kind).and_then(read::<u32>);
    if let Some(value) = number(attr::SET_MARK) {
        let mask = number(attr::SET_MARK_MASK).map(|mask| format!(" mask {mask:#x}"));
        words.push(format!(
            "{output_word} {value:#x}{}",
            mask.unwrap_or_default()
        ));
    }
    for (word, kind) in [
        ("mapping-maxage", attr::MTIMER_THRESH),
        ("nat-keepalive", attr::NAT_KEEPALIVE_INTERVAL),
        ("if_id", attr::IF_ID),
        ("tfcpad", attr::TFCPAD),
        ("pcpu-num", attr::SA_PCPU),
    ] {
        words.extend(number(kind).map(|value| format!("{word} {value}")));
    }
    if message.kind != kind::MIGRATE_STATE && message.dir() != 0 {
        words.push(format!(
            "dir {}",
            if message.dir() == 1 { "in" } else { "out" }
        ));
    }
    words.join(" ")
}

fn algorithms(message: &Message) -> String {
    let mut words = Vec::new();
    for (word, kind, header) in [
        ("aead", attr::ALG_AEAD, 72),
        ("auth-trunc", attr::ALG_AUTH_TRUNC, 72),
        ("auth", attr::ALG_AUTH, 68),
        ("enc", attr::ALG_CRYPT, 68),
        ("comp", attr::ALG_COMP, 68),
    ] {
        let Some(value) = message.attr(kind) else {
            continue;
        };
        let name = String::from_utf8_lossy(&value[..64]);
        let mut said = format!("{word} '{}'", name.trim_end_matches('\0'));
        let key = value.get(header..).unwrap_or_default();
        match key.is_empty() {
            true if kind == attr::ALG_COMP => {}
            true => said += " ''",
            false => said += &format!(" 0x{}", hex(key)),
        }
        if header == 72 {
            let more: u32 = read(&value[68..]).unwrap_or_default();
            let _ = write!(said, " {more}");
        }
        words.push(said);
    }
    words.join(" ")
}

fn encapsulation(encap: &Encap) -> String {
    let port = u16::from_be_bytes;
    match encap.encap_type {
        0 => "encap none".into(),
        UDP_ENCAP_ESPINUDP => format!(
            "encap espinudp {} {} {}",
            port(encap.sport),
            port(encap.dport),
            ip(&encap.oa, layout::AF_INET)
        ),
        other => format!("encap {other}"),
    }
}

fn selector(sel: &Selector) -> String {
    let mut words = String::from("sel");
    if sel.family != AF_UNSPEC {
        let end = |address, prefix| format!("{}/{prefix}", ip(address, sel.family));
        let (src, dst) = (
            end(&sel.saddr, sel.prefixlen_s),
            end(&sel.daddr, sel.prefixlen_d),
        );
        let _ = write!(words, " src {src} dst {dst}");
    }
    if sel.ifindex != 0 {
        let _ = write!(words, " dev {}", Devices.show(sel.ifindex));
    }
    if sel.proto != 0 || sel.family == AF_UNSPEC {
        let _ = write!(words, " proto {}", show_upper(sel.proto));
    }
    for (name, port, mask) in [
        ("sport", sel.sport, sel.sport_mask),
        ("dport", sel.dport, sel.dport_mask),
    ] {
        if mask != [0; 2] {
            let _ = write!(words, " {name} {}", u16::from_be_bytes(port));
        }
    }
    words
}

fn mode(mode: u8) -> String {
    match mode {
        0 => "transport".into(),
        1 => "tunnel".into(),
        4 => "beet".into(),
        5 => "iptfs".into(),
        other => other.to_string(),
    }
}

fn mark(word: &str, mark: &Mark) -> String {
    format!("{word} {:#x} mask {:#x}", mark.v, mark.m)
}

fn ip(address: &Address, family: u16) -> String {
    show(layout::Address(address.0), family)
}

fn say(line: &mut String, words: &str) {
    if !words.is_empty() {
        line.push(' ');
        line.push_str(words);
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = |text: String, byte: &u8| text + &format!("{byte:02x}");
    bytes.iter().fold(String::new(), digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate;
    use crate::sa;
    use module::xfrm::uapi::AF_INET;

    fn plain() -> Message {
        let address = |last| generate::address(AF_INET, last);
        generate::plain(&sa::newsa(&sa::plain(
            address(1),
            address(2),
            AF_INET,
            0x100,
        )))
    }

    #[test]
    fn what_has_words_needs_no_bytes() {
        let request = plain()
            .with(attr::MARK, &Mark { v: 5, m: 0xff })
            .with(attr::MTIMER_THRESH, &7u32);
        assert_eq!(
            migrate(&request),
            "xfrm-next state migrate dst 192.0.2.2 proto esp spi 0x100 new-dst 192.0.2.2 \
             new-src 192.0.2.1 new-reqid 0 new-mark 0x5 mask 0xff mapping-maxage 7"
        );
    }

    #[test]
    fn what_has_no_words_is_shown_in_bytes() {
        for request in [plain().with(attr::IF_ID, &1u32), plain().with(99, &1u8)] {
            assert!(
                migrate(&request).contains("payload"),
                "{}",
                migrate(&request)
            );
        }
        let mut short = plain();
        short.body.truncate(9);
        assert!(migrate(&short).starts_with("# shorter"));
    }
}

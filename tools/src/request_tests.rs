// SPDX-License-Identifier: GPL-2.0
//! Tests of `state migrate`: the words of a line against the bytes of its message.

use netlink_packet_core::Emitable;

use super::*;
use crate::args::words;
use crate::link::TestLinks;
use crate::migrate_state::BODY_LEN;

const ID: &str = "dst 192.0.2.2 proto esp spi 0x1000";
const NEW: &str = "new-dst 192.0.2.3 new-src 192.0.2.1 new-reqid 100";

fn read(line: &str) -> Result<MigrateState> {
    parse(&mut Args::new(&words(line)), &TestLinks)
}

fn bytes(line: &str) -> Vec<u8> {
    let message = read(line).unwrap();
    let mut bytes = vec![0xaa; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

/// What stands behind the body for these additional words.
fn attributes(words: &str) -> Vec<u8> {
    bytes(&format!("{ID} {NEW} {words}")).split_off(BODY_LEN)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes
}

fn numbers(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect()
}

fn flags(words: &str) -> u32 {
    read(&format!("{ID} {NEW} {words}")).unwrap().flags
}

#[test]
fn shortest_request() {
    let mut expected = vec![0; BODY_LEN];
    expected[0..4].copy_from_slice(&[192, 0, 2, 2]);
    expected[16..20].copy_from_slice(&[0, 0, 0x10, 0]);
    expected[20..22].copy_from_slice(&2u16.to_ne_bytes());
    expected[22] = 50;
    expected[24..28].copy_from_slice(&[192, 0, 2, 3]);
    expected[40..44].copy_from_slice(&[192, 0, 2, 1]);
    expected[104..106].copy_from_slice(&2u16.to_ne_bytes());
    expected[120..124].copy_from_slice(&100u32.to_ne_bytes());
    expected[128..130].copy_from_slice(&2u16.to_ne_bytes());
    assert_eq!(bytes(&format!("{ID} {NEW}")), expected);
    assert_eq!(bytes(&format!("{NEW} {ID}")), expected, "order is free");
}

#[test]
fn other_family_and_marks() {
    let line = "dst 2001:db8::2 proto ah spi 7 mark 0x12 mask 0xff \
                new-dst 192.0.2.3 new-src 192.0.2.1 new-reqid 010";
    let bytes = bytes(line);
    assert_eq!(bytes[0..4], [0x20, 1, 0x0d, 0xb8]);
    assert_eq!(bytes[20..22], 10u16.to_ne_bytes());
    assert_eq!(bytes[22], 51);
    assert_eq!(bytes[56..64], numbers(&[0x12, 0xff]));
    assert_eq!(bytes[120..124], numbers(&[8]));
    assert_eq!(bytes[128..130], 2u16.to_ne_bytes());
    let line = format!("{ID} mark 1 {NEW}");
    assert_eq!(read(&line).unwrap().old_mark.mask, u32::MAX);
}

#[test]
fn selectors() {
    let line = format!("{ID} {NEW} sel src 10.0.0.0/8 dst 10.1.2.3 proto tcp dport 80 set-mark 1");
    let bytes = bytes(&line);
    assert_eq!(bytes[64..68], [10, 1, 2, 3]);
    assert_eq!(bytes[80..84], [10, 0, 0, 0]);
    assert_eq!(bytes[96..104], [0, 80, 0xff, 0xff, 0, 0, 0, 0]);
    assert_eq!(bytes[104..106], 2u16.to_ne_bytes());
    assert_eq!(bytes[106..109], [32, 8, 6]);
    let sel = |words: &str| read(&format!("{ID} {NEW} sel {words}")).unwrap().new_sel;
    assert_eq!(sel("proto udp").family, 2, "that of the new addresses");
    assert_eq!(sel("src ::/0").family, 10, "the kernel's to refuse");
}

#[test]
fn each_attribute() {
    let udp = [2, 0, 17, 148, 17, 149, 0, 0, 10, 0, 0, 9];
    let mut udp = [udp.as_slice(), &[0; 12]].concat();
    udp[0..2].copy_from_slice(&2u16.to_ne_bytes());
    for (words, kind, value) in [
        ("encap espinudp 4500 4501 10.0.0.9", 4, udp),
        ("encap none", 4, vec![0; 24]),
        ("new-mark 0x200", 21, numbers(&[0x200, u32::MAX])),
        ("new-mark 0 mask 0", 21, numbers(&[0, 0])),
        ("set-mark 0", 29, numbers(&[0])),
        ("mapping-maxage 60", 32, numbers(&[60])),
        ("mtimer-thresh 60", 32, numbers(&[60])),
        ("nat-keepalive 20", 34, numbers(&[20])),
    ] {
        assert_eq!(attributes(words), attribute(kind, &value), "{words:?}");
        assert_eq!(flags(words), 0, "{words:?}");
    }
    let offload = [numbers(&[7]), vec![6, 0, 0, 0]].concat();
    let found = attributes("offload packet dev eth0 dir in");
    assert_eq!(found, attribute(28, &offload));
}

#[test]
fn several_attributes() {
    let found = attributes("nat-keepalive 20 set-mark 1 mask 2 new-mark 3");
    let expected = [
        attribute(21, &numbers(&[3, u32::MAX])),
        attribute(29, &numbers(&[1])),
        attribute(30, &numbers(&[2])),
        attribute(34, &numbers(&[20])),
    ];
    assert_eq!(found, expected.concat());
}

#[test]
fn flag_words() {
    assert_eq!(flags("offload none"), 1);
    assert_eq!(flags("update-h2h-sel"), 2);
    assert_eq!(flags("update-h2h-sel offload none"), 3);
    assert!(attributes("offload none update-h2h-sel").is_empty());
}

#[test]
fn required_words() {
    for keyword in ["dst", "proto", "spi", "new-dst", "new-src", "new-reqid"] {
        let line = format!("{ID} {NEW}");
        let words: Vec<_> = line.split(' ').collect();
        let kept = words.chunks(2).filter(|pair| pair[0] != keyword);
        let line = kept
            .map(|pair| pair.join(" "))
            .collect::<Vec<_>>()
            .join(" ");
        let error = read(&line).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("Error: argument \"{keyword}\" is required")
        );
        assert_eq!(error.status(), 255);
    }
}

#[test]
fn repeated_words() {
    for words in ["dst 1.1.1.1", "spi 2", "new-src 1.1.1.1", "proto ah"] {
        let (keyword, second) = words.split_once(' ').unwrap();
        assert_eq!(
            read(&format!("{ID} {NEW} {words}"))
                .unwrap_err()
                .to_string(),
            format!("Error: duplicate \"{keyword}\": \"{second}\" is the second value.")
        );
    }
    for words in ["update-h2h-sel", "encap none", "offload none", "set-mark 1"] {
        let error = read(&format!("{ID} {NEW} {words} {words}")).unwrap_err();
        assert!(error.to_string().starts_with("Error: duplicate"), "{error}");
    }
    let message = read(&format!("{ID} {NEW} new-reqid 200")).unwrap();
    assert_eq!(message.new_reqid, 200);
}

#[test]
fn wrong_words() {
    let wrong = |word: &str, why: &str| format!("Error: argument \"{word}\" is wrong: {why}");
    for (words, complaint) in [
        ("junk", wrong("junk", "unknown")),
        (
            "new-dst 1.1.1",
            "Error: any valid address is expected rather than \"1.1.1\".".into(),
        ),
        ("proto 50", wrong("50", "XFRM-PROTO value is invalid")),
        ("spi zz", wrong("zz", "SPI value is invalid")),
        (
            "spi 0x100000000",
            wrong("0x100000000", "SPI value is invalid"),
        ),
        ("new-reqid -1", wrong("-1", "REQID value is invalid")),
        (
            "nat-keepalive x",
            wrong("x", "value after \"nat-keepalive\" is invalid"),
        ),
        (
            "spi",
            "Command line is not complete. Try option \"help\"".into(),
        ),
    ] {
        assert_eq!(read(words).unwrap_err().to_string(), complaint, "{words:?}");
    }
    let error = read(&format!("{ID} new-dst 192.0.2.3 new-src ::1 new-reqid 1")).unwrap_err();
    let why =
        "the same address family is required between values after \"new-src\" and \"new-dst\"";
    assert_eq!(error.to_string(), wrong("::1", why));
}

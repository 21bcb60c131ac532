// SPDX-License-Identifier: GPL-2.0

//! What a request is refused for before its SA is known, and in which order.

use crate::common::{header, udp, v4, Attrs};
use module::{
    migrate_state::{
        refusal::{Errno, Refusal},
        request::{OffloadChange, Request},
    },
    xfrm::uapi::*,
};

fn refusal(header: MigrateState, attrs: Attrs) -> Refusal {
    Request::parse(&header, &attrs, true).expect_err("a refusal")
}

#[test]
fn checks_come_in_the_order_of_the_c_handler() {
    // Everything is wrong; then one thing after the other is mended.
    let mut h = header();
    h.id.spi = [0; 4];
    h.reserved = 1;
    h.flags = 0xf4;
    h.new_family = 1;
    h.new_sel.prefixlen_d = 33;
    let mut refusals = Vec::new();
    let mends: [fn(&mut MigrateState); 5] = [
        |h| h.id.spi = [0, 0, 0, 1],
        |h| h.reserved = 0,
        |h| h.flags = 0,
        |h| h.new_family = AF_INET,
        |h| h.new_sel.prefixlen_d = 32,
    ];
    for mend in mends {
        refusals.push(refusal(h, Attrs::default()));
        mend(&mut h);
    }
    assert_eq!(
        refusals,
        [
            Refusal::ZeroSpi,
            Refusal::Reserved,
            Refusal::UnknownFlags(0xf4),
            Refusal::Family,
            Refusal::Prefix4,
        ]
    );
    Request::parse(&h, &Attrs::default(), true).expect("nothing is wrong any more");
}

#[test]
fn unknown_flags_are_told_without_the_known_ones() {
    let mut h = header();
    h.flags = 0x8000_0007;
    let refusal = refusal(h, Attrs::default());
    assert_eq!(refusal.to_string(), "Unknown flags: 0x80000004");
    assert_eq!(refusal.errno(), Errno::Inval);
}

#[test]
fn prefixes_are_those_of_the_selectors_family() {
    for (family, prefix, expected) in [
        (AF_INET, 32, None),
        (AF_INET, 33, Some(Refusal::Prefix4)),
        (AF_INET6, 128, None),
        (AF_INET6, 129, Some(Refusal::Prefix6)),
        (7, 0, Some(Refusal::SelectorFamily)),
    ] {
        for source in [false, true] {
            let mut h = header();
            h.new_sel.family = family;
            if source {
                h.new_sel.prefixlen_s = prefix;
            } else {
                h.new_sel.prefixlen_d = prefix;
            }
            let got = Request::parse(&h, &Attrs::default(), true).err();
            assert_eq!(got, expected, "family {family} prefix {prefix}");
        }
    }
}

#[test]
fn a_derived_selector_is_not_read() {
    let mut h = header();
    h.flags = UPDATE_H2H_SEL;
    h.new_sel.family = 99;
    h.new_sel.prefixlen_d = 255;
    assert!(Request::parse(&h, &Attrs::default(), true).is_ok());
}

#[test]
fn without_ipv6_it_is_refused() {
    let mut h = header();
    h.new_family = AF_INET6;
    let no_ipv6 = |h| Request::parse(&h, &Attrs::default(), false).err();
    assert_eq!(no_ipv6(h), Some(Refusal::NoIpv6));
    h.new_family = AF_INET;
    h.new_sel.family = AF_INET6;
    assert_eq!(no_ipv6(h), Some(Refusal::NoIpv6));
    assert_eq!(Refusal::NoIpv6.errno(), Errno::AfNoSupport);
}

#[test]
fn output_mark_and_mask() {
    let set_mark = |attrs| Request::parse(&header(), &attrs, true).map(|r| r.set_mark);
    let mark = |v, m| Ok(Some(Mark { v, m }));

    assert_eq!(set_mark(Attrs::default()), Ok(None));
    let value = || Attrs::default().with(attr::SET_MARK, 5u32);
    assert_eq!(set_mark(value()), mark(5, u32::MAX));
    assert_eq!(
        set_mark(value().with(attr::SET_MARK_MASK, 15u32)),
        mark(5, 15)
    );
    let zero = || Attrs::default().with(attr::SET_MARK, 0u32);
    assert_eq!(set_mark(zero()), mark(0, 0));
    assert_eq!(
        set_mark(zero().with(attr::SET_MARK_MASK, 15u32)),
        mark(0, 15)
    );
    let lone = Attrs::default().with(attr::SET_MARK_MASK, 15u32);
    assert_eq!(set_mark(lone), Err(Refusal::LoneMask));
}

#[test]
fn offload_is_inherited_set_or_cleared() {
    let device = Offload {
        ifindex: 4,
        flags: OFFLOAD_INBOUND,
        ..Offload::default()
    };
    let set = || Attrs::default().with(attr::OFFLOAD_DEV, device);
    let mut clear = header();
    clear.flags = CLEAR_OFFLOAD;

    let offload = |h, attrs| Request::parse(&h, &attrs, true).map(|r| r.offload);
    assert_eq!(
        offload(header(), Attrs::default()),
        Ok(OffloadChange::Inherit)
    );
    assert_eq!(offload(header(), set()), Ok(OffloadChange::Set(device)));
    assert_eq!(offload(clear, Attrs::default()), Ok(OffloadChange::Clear));
    assert_eq!(offload(clear, set()), Err(Refusal::OffloadTwice));
}

#[test]
fn longer_attributes_are_cut_and_what_is_left_behind_addresses_is_zeroed() {
    let mut long = [0u8; 40];
    long[..2].copy_from_slice(&UDP_ENCAP_ESPINUDP.to_ne_bytes());
    long[2..6].copy_from_slice(&[17, 148, 17, 148]);
    let mut h = header();
    h.new_daddr.0[4..].fill(0xaa);
    h.new_saddr.0[15] = 0xaa;
    h.id.daddr.0[4] = 0xaa;
    let r = Request::parse(&h, &Attrs::default().with(attr::ENCAP, long), true).unwrap();
    assert_eq!(r.encap, Some(udp(4500, 4500)));
    assert_eq!(r.header.new_daddr, v4(4));
    assert_eq!(r.header.new_saddr, v4(3));
    assert_eq!(r.header.id.daddr, v4(2));
}

#[test]
fn every_text_fits_an_extack() {
    for refusal in [
        Refusal::UnknownFlags(u32::MAX),
        Refusal::Prefix6,
        Refusal::NotHostToHost,
        Refusal::OffloadTwice,
    ] {
        assert!(refusal.to_string().len() < 80, "{refusal}");
    }
}

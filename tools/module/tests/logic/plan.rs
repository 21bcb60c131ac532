// SPDX-License-Identifier: GPL-2.0

//! What becomes of an SA.

use crate::common::{header, request, sa, udp, v4, v6, Attrs};
use module::{
    migrate_state::{
        plan::Plan,
        refusal::{Errno, Refusal},
    },
    xfrm::{migrate::snapshot::Snapshot, uapi::*},
};

fn plan(header: MigrateState, attrs: Attrs, old: &Snapshot) -> Result<Plan, Refusal> {
    Plan::new(&request(header, &attrs), old)
}

fn planned(attrs: Attrs, old: &Snapshot) -> Plan {
    plan(header(), attrs, old).expect("a plan")
}

#[test]
fn what_is_not_named_is_inherited() {
    let mut old = sa();
    old.mark = Mark { v: 1, m: 0xff };
    old.output_mark = Mark { v: 2, m: 0xff };
    old.encap = Some(udp(4500, 4501));
    old.mapping_maxage = 30;
    old.nat_keepalive = 20;
    old.offload = Some(Offload {
        ifindex: 4,
        flags: OFFLOAD_PACKET,
        ..Offload::default()
    });
    let new = planned(Attrs::default(), &old);
    assert_eq!(new.changes.mark, old.mark);
    assert_eq!(new.changes.output_mark, old.output_mark);
    assert_eq!(new.changes.encap, old.encap);
    assert_eq!(new.changes.mapping_maxage, 30);
    assert_eq!(new.changes.nat_keepalive, 20);
    assert_eq!(new.offload, old.offload);
    assert_eq!(new.changes.daddr, v4(4));
    assert_eq!(new.changes.saddr, v4(3));
    assert_eq!(new.changes.reqid, 7);
}

#[test]
fn only_complete_sas_of_user_space_move() {
    let refused = |spoil: fn(&mut Snapshot)| {
        let mut old = sa();
        spoil(&mut old);
        plan(header(), Attrs::default(), &old).err()
    };
    assert_eq!(refused(|_| {}), None);
    assert_eq!(refused(|s| s.proto = IPPROTO_AH), None);
    assert_eq!(refused(|s| s.proto = IPPROTO_COMP), None);
    assert_eq!(refused(|s| s.proto = 4), Some(Refusal::Protocol));
    assert_eq!(
        refused(|s| s.kernel_owned = true),
        Some(Refusal::KernelOwned)
    );
    assert_eq!(refused(|s| s.larval = true), Some(Refusal::Larval));
    assert_eq!(Refusal::KernelOwned.errno(), Errno::Perm);
}

#[test]
fn removing_encapsulation_removes_what_depends_on_it() {
    let mut old = sa();
    old.encap = Some(udp(4500, 4500));
    old.mapping_maxage = 30;
    old.nat_keepalive = 20;
    let new = planned(Attrs::default().with(attr::ENCAP, Encap::default()), &old);
    assert_eq!(new.changes.encap, None);
    assert_eq!(new.changes.mapping_maxage, 0);
    assert_eq!(new.changes.nat_keepalive, 0);
}

#[test]
fn encapsulation_is_udp_with_ports() {
    let encap = |e: Encap| plan(header(), Attrs::default().with(attr::ENCAP, e), &sa());
    let espintcp = Encap {
        encap_type: 7,
        ..udp(1, 1)
    };
    assert_eq!(encap(espintcp).unwrap_err(), Refusal::EncapType);
    assert_eq!(encap(udp(0, 1)).unwrap_err(), Refusal::EncapPort);
    assert_eq!(encap(udp(1, 0)).unwrap_err(), Refusal::EncapPort);
    assert_eq!(encap(udp(1, 2)).unwrap().changes.encap, Some(udp(1, 2)));

    // A new SA may have none.
    let mut without = sa();
    without.encap = Some(udp(0, 4500));
    let same = |ports| {
        plan(
            header(),
            Attrs::default().with(attr::ENCAP, ports),
            &without,
        )
    };
    assert_eq!(same(udp(0, 4500)).unwrap().changes.encap, without.encap);
    assert_eq!(same(udp(0, 4501)).unwrap_err(), Refusal::EncapPort);
}

#[test]
fn mapping_threshold() {
    let set = |v: u32| Attrs::default().with(attr::MTIMER_THRESH, v);
    let bare = sa();
    let mut nat = sa();
    nat.encap = Some(udp(1, 1));
    nat.mapping_maxage = 9;

    let refused = plan(header(), set(5), &bare).unwrap_err();
    assert_eq!(refused, Refusal::MtimerWithoutEncap);
    assert_eq!(planned(set(0), &bare).changes.mapping_maxage, 0);
    assert_eq!(planned(set(5), &nat).changes.mapping_maxage, 5);
    assert_eq!(planned(set(0), &nat).changes.mapping_maxage, 0);
    nat.dir = SA_DIR_OUT;
    let refused = plan(header(), set(5), &nat).unwrap_err();
    assert_eq!(refused, Refusal::MtimerOnOutput);
}

#[test]
fn keepalives_need_encapsulation() {
    let set = |v: u32| Attrs::default().with(attr::NAT_KEEPALIVE_INTERVAL, v);
    let refused = plan(header(), set(5), &sa()).unwrap_err();
    assert_eq!(refused, Refusal::KeepaliveWithoutEncap);
    assert_eq!(planned(set(0), &sa()).changes.nat_keepalive, 0);
    let both = set(5).with(attr::ENCAP, udp(1, 1));
    assert_eq!(planned(both, &sa()).changes.nat_keepalive, 5);
}

#[test]
fn a_host_to_host_selector_follows_the_addresses() {
    let mut h = header();
    h.flags = UPDATE_H2H_SEL;
    let sel = plan(h, Attrs::default(), &sa()).unwrap().changes.selector;
    let expected = Selector {
        daddr: v4(4),
        saddr: v4(3),
        ..sa().selector
    };
    assert_eq!(sel, expected);

    h.new_family = AF_INET6;
    h.new_daddr = v6(4);
    h.new_saddr = v6(3);
    let sel = plan(h, Attrs::default(), &sa()).unwrap().changes.selector;
    let expected = Selector {
        daddr: v6(4),
        saddr: v6(3),
        family: AF_INET6,
        prefixlen_d: 128,
        prefixlen_s: 128,
        ..sa().selector
    };
    assert_eq!(sel, expected);
}

#[test]
fn other_selectors_can_not_be_derived() {
    let spoil: [fn(&mut Selector); 5] = [
        |s| s.prefixlen_d = 31,
        |s| s.prefixlen_s = 31,
        |s| s.daddr = v4(9),
        |s| s.saddr = v4(9),
        // The first bytes match; the family doesn't.
        |s| s.family = AF_INET6,
    ];
    let mut h = header();
    h.flags = UPDATE_H2H_SEL;
    for (n, spoil) in spoil.iter().enumerate() {
        let mut old = sa();
        spoil(&mut old.selector);
        let refused = plan(h, Attrs::default(), &old).unwrap_err();
        assert_eq!(refused, Refusal::NotHostToHost, "case {n}");
    }
}

#[test]
fn an_unspecified_family_is_that_of_the_sa_unless_it_says_otherwise() {
    let mut h = header();
    h.new_sel = Selector::default();
    let family =
        |h, old: &Snapshot| plan(h, Attrs::default(), old).map(|p| p.changes.selector.family);

    assert_eq!(family(h, &sa()), Ok(AF_INET));
    let mut unspec = sa();
    unspec.flags = STATE_AF_UNSPEC;
    assert_eq!(family(h, &unspec), Ok(AF_UNSPEC));
    h.new_sel.prefixlen_d = 33;
    assert_eq!(family(h, &sa()), Err(Refusal::Prefix4));
    h.new_family = AF_INET6;
    assert_eq!(family(h, &sa()), Ok(AF_INET6));
    h.new_sel.prefixlen_s = 129;
    assert_eq!(family(h, &sa()), Err(Refusal::Prefix6));
}

#[test]
fn others_are_looked_for_when_the_tuple_changes() {
    let mut h = header();
    h.new_daddr = v4(2);
    let moves = |h, attrs| plan(h, attrs, &sa()).unwrap().moves;
    assert!(!moves(h, Attrs::default()));
    assert!(moves(header(), Attrs::default()));
    let marked = Attrs::default().with(attr::MARK, Mark { v: 1, m: 0xff });
    assert!(moves(h, marked));
    h.new_family = AF_INET6;
    assert!(moves(h, Attrs::default()));
}

#[test]
fn marks_are_kept_as_the_kernel_stores_them() {
    let marked = Attrs::default().with(attr::MARK, Mark { v: 0x12, m: 0x0f });
    assert_eq!(planned(marked, &sa()).changes.mark, Mark { v: 2, m: 15 });
}

// SPDX-License-Identifier: GPL-2.0

//! A message and an SA to start from.

pub use module::properties::plan::Attrs;
use module::{
    migrate_state::request::Request,
    xfrm::{migrate::snapshot::Snapshot, uapi::*},
};

pub fn v4(last: u8) -> Address {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&[10, 0, 0, last]);
    Address(bytes)
}

pub fn v6(last: u8) -> Address {
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    bytes[15] = last;
    Address(bytes)
}

/// A request that moves [`sa`] to 10.0.0.3 -> 10.0.0.4.
pub fn header() -> MigrateState {
    MigrateState {
        id: Id {
            daddr: v4(2),
            spi: [0, 0, 1, 0],
            family: AF_INET,
            proto: IPPROTO_ESP,
            pad: 0,
        },
        new_daddr: v4(4),
        new_saddr: v4(3),
        new_sel: Selector {
            family: AF_INET,
            ..Selector::default()
        },
        new_reqid: 7,
        new_family: AF_INET,
        ..MigrateState::default()
    }
}

pub fn request(header: MigrateState, attrs: &Attrs) -> Request {
    Request::parse(&header, attrs, true).expect("a good request")
}

/// An SA 10.0.0.1 -> 10.0.0.2 for those two hosts.
pub fn sa() -> Snapshot {
    Snapshot {
        daddr: v4(2),
        saddr: v4(1),
        family: AF_INET,
        proto: IPPROTO_ESP,
        flags: 0,
        dir: 0,
        selector: Selector {
            daddr: v4(2),
            saddr: v4(1),
            family: AF_INET,
            prefixlen_d: 32,
            prefixlen_s: 32,
            dport: [0, 53],
            proto: 17,
            ifindex: 3,
            user: 1000,
            ..Selector::default()
        },
        mark: Mark::default(),
        output_mark: Mark::default(),
        encap: None,
        mapping_maxage: 0,
        nat_keepalive: 0,
        offload: None,
        larval: false,
        kernel_owned: false,
    }
}

pub fn udp(sport: u16, dport: u16) -> Encap {
    Encap {
        encap_type: UDP_ENCAP_ESPINUDP,
        sport: sport.to_be_bytes(),
        dport: dport.to_be_bytes(),
        ..Encap::default()
    }
}

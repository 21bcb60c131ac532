// SPDX-License-Identifier: GPL-2.0

//! Netlink messages as bytes: a fixed part and attributes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Message types of NETLINK_XFRM.
pub mod kind {
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub const NEWSA: u16 = 0x10;
    pub const GETSA: u16 = 0x12;
    pub const NEWPOLICY: u16 = 0x13;
    pub const ALLOCSPI: u16 = 0x16;
    pub const ACQUIRE: u16 = 0x17;
    pub const EXPIRE: u16 = 0x18;
    pub const FLUSHSA: u16 = 0x1c;
    pub const FLUSHPOLICY: u16 = 0x1d;
    pub const NEWAE: u16 = 0x1e;
    pub const GETAE: u16 = 0x1f;
    pub const GETSADINFO: u16 = 0x23;
    pub const MIGRATE_STATE: u16 = 0x29;
}

/// Flags of a message.
pub mod flag {
    pub const REQUEST: u16 = 1;
    pub const ACK: u16 = 4;
    pub const DUMP: u16 = 0x300;
    pub const CAPPED: u16 = 0x100;
    pub const ACK_TLVS: u16 = 0x200;
}

/// The sender's port, in place of its number.
pub const OWN_PORT: u32 = u32::MAX;

/// The bits of an attribute's type, without the flags beside them.
const TYPE: u16 = 0x3fff;

/// An attribute: its type with the flags beside it, and its payload.
pub type Attr = (u16, Vec<u8>);

/// A message. Without attributes `body` may be all that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: u16,
    pub flags: u16,
    pub port: u32,
    pub body: Vec<u8>,
    pub attrs: Vec<Attr>,
}

impl Message {
    pub fn new(kind: u16, flags: u16, body: &(impl IntoBytes + Immutable + ?Sized)) -> Self {
        Self {
            kind,
            flags: flags | flag::REQUEST,
            port: 0,
            body: body.as_bytes().to_vec(),
            attrs: Vec::new(),
        }
    }

    pub fn attr(&self, kind: u16) -> Option<&[u8]> {
        find(&self.attrs, kind)
    }

    pub fn with(mut self, kind: u16, value: &(impl IntoBytes + Immutable + ?Sized)) -> Self {
        self.attrs.push((kind, value.as_bytes().to_vec()));
        self
    }

    pub fn without(&self, kinds: &[u16]) -> Self {
        let mut message = self.clone();
        message
            .attrs
            .retain(|(kind, _)| !kinds.contains(&(kind & TYPE)));
        message
    }

    /// What stands behind the netlink header.
    pub fn payload(&self) -> Vec<u8> {
        let mut bytes = self.body.clone();
        for (kind, value) in &self.attrs {
            pad(&mut bytes);
            bytes.extend((value.len() as u16 + 4).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
        }
        bytes
    }

    /// The message with all of its payload as fixed part.
    pub fn whole(&self) -> Self {
        Self {
            body: self.payload(),
            attrs: Vec::new(),
            ..self.clone()
        }
    }

    /// Appends the message to a datagram from `own` port.
    pub fn pack(&self, datagram: &mut Vec<u8>, seq: u32, own: u32) {
        let payload = self.payload();
        let port = if self.port == OWN_PORT {
            own
        } else {
            self.port
        };
        pad(datagram);
        datagram.extend((payload.len() as u32 + 16).to_ne_bytes());
        datagram.extend(self.kind.to_ne_bytes());
        datagram.extend(self.flags.to_ne_bytes());
        datagram.extend(seq.to_ne_bytes());
        datagram.extend(port.to_ne_bytes());
        datagram.extend(payload);
    }

    /// Takes the fixed part and the attributes apart.
    pub fn split(mut self, fixed: usize) -> Self {
        if self.body.len() >= fixed {
            let rest = self.body.split_off(fixed);
            self.attrs = attrs(&rest).collect();
        }
        self
    }
}

/// The payload of the last attribute of this type, which is the one that counts.
pub fn find(attrs: &[Attr], kind: u16) -> Option<&[u8]> {
    let mut found = attrs.iter().rev().filter(|(k, _)| k & TYPE == kind);
    found.next().map(|(_, value)| &value[..])
}

/// Reads a structure or number from the beginning of `bytes`.
pub fn read<T: FromBytes + KnownLayout + Immutable>(bytes: &[u8]) -> Option<T> {
    Some(T::read_from_prefix(bytes).ok()?.0)
}

/// The attributes that netlink sees in `bytes`.
pub fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = Attr> + '_ {
    std::iter::from_fn(move || {
        let (attr, rest) = first(bytes)?;
        bytes = rest;
        Some(attr)
    })
}

/// Whether netlink sees something else behind the last attribute in `bytes`.
pub fn has_rest(mut bytes: &[u8]) -> bool {
    while let Some((_, rest)) = first(bytes) {
        bytes = rest;
    }
    !bytes.is_empty()
}

/// An attribute, and what is behind it.
fn first(bytes: &[u8]) -> Option<(Attr, &[u8])> {
    let length = usize::from(read::<u16>(bytes)?);
    let value = bytes.get(4..length)?.to_vec();
    let kind = read::<u16>(&bytes[2..])?;
    let rest = bytes.get(length.next_multiple_of(4)..);
    Some(((kind, value), rest.unwrap_or_default()))
}

/// The messages in a datagram, with their sequence numbers.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u32, Message)> + '_ {
    std::iter::from_fn(move || {
        let length = read::<u32>(bytes)? as usize;
        let message = Message {
            kind: read(bytes.get(4..)?)?,
            flags: read(bytes.get(6..)?)?,
            port: read(bytes.get(12..)?)?,
            body: bytes.get(16..length)?.to_vec(),
            attrs: Vec::new(),
        };
        let seq = read(&bytes[8..])?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((seq, message))
    })
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let message = Message::new(kind::NEWSA, flag::ACK, &[7u8; 8])
            .with(5, &[1u8])
            .with(6, &9u32);
        let mut datagram = Vec::new();
        message.pack(&mut datagram, 3, 0);
        message.pack(&mut datagram, 4, 0);
        let found: Vec<_> = messages(&datagram).map(|(s, m)| (s, m.split(8))).collect();
        assert_eq!(found, [(3, message.clone()), (4, message)]);
    }

    #[test]
    fn rubbish_has_an_end() {
        let mut random = fastrand::Rng::with_seed(1);
        for length in 0..200 {
            let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            assert!(attrs(&bytes).count() <= length / 4 + 1);
            messages(&bytes).count();
        }
    }

    #[test]
    fn the_last_of_a_type_counts() {
        let message = Message::new(0, 0, &()).with(5, &1u8).with(5 | 0x8000, &2u8);
        assert_eq!(message.attr(5), Some(&[2u8][..]));
        assert!(message.without(&[5]).attrs.is_empty());
    }
}

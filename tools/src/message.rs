// SPDX-License-Identifier: GPL-2.0
//! The messages of NETLINK_XFRM this program speaks, for netlink-packet-core.

use netlink_packet_core::{
    DecodeError, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, Parseable,
};

use crate::layout::XFRM_MSG_MIGRATE_STATE;
use crate::migrate_state::MigrateState;

/// A message, decoded as far as this program needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XfrmMessage {
    /// XFRM_MSG_MIGRATE_STATE.
    MigrateState(Box<MigrateState>),
    /// Any other message, as it is.
    Other {
        /// The message type.
        kind: u16,
        /// Everything behind the netlink header.
        payload: Vec<u8>,
    },
}

impl NetlinkSerializable for XfrmMessage {
    fn message_type(&self) -> u16 {
        match self {
            Self::MigrateState(_) => XFRM_MSG_MIGRATE_STATE,
            Self::Other { kind, .. } => *kind,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::MigrateState(message) => message.buffer_len(),
            Self::Other { payload, .. } => payload.len(),
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::MigrateState(message) => message.emit(buffer),
            Self::Other { payload, .. } => buffer.copy_from_slice(payload),
        }
    }
}

impl NetlinkDeserializable for XfrmMessage {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(match header.message_type {
            XFRM_MSG_MIGRATE_STATE => Self::MigrateState(Box::new(MigrateState::parse(payload)?)),
            kind => Self::Other {
                kind,
                payload: payload.to_vec(),
            },
        })
    }
}

impl From<MigrateState> for XfrmMessage {
    fn from(message: MigrateState) -> Self {
        Self::MigrateState(Box::new(message))
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkMessage, NetlinkPayload};

    use super::*;
    use crate::migrate_state::sample;

    #[test]
    fn through_netlink() {
        let payload = NetlinkPayload::InnerMessage(XfrmMessage::from(sample()));
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        assert_eq!(bytes[4..6], 41u16.to_ne_bytes());
        assert_eq!(NetlinkMessage::deserialize(&bytes).unwrap(), message);
    }
}

// SPDX-License-Identifier: GPL-2.0
//! The kernel's acknowledgement: an errno, and the text of the extended acknowledgement.

use netlink_packet_core::{
    ErrorMessage, NetlinkHeader, NlasIterator, NLM_F_ACK_TLVS, NLM_F_CAPPED,
};

const HEADER_LEN: usize = 16;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// What the kernel says to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// 0, or the positive errno.
    pub errno: i32,
    /// Why it failed, or a warning about what it did.
    pub text: Option<String>,
}

impl Ack {
    /// Decodes an NLMSG_ERROR message.
    pub fn new(header: &NetlinkHeader, error: &ErrorMessage) -> Self {
        Self {
            errno: -error.raw_code(),
            text: text(header.flags, &error.header),
        }
    }
}

/// Finds the text behind the request that the kernel echoes, whole or only its header.
fn text(flags: u16, echo: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = match flags & NLM_F_CAPPED {
        0 => u32::from_ne_bytes(*echo.first_chunk()?) as usize,
        _ => HEADER_LEN,
    };
    let attributes = echo.get(request.checked_next_multiple_of(4)?..)?;
    let message = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    let text = message.value().split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: [u8; 12] = [11, 0, 1, 0, b'n', b'o', b' ', b's', b'p', b'i', 0, 0];
    const OFFSET: [u8; 8] = [8, 0, 2, 0, 16, 0, 0, 0];

    fn echo(length: u32) -> Vec<u8> {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.resize(length as usize, 0);
        bytes
    }

    fn native(attribute: &[u8]) -> Vec<u8> {
        let mut bytes = attribute.to_vec();
        for at in [0, 2] {
            let little = u16::from_le_bytes([attribute[at], attribute[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&little.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn capped_and_whole() {
        let attributes = [native(&OFFSET), native(&TEXT)].concat();
        let capped = [echo(16), attributes.clone()].concat();
        let found = text(NLM_F_ACK_TLVS | NLM_F_CAPPED, &capped);
        assert_eq!(found.as_deref(), Some("no spi"));
        let whole = [echo(148), attributes].concat();
        assert_eq!(text(NLM_F_ACK_TLVS, &whole).as_deref(), Some("no spi"));
    }

    #[test]
    fn no_text() {
        assert_eq!(text(NLM_F_CAPPED, &echo(16)), None);
        assert_eq!(text(NLM_F_ACK_TLVS | NLM_F_CAPPED, &echo(16)), None);
        assert_eq!(text(NLM_F_ACK_TLVS | NLM_F_CAPPED, &[]), None);
        assert_eq!(text(NLM_F_ACK_TLVS, &[0xff; 20]), None);
    }
}

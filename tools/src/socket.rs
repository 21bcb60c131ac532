// SPDX-License-Identifier: GPL-2.0
//! A NETLINK_XFRM socket with extended acknowledgements.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NLMSG_ALIGNTO, NLM_F_ACK, NLM_F_REQUEST,
};
use netlink_sys::{protocols::NETLINK_XFRM, Socket, SocketAddr};

use crate::error::{Error, Result};
use crate::extack::Ack;
use crate::message::XfrmMessage;

/// A message from the kernel.
pub type Received = NetlinkMessage<XfrmMessage>;

/// The conversation with the kernel.
#[derive(Debug)]
pub struct XfrmSocket {
    socket: Socket,
    sequence: u32,
}

impl XfrmSocket {
    /// Opens a socket of its own port.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_XFRM)?;
        socket.bind_auto()?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        let sequence = 0;
        Ok(Self { socket, sequence })
    }

    /// Sends a request and waits for its acknowledgement.
    pub fn ask(&mut self, message: XfrmMessage) -> io::Result<Ack> {
        Ok(self.exchange(message, 0)?.0)
    }

    /// Sends a request with these additional flags, and waits for its end; with it come the
    /// answers before that.
    fn exchange(
        &mut self,
        message: XfrmMessage,
        flags: u16,
    ) -> io::Result<(Ack, Vec<XfrmMessage>)> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        let mut answers = Vec::new();
        loop {
            for answer in self.receive()? {
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Error(error) => {
                        return Ok((Ack::new(&answer.header, &error), answers));
                    }
                    NetlinkPayload::Done(_) => return Ok((Ack::default(), answers)),
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
        }
    }

    /// Sends a request with these additional flags, that must succeed; gives the answers.
    pub fn answers(&mut self, message: XfrmMessage, flags: u16) -> Result<Vec<XfrmMessage>> {
        let (ack, answers) = self
            .exchange(message, flags)
            .map_err(Error::system("Cannot talk to the kernel"))?;
        match ack {
            Ack { errno: 0, .. } => Ok(answers),
            Ack { errno, text } => Err(Error::Kernel { errno, text }),
        }
    }

    /// Sends a request that must succeed; the answer is a warning, if the kernel has one.
    pub fn request(&mut self, message: XfrmMessage) -> Result<Option<String>> {
        let ack = self
            .ask(message)
            .map_err(Error::system("Cannot talk to the kernel"))?;
        match ack {
            Ack { errno: 0, text } => Ok(text),
            Ack { errno, text } => Err(Error::Kernel { errno, text }),
        }
    }

    /// Joins a multicast group.
    pub fn join(&mut self, group: u32) -> io::Result<()> {
        self.socket.add_membership(group)
    }

    /// Waits for a datagram and decodes its messages; empty if it came from another process.
    pub fn receive(&self) -> io::Result<Vec<Received>> {
        let (bytes, sender) = self.socket.recv_from_full()?;
        if sender.port_number() != 0 {
            return Ok(Vec::new());
        }
        split(&bytes)
    }
}

impl AsFd for XfrmSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Decodes all messages of a datagram.
fn split(mut bytes: &[u8]) -> io::Result<Vec<Received>> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let message = Received::deserialize(bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let length = message.header.length.max(1) as usize;
        messages.push(message);
        let next = length.next_multiple_of(NLMSG_ALIGNTO.into());
        bytes = bytes.get(next..).unwrap_or_default();
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_messages() {
        let payload = vec![1, 2, 3];
        let other = XfrmMessage::Other { kind: 33, payload };
        let mut message = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(other),
        );
        message.finalize();
        let mut bytes = vec![0; 20];
        message.serialize(&mut bytes[..19]);
        let twice = [bytes.clone(), bytes].concat();
        assert_eq!(split(&twice).unwrap(), [message.clone(), message]);
        assert!(split(&twice[..15]).is_err());
        assert!(split(&[]).unwrap().is_empty());
    }
}

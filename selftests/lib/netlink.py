# SPDX-License-Identifier: GPL-2.0
"""Netlink sockets: a request and its answer, multicast groups, raw bytes."""

import socket
import struct
import threading
from typing import NamedTuple

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
CAPPED, ACK_TLVS = 0x100, 0x200
SOL_NETLINK = 270
ADD_MEMBERSHIP, CAP_ACK, EXT_ACK = 1, 10, 11
ATTR_MSG, ATTR_OFFSET = 1, 2

# For a machine that is emulated, and maybe runs a debug kernel: only a hang
# takes that long.
PATIENCE = 60


def pad(data):
    return data + bytes(-len(data) % 4)


def attr(kind, data=b""):
    """One attribute; kind includes flag bits, if any."""
    return pad(struct.pack("=HH", 4 + len(data), kind) + data)


def attrs(pairs):
    return b"".join(attr(kind, data) for kind, data in pairs)


def parse_attrs(data):
    """(kind, payload) of each attribute, in order."""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            raise ValueError(f"attribute length {length}")
        yield kind, data[4:length]
        data = data[(length + 3) & ~3:]


class Message(NamedTuple):
    kind: int
    flags: int
    seq: int
    port: int
    body: bytes

    def pack(self):
        return pad(struct.pack("=IHHII", 16 + len(self.body), *self[:4]) + self.body)


def parse(data):
    """The messages of one datagram."""
    while len(data) >= 16:
        length, kind, flags, seq, port = struct.unpack_from("=IHHII", data)
        yield Message(kind, flags, seq, port, data[16:length])
        data = data[(length + 3) & ~3:]


class Reply(NamedTuple):
    errno: int
    text: str | None        # extack message
    offset: int | None      # extack offset, from the start of the request
    messages: tuple = ()    # what came before the ack

    @property
    def verdict(self):
        return self.errno, self.text


def parse_ack(message):
    """The Reply that one NLMSG_ERROR message carries."""
    error, length = struct.unpack_from("=iI", message.body)
    text = offset = None
    if message.flags & ACK_TLVS:
        capped = message.flags & CAPPED or not error
        tlvs = message.body[4 + (16 if capped else (length + 3) & ~3):]
        for kind, data in parse_attrs(tlvs):
            if kind == ATTR_MSG:
                text = data.rstrip(b"\0").decode()
            elif kind == ATTR_OFFSET:
                offset, = struct.unpack("=I", data)
    return Reply(-error, text, offset)


class Netlink:
    """One socket. Its port id is the kernel's choice."""

    def __init__(self, protocol, groups=()):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self.socket.bind((0, 0))
        self.socket.settimeout(PATIENCE)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        for option in EXT_ACK, CAP_ACK:
            self.socket.setsockopt(SOL_NETLINK, option, 1)
        for group in groups:
            self.socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)
        self.port = self.socket.getsockname()[0]
        self.seq = 1000
        self.lock = threading.Lock()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.socket.sendto(data, (0, 0))

    def receive(self):
        return list(parse(self.socket.recv(1 << 20)))

    def pending(self):
        """All messages that have arrived; the kernel delivers at once."""
        self.socket.setblocking(False)
        messages = []
        try:
            while True:
                messages += self.receive()
        except BlockingIOError:
            return messages
        finally:
            self.socket.settimeout(PATIENCE)

    def message(self, kind, body, flags=0, port=0):
        self.seq += 1
        return Message(kind, REQUEST | flags, self.seq, port, body)

    def request(self, kind, body, flags=0, port=0):
        """Sends one request and waits for its end."""
        message = self.message(kind, body, flags | ACK, port)
        self.send(message.pack())
        got = []
        while True:
            for m in self.receive():
                if m.seq != message.seq:
                    continue
                if m.kind == NLMSG_ERROR:
                    return parse_ack(m)._replace(messages=tuple(got))
                if m.kind == NLMSG_DONE:
                    return Reply(0, None, None, tuple(got))
                got.append(m)

    def burst(self, messages):
        """Sends several requests in one datagram; one Reply for each."""
        self.send(b"".join(m.pack() for m in messages))
        replies = {}
        while len(replies) < len(messages):
            for m in self.receive():
                if m.kind == NLMSG_ERROR:
                    replies[m.seq] = parse_ack(m)
        return [replies[m.seq] for m in messages]

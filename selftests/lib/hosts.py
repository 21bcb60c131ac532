# SPDX-License-Identifier: GPL-2.0
"""Two hosts with an SA between them, and datagrams that must arrive.

    A  10.1.0.1            v ------------- v            B  10.2.0.1
       fd00:1::1   192.0.2.1, .3   192.0.2.2, .4           fd00:2::1
                 2001:db8::1, ::3  2001:db8::2, ::4

A sends, B receives: A has the output SA, B the input SA and a policy that
lets nothing in which that SA did not bring.
"""

import contextlib
import copy
import socket
import struct

from lib import ktap, xfrm
from lib.ktap import equal
from lib.netns import Netns
from lib.xfrm import Selector, host, migrate

INNER = {xfrm.AF_INET: ("10.1.0.1", "10.2.0.1"), xfrm.AF_INET6: ("fd00:1::1", "fd00:2::1")}
V4, V6 = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")
V4_MOVED, V6_MOVED = ("192.0.2.3", "192.0.2.4"), ("2001:db8::3", "2001:db8::4")
OUTER = [xfrm.addr(a) for a in V4 + V6 + V4_MOVED + V6_MOVED]
ETH_P_ALL, UDP_ENCAP = 3, 100
PORT = 7777     # what the policies protect, so that UDP encapsulation gets past them


def selector(family):
    """What the policies protect."""
    return Selector(family=family, proto=xfrm.UDP, dport=PORT, dmask=0xffff)


class Hosts(contextlib.ExitStack):
    """A and B, connected, without SAs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (self.enter_context(Netns()) for _ in "ab")
        self.connect()
        for n, ns in enumerate((self.a, self.b)):
            for family, bits, outer in ((xfrm.AF_INET, 32, (V4, V4_MOVED)),
                                        (xfrm.AF_INET6, 128, (V6, V6_MOVED))):
                ns.address("v", *(f"{pair[n]}/{bits - 8}" for pair in outer))
                ns.address("lo", f"{INNER[family][n]}/{bits}")
                ns.route(f"{INNER[family][1 - n]}/{bits}", dev="v")
        self.ends = INNER
        self.outer = self.inner = self.out = self.in_ = None

    def connect(self):
        """Gives both a device v."""
        self.a.veth("v", self.b, "v")

    def back(self):
        """The same two with names changed, for an SA that leads from B to A."""
        back = copy.copy(self)
        back.a, back.b = self.b, self.a
        back.ends = {family: ends[::-1] for family, ends in self.ends.items()}
        return back

    def sa(self, sa, inner=xfrm.AF_INET, more_in=None, more_out=None):
        """One SA from A to B, and policies; more_* are attributes of one side."""
        self.outer = (sa.src, sa.dst)
        self.inner = self.ends[inner] if sa.mode != xfrm.TRANSPORT else None
        if sa.mode == xfrm.BEET:
            sa = sa.but(sel=host(self.inner[1], self.inner[0]))
        elif self.inner:
            sa = sa.but(sel=Selector(family=inner))
        numbered = sa.proto != xfrm.COMP and "REPLAY_ESN_VAL" not in (more_in or {})
        self.out = self.a.xfrm.new(sa.but({"SA_DIR": b"\2", **(more_out or {})}))
        self.in_ = self.b.xfrm.new(sa.but({"SA_DIR": b"\1", **(more_in or {})},
                                          window=32 * numbered))
        self.policies(sa)

    def policies(self, sa, update=False):
        """What makes A use an SA like this one, and B insist on it."""
        zero = not self.inner
        families = (2, 10) if zero else (xfrm.family(self.inner[0]),)
        for f in families:
            udp = selector(f)
            # The template's family is that of the addresses it leaves open.
            if zero:
                sa = sa.but(src=(V4 if f == 2 else V6)[0], dst=(V4 if f == 2 else V6)[1])
            self.a.xfrm.policy(xfrm.POLICY_OUT, udp, sa, update, zero)
            self.b.xfrm.policy(xfrm.POLICY_IN, udp, sa, update, zero)

    def migrate(self, outer=None, a=(), b=(), **request):
        """Both ends move to these outer addresses; a and b are attributes."""
        src, dst = outer or self.outer
        for side, sa, add in ((self.a, self.out, a), (self.b, self.in_, b)):
            reply = side.xfrm.migrate(migrate(sa, dst=dst, src=src, add=add, **request))
            equal(reply.errno, 0, f"migration ({reply.text})")
        self.outer = src, dst
        self.out, self.in_ = (sa.but(src=src, dst=dst) for sa in (self.out, self.in_))
        if self.inner and outer:
            self.policies(self.out, update=True)

    def dumps(self):
        return self.a.xfrm.get(self.out), self.b.xfrm.get(self.in_)

    @property
    def talk(self):
        """The addresses of the two ends of what the SA protects."""
        return self.inner or self.outer

    def sockets(self):
        """A UDP socket at each end of that."""
        src, dst = self.talk
        receiver = self.b.udp(dst, PORT)
        sender = self.a.udp(src)
        sender.connect(receiver.getsockname()[:2])
        return sender, receiver

    def send(self, count, size=600):
        """All of these arrive, in order."""
        sender, receiver = self.sockets()
        drops = self.b.counters()
        with sender, receiver:
            receiver.setblocking(False)
            for n in range(count):
                payload = bytes([n]) * size
                sender.send(payload)
                got = ktap.wait(lambda: self.arrived(receiver, drops), f"datagram {n}", 5,
                                ktap.Failed)
                equal(got, payload, f"datagram {n}")

    def arrived(self, receiver, drops):
        """The next datagram, or None so far; Failed if B drops instead."""
        try:
            return receiver.recv(65536)
        except BlockingIOError:
            now = xfrm.changes(drops, self.b.counters())
            ktap.true(not now, f"the receiver drops: {now}")
            return None

    def encap_socket(self, port, family=xfrm.AF_INET):
        """B hears ESP in UDP on this port."""
        s = self.b.udp("::" if family == xfrm.AF_INET6 else "0.0.0.0", port)
        s.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, xfrm.UDP_ENCAP_ESPINUDP)

    def tap(self, ns):
        """A socket for the raw frames of v."""
        s = ns.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        s.bind(("v", ETH_P_ALL))
        s.setblocking(False)
        return s


def frames(tap):
    """The frames that have come in at a tap and carry a protected datagram."""
    seen = []
    while True:
        try:
            data, origin = tap.recvfrom(65536)
        except BlockingIOError:
            return seen
        # Tunnels hand their contents to the same device: not on the wire.
        size = 16 if data[12:14] == b"\x86\xdd" else 4
        to = data[14 + (24 if size == 16 else 16):][:size].ljust(16, b"\0")
        if origin[2] != socket.PACKET_OUTGOING and to in OUTER and wire(data)[0] in (
                xfrm.ESP, xfrm.AH, xfrm.COMP, xfrm.UDP):
            seen.append(data)


def outermost(frame):
    """(protocol, what follows) of the outermost IP header."""
    ip = frame[14:]
    proto, head = (ip[6], 40) if frame[12:14] == b"\x86\xdd" else (ip[9], (ip[0] & 15) * 4)
    return proto, ip[head:]


def wire(frame):
    """(protocol, source port, destination port) of the outermost IP header."""
    proto, body = outermost(frame)
    if frame[12:14] not in (b"\x08\0", b"\x86\xdd") or proto != xfrm.UDP:
        return proto, None, None
    return (proto, *struct.unpack_from("!HH", body))


def esp(frame):
    """(sequence number, what follows it) of ESP, which may be in UDP."""
    proto, body = outermost(frame)
    body = body[8 * (proto == xfrm.UDP):]
    return int.from_bytes(body[4:8], "big"), body[8:]


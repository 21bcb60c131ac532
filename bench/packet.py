#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What the module costs a packet, in guest instructions.

    scripts/vm --icount -- bench/packet.py

A datagram goes from A to B through an SA, all on one CPU: sent, encrypted,
received, decrypted. Inbound: only the latter two, of ESP frames that A had sent
before.
"""

import socket

import measure
from lib import xfrm
from lib.hosts import V4, Hosts, frames
from lib.xfrm import SA

COUNT, SIZES = 100, {"transport": (xfrm.TRANSPORT, 64), "tunnel": (xfrm.TUNNEL, 1200)}


class Packets:
    """Two hosts that send each other datagrams of this size."""

    def __init__(self, two, size):
        self.two, self.sent = two, bytes(size)
        self.sender, self.receiver = two.sockets()
        self.receiver.settimeout(None)

    def both(self):
        with measure.Stopwatch(self.sender, self.receiver) as watch:
            return [watch.send(self.sent)[0] for _ in range(COUNT)]

    def inbound(self):
        """B gets what A has sent before, for an SA that was as it is now again."""
        before = self.two.b.xfrm.get(self.two.in_)
        tap = self.two.tap(self.two.b)
        tap.setsockopt(socket.SOL_SOCKET, measure.SO_RCVBUFFORCE, 1 << 22)
        for _ in range(COUNT):
            self.sender.send(self.sent)
            self.receiver.recv(65536)
        seen = frames(tap)
        tap.close()
        assert len(seen) == COUNT
        self.two.b.xfrm.set_ae(self.two.in_, [("REPLAY_VAL", before["REPLAY_VAL"])])
        with self.two.tap(self.two.a) as wire, measure.Stopwatch(wire, self.receiver) as watch:
            return [watch.send(frame)[0] for frame in seen]


def main():
    for mode, (number, size) in SIZES.items():
        with Hosts() as two:
            two.sa(SA(*V4, 0x1000, mode=number))
            measure.quiet()
            packets = Packets(two, size)

            def by(who):
                for op in packets.both, packets.inbound:
                    measure.result(op(), bench="packet", op=op.__name__, who=who, kind=mode,
                                   size=size)
            measure.each_handler(by)


if __name__ == "__main__":
    main()

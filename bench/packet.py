#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What the module costs a packet, in guest instructions.

    scripts/vm --icount -- bench/packet.py

A datagram goes from A to B through an SA, all on one CPU: sent, encrypted,
received, decrypted. Inbound: only the latter two, of ESP frames that A had sent
before; also while other SAs are found at old addresses, and of an SA that is found at one
itself, at its new and its old address.
"""

import socket
import time

import measure
from lib import xfrm
from lib.hosts import V4, V4_MOVED, Hosts, frames
from lib.xfrm import SA, migrate

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

    def inbound(self, *moves):
        """B gets what A has sent before, for an SA that was as it is now again, or has moved to
        these addresses."""
        before = self.two.b.xfrm.get(self.two.in_)
        tap = self.two.tap(self.two.b)
        tap.setsockopt(socket.SOL_SOCKET, measure.SO_RCVBUFFORCE, 1 << 22)
        for _ in range(COUNT):
            self.sender.send(self.sent)
            self.receiver.recv(65536)
        seen = frames(tap)
        tap.close()
        assert len(seen) == COUNT
        for dst in moves:
            self.move(dst)
        self.two.b.xfrm.set_ae(self.two.in_, [("REPLAY_VAL", before["REPLAY_VAL"])])
        with self.two.tap(self.two.a) as wire, measure.Stopwatch(wire, self.receiver) as watch:
            costs = [watch.send(frame)[0] for frame in seen]
        if self.two.in_.dst != V4[1]:
            self.move(V4[1])
        return costs

    def move(self, dst):
        """B's SA moves to this address."""
        self.two.b.xfrm.must(xfrm.MIGRATE_STATE, migrate(self.two.in_, dst=dst).pack())
        self.two.in_ = self.two.in_.but(dst=dst)

    def beside(self):
        """While another SA is found at an old address."""
        self.two.b.sysctl("xfrm_next/migrate_grace", 60_000)
        # Longer than that its own SA has been there.
        time.sleep(62)
        other = self.two.b.xfrm.new(SA(*V4, 0x2001))
        self.two.b.xfrm.must(xfrm.MIGRATE_STATE, migrate(other, dst=V4_MOVED[1]).pack())
        costs = self.inbound()
        self.two.b.xfrm.delete(other.but(dst=V4_MOVED[1]))
        return costs

    def moved(self):
        """At the address where B's SA is now, while it is found at another one, too."""
        return self.inbound(V4_MOVED[1], V4[1])

    def late(self):
        """At the address that B's SA has left."""
        return self.inbound(V4_MOVED[1])


def main():
    for mode, (number, size) in SIZES.items():
        with Hosts() as two:
            two.sa(SA(*V4, 0x1000, mode=number))
            measure.quiet()
            packets = Packets(two, size)

            def by(who):
                ops = [packets.both, packets.inbound]
                if who == measure.RUST:
                    ops += packets.beside, packets.moved, packets.late
                for op in ops:
                    measure.result(op(), bench="packet", op=op.__name__, who=who, kind=mode,
                                   size=size)
            measure.each_handler(by)


if __name__ == "__main__":
    main()

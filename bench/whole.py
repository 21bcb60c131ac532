#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What a move costs as a whole, in guest instructions: what is left for later, too.

    scripts/vm --icount --memory 2G --timeout 3000 -- bench/whole.py SAS...

All SAs move to another pair of addresses and back, or one of them does as often, by
one request in a datagram or many, without acknowledgements. "quick" instead of a
number: all of 1,000, by many.

A process that gets the CPU when nobody else wants it counts (flood whole), until all
has been done for sure. How much passes for each count is known from when nothing was
sent: what passed besides is what the moves took.
"""

import contextlib
import itertools
import statistics
import struct
import sys

import measure
from lib import netlink, xfrm
from lib.netlink import Message
from lib.netns import Netns
from lib.xfrm import SA, migrate

# RCU, timers and the collector have always ended; so has what keeps an SA to be found at its old
# address.
REST = 9_000_000_000
MANY = 500                  # requests in a datagram
# Moves, so that the median is the same next time. One by one more or less is collected at once.
ENOUGH = {1: 8000, MANY: 4000}
# How long they are found at their old addresses, in ms: as with the C handler, and the default.
GRACES = 0, 5000
HERE, THERE = ("192.0.2.1", "192.0.2.2"), ("192.0.2.3", "192.0.2.4")


class Meter(measure.Sender):
    """Counts what the requests take that it sends; `listener` hears of each, if there is one."""

    def __init__(self, ns, listener=None):
        self.listener = listener
        super().__init__("whole", ns.xfrm.socket, (listener or ns.xfrm).socket, REST)
        self.each = statistics.median(passed / counted for passed, counted, _ in (
            self.tell(b"", 0, 0, answers=3) for _ in range(3)))

    def cost(self, requests, many):
        """Of each, so many in a datagram."""
        data = b"".join(requests)
        passed, counted, received = self.tell(data, len(data), many * len(requests[0]), answers=3)
        # Where nobody listens: errors.
        assert received == (len(requests) if self.listener else 0), received
        return round((passed - counted * self.each) / len(requests))


def moves(count, old, new):
    """A request for each SA that measure.fill() has made."""
    one = Message(xfrm.MIGRATE_STATE, netlink.REQUEST, 0, 0,
                  migrate(SA(*old, 0), dst=new[1], src=new[0]).pack()).pack()
    spi, reqid = 32, 136        # offsets of what differs
    return [one[:spi] + struct.pack(">I", 0x100 + n) + one[spi + 4:reqid]
            + struct.pack("=I", n) + one[reqid + 4:] for n in range(count)]


def by(who, ns, count, ops, packings):
    there, back = moves(count, HERE, THERE), moves(count, THERE, HERE)
    ways = {"all": [there, back], "one": [[there[0], back[0]] * (count // 2)]}
    what = {"bench": "whole", "who": who, "sas": count, "hash": measure.hash_size(ns)}
    for listeners in 0, 1:
        listener = measure.listen(ns) if listeners else None
        with listener or contextlib.nullcontext(), Meter(ns, listener) as meter:
            for many, op, grace in itertools.product(packings, ops, GRACES if who == measure.RUST else [0]):
                if who == measure.RUST:
                    ns.sysctl("xfrm_next/migrate_grace", grace)
                rounds = ENOUGH[many] // count // len(ways[op]) or 1
                measure.result([meter.cost(way, many) for way in rounds * ways[op]],
                               op=op, many=many, listeners=listeners, grace=grace, **what)


def main():
    quick = sys.argv[1:] == ["quick"]
    cases = (["all"], [MANY]) if quick else (["all", "one"], [1, MANY])
    with Netns() as ns:
        measure.fill(ns, 1)     # loads what is needed
    measure.quiet()
    for count in [1000] if quick else map(int, sys.argv[1:]):
        with Netns() as ns:
            measure.fill(ns, count)
            measure.each_handler(lambda who, ns=ns, count=count: by(who, ns, count, *cases))
            ns.xfrm.flush()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The moment in which the new SA takes the old one's place, under flood.

MOVES=N in the environment: so often for the longest of these tests.
"""

import os

from lib import crypto, flood, handler, ktap, xfrm
from lib.flood import DEBUG, ESN, Flood
from lib.handler import C, RUST
from lib.hosts import V4, V6
from lib.ktap import defect, equal, only, true
from lib.xfrm import SA

# A debug kernel is too slow to show what the others get wrong; there it is
# about what it says of ours.
MOVES = int(os.environ.get("MOVES", 500 if DEBUG else 10000))
both = only(RUST) if DEBUG else (lambda test: test)
TUNNEL = SA(*V4, 0x1000, mode=xfrm.TUNNEL, flags=xfrm.FLAG_ESN)


def moved(what, two, how=flood.migrate, moves=MOVES, **more):
    """The cost of moving the SAs of A under flood."""
    with two:
        cost = two.run(how, moves, **more)
    for name, way in ("out", cost.out), ("in", cost.in_):
        print(f"# {what}, {name}: {cost.moves} moves, {way.lost} of {way.sent + way.refused} packets "
              f"lost, {way.again} of {way.frames} received again, reused {way.reused}")
    print(f"# {what}: {cost.acquires} acquires, {cost.larval} larval SAs, {cost.counters}")
    return cost


def safe(cost):
    """Nothing is used twice or received twice."""
    for way in cost.ways:
        equal(way.reused, (0, 0), "sequence numbers and IVs used more than once")
        equal(way.again, 0, "received more than once")


def harmless(cost, segments=1, refused=0):
    """Nothing is lost; what has been sent twice is refused once."""
    safe(cost)
    equal((cost.acquires, cost.larval), (0, 0), "acquires, larval SAs")
    equal((cost.lost, sum(way.refused for way in cost.ways)), (0, 0), "packets lost, or not sent")
    equal(cost.counters, {"XfrmInStateSeqError": refused} if refused else {}, "counters")
    for way, size in (cost.out, segments), (cost.in_, 1):
        equal([packets for _, packets in way.counted], [way.sent // size, way.received],
              "packets counted by the SAs")
        for octets, packets in way.counted:
            equal(octets % packets, 0, "bytes that no packet has")


@both
@defect(3)
def nothing_is_received_twice():
    safe(moved("each frame twice", Flood(), moves=MOVES // 5, again=True))


@both
@defect(4)
def an_sa_is_always_found():
    harmless(moved("migrate", Flood(), moves=MOVES // 5))


if __name__ == "__main__":
    ktap.main([nothing_is_received_twice, an_sa_is_always_found])

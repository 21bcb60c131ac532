#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The moment in which the new SA takes the old one's place, under flood.

MOVES=N in the environment: so often in the longest of these tests.
"""

import os

from lib import crypto, flood, handler, ktap, xfrm
from lib.flood import ESN, Flood
from lib.handler import BRIEF, C, DEBUG, RUST
from lib.hosts import V4, V6
from lib.ktap import defect, equal, only, true
from lib.xfrm import SA

MOVES = int(os.environ.get("MOVES", 150 if DEBUG else 3000))
FEW = MOVES // 20

SPI = 0x1000
TUNNEL = SA(*V4, SPI, mode=xfrm.TUNNEL, flags=xfrm.FLAG_ESN)
HMAC = dict([xfrm.auth()])
CBC = dict([xfrm.crypt(), xfrm.auth()])
IN_UDP = {"ENCAP": xfrm.encap(4500, 4500)}
# Attributes of the input SA and of the output SA.
PLAIN = {}, {}
BITMAP = {"REPLAY_ESN_VAL": xfrm.esn(512, 16)}, {"REPLAY_ESN_VAL": xfrm.esn(0, 0)}
# The upper half of the numbers changes soon.
BRINK = ({"REPLAY_ESN_VAL": xfrm.esn(1 << 12, 1 << 7, seq=0xffffff00)},
         {"REPLAY_ESN_VAL": xfrm.esn(0, 0, oseq=0xffffff00)})


def moved(what, two, how=flood.migrate, moves=MOVES, **more):
    """The cost of moving the SAs of A under flood."""
    with two:
        cost = two.run(how, moves, **more)
    for name, way in ("out", cost.out), ("in", cost.in_):
        print(f"# {what}, {name}: {moves} moves, {way.lost} of {way.sent + way.refused} packets "
              f"lost, {way.again} of {way.frames} received again, {way.reused} numbers and IVs "
              "used again")
    print(f"# {what}: {cost.acquires} acquires, {cost.larval} larval SAs, {cost.counters}")
    return cost


def safe(cost):
    """Nothing is used twice or received twice."""
    for way in cost.ways:
        equal(way.reused, (0, 0), "sequence numbers and IVs used again")
        equal(way.again, 0, "received again")


def harmless(cost, segments=1, again=False):
    """Nothing is lost, left behind or miscounted either."""
    equal((cost.acquires, cost.larval), (0, 0), "acquires, larval SAs")
    equal((cost.lost, cost.out.refused, cost.in_.refused), (0, 0, 0), "packets lost, or not sent")
    refused = (cost.out.frames + cost.in_.frames) * again
    equal(cost.counters, {"XfrmInStateSeqError": refused} if refused else {}, "counters")
    for way, size in (cost.out, segments), (cost.in_, 1):
        counted(way, size)
    safe(cost)


def counted(way, segments=1):
    """The SAs have counted what went over the wire and what was received."""
    equal([packets for _, packets in way.counted], [way.frames // segments, way.received],
          "packets counted by the SAs")
    equal([octets % packets for octets, packets in way.counted], [0, 0],
          "bytes counted that are no packet's")


def chances():
    """A defect gets many, since it needs some luck to show; it ends them when it does."""
    return range(1 if handler.mended() else 40)


@defect(3)
def nothing_is_received_twice():
    for _ in chances():
        safe(moved("each frame twice", Flood(), moves=MOVES // 5, again=True))


@defect(4)
def an_sa_is_always_found():
    """And who has found the old one gets on with it, by ours."""
    for _ in chances():
        cost = moved("migrate", Flood(), moves=MOVES // 5)
        equal((cost.acquires, cost.larval), (0, 0), "acquires, larval SAs")
        missed = sum(cost.counters.get(c, 0) for c in ("XfrmInNoStates", "XfrmOutNoStates"))
        # The fix in C (0029) leaves those that are between two nodes of one chain.
        true(missed <= (MOVES // 2500 if handler.FIXED else 0),
             f"{missed} lookups in {cost.moves} moves have found none")
        if handler.chosen() == RUST:
            harmless(cost)


@only(RUST)
def others_lose_more():
    """A tenth of the C handler's loss would do; ours is none at all."""
    costs = {}
    for name, who, how, part in (("ours", RUST, flood.migrate, 1),
                                 ("C handler", C, flood.migrate, 3),
                                 ("XFRM_MSG_MIGRATE", C, flood.migrate_policy, 10),
                                 ("delete + add", C, flood.replace, 10)):
        handler.use(who)
        for _ in chances():
            costs[name] = moved(name, Flood(), how, MOVES // part)
            if costs[name].lost:
                break
    print("# | | moves of each SA | lost outbound | lost inbound | lost in 1,000 moves "
          "| received again | numbers used again |\n# |" + "---|" * 7)
    rates = {name: 1000 * cost.lost / cost.moves for name, cost in costs.items()}
    for name, cost in costs.items():
        print(f"# | {name} | {cost.moves} | {cost.out.lost} of {cost.out.sent + cost.out.refused} "
              f"| {cost.in_.lost} of {cost.in_.sent + cost.in_.refused} | {rates[name]:.1f} "
              f"| {cost.again} | {sum(way.reused[0] for way in cost.ways)} |")
    harmless(costs["ours"])
    true(rates["C handler"], "the flood is too weak to show a loss")
    true(10 * rates["ours"] <= rates["C handler"], "more than a tenth of the C handler's loss")


def by(template, *sa, **more):
    """As always, but with an AEAD that finishes later."""
    with crypto.handled_by(template, "seqiv(rfc4106(gcm(aes)))") as driver:
        two = Flood(*sa)
        true(int(crypto.known()[driver]["refcnt"]) > 1, f"{driver} is in use")
        return moved(f"{template}, {driver}", two, moves=MOVES // 10, **more)


@only(RUST)
def cryptd_finishes_later():
    harmless(by("cryptd"))


@only(RUST)
def pcrypt_finishes_elsewhere():
    harmless(by("pcrypt"))


@only(RUST)
def segments_have_numbers_of_their_own():
    harmless(moved("segments", Flood(TUNNEL), moves=MOVES // 5, segments=8), 8)


@only(RUST)
def segments_are_encrypted_later():
    harmless(by("cryptd", TUNNEL, segments=8), 8)


def kind(name, *sa):
    """A test of another kind of SA: each of its frames is sent twice."""
    @only(RUST)
    def test():
        two = Flood(*sa)
        for way in (two, two.other) if "udp" in name else ():
            way.encap_socket(4500)
        harmless(moved(name, two, moves=FEW, again=True), again=True)
    test.__name__ = name
    return test


KINDS = [kind(*k) for k in (
    ("window_of_32", SA(*V4, SPI), 2, PLAIN),
    ("bitmap_in_tunnel", TUNNEL.but(flags=0), 2, BITMAP),
    ("upper_half_changes", SA(*V6, SPI, flags=xfrm.FLAG_ESN), 10, BRINK),
    ("cbc_in_ipv6_tunnel", SA(*V6, SPI, mode=xfrm.TUNNEL, attrs=CBC), 2, BITMAP),
    ("ah_window_of_32", SA(*V4, SPI, proto=xfrm.AH, attrs=HMAC), 2, PLAIN),
    ("ah_in_ipv6_tunnel", SA(*V6, SPI, proto=xfrm.AH, mode=xfrm.TUNNEL, flags=xfrm.FLAG_ESN,
                             attrs=HMAC), 10, ESN),
    ("udp_encapsulation", TUNNEL.but(IN_UDP), 2, ESN))]


if __name__ == "__main__":
    ktap.main([nothing_is_received_twice, an_sa_is_always_found]
              + [others_lose_more] * (not DEBUG)
              + [cryptd_finishes_later, segments_have_numbers_of_their_own] * (not BRIEF)
              + [pcrypt_finishes_elsewhere, segments_are_encrypted_later]
              + (KINDS[2::4] if BRIEF else KINDS))

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Many SAs in one chain of the hash tables, all of which are moved under flood.

Each stays where it is in the chain, so that lookups on their way through it
find theirs, and none is lost from the tables.
"""

import socket

from lib import flood, ktap, xfrm
from lib.flood import DEBUG, Flood
from lib.hosts import V4_MOVED
from lib.ktap import equal, only
from lib.handler import RUST

OTHERS = 30
ROUNDS = 5 if DEBUG else 50
MASK = 0x3ff        # more than the tables have chains


def chain_of_spi(spi, proto=xfrm.ESP):
    """Where __xfrm_spi_hash() puts it, addresses left out."""
    h = socket.htonl(spi) ^ proto
    return (h ^ h >> 10 ^ h >> 20) & MASK


def chain_of_reqid(reqid):
    """Where __xfrm_dst_hash() puts it, addresses left out."""
    return (reqid ^ reqid >> 16) & MASK


def alike(key, chain):
    """Others that get into the same chain, whatever the number of chains is."""
    candidate = found = 0
    while found < OTHERS:
        candidate += 1 if chain is chain_of_spi else 0x401
        if candidate != key and chain(candidate) == chain(key):
            found += 1
            yield candidate


def moves(sas, saddrs):
    """Requests that move each SA to these source addresses in turn."""
    return [(xfrm.MIGRATE_STATE, xfrm.migrate(sa, src=src).pack(), 0)
            for src in saddrs for sa in sas]


def check(side, others, saddrs):
    """No packet is lost while all the SAs of that side are moved."""
    with Flood() as two:
        host, sa = (two.b, two.in_) if side == "in" else (two.a, two.out)
        plain = sa.but(flags=0)
        del plain.attrs["REPLAY_ESN_VAL"]
        sas = [sa, *(host.xfrm.new(plain.but(**other)) for other in others(sa))]
        cost = two.run(side, lambda _: moves(sas, saddrs or [sa.src]), ROUNDS)
        print(f"# {cost}")
        equal((cost.lost, cost.counters), (0, {}), "packets lost, counters")
        equal((cost.repeated, cost.accepted), (0, 0), "received twice")
        equal((cost.acquires, cost.larval), (0, OTHERS), "acquires, other SAs")
        for sa in sas:
            equal(host.xfrm.get(sa)["spi"], sa.spi, "SPI of the SA that is found by it")


@only(RUST)
def input_is_found_in_its_place():
    check("in", lambda sa: ({"spi": s} for s in alike(sa.spi, chain_of_spi)), None)


@only(RUST)
def input_from_elsewhere_is_found_in_its_place():
    """The table by SPI isn't changed, the others are."""
    saddrs = V4_MOVED[0], flood.V4[0]
    check("in", lambda sa: ({"spi": s} for s in alike(sa.spi, chain_of_spi)), saddrs)


@only(RUST)
def output_is_found_in_its_place():
    check("out", lambda sa: ({"spi": 0x2000 + r, "reqid": r}
                             for r in alike(sa.reqid, chain_of_reqid)), None)


if __name__ == "__main__":
    ktap.main([input_is_found_in_its_place, input_from_elsewhere_is_found_in_its_place,
               output_is_found_in_its_place])

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Many SAs in one chain of the hash tables, all of which are moved under flood.

Each stays where it is in the chain, so that lookups on their way through it
find theirs, and none is lost from the tables.
"""

import socket

from lib import ktap, xfrm
from lib.flood import Flood
from lib.handler import DEBUG, RUST
from lib.hosts import V4, V4_MOVED
from lib.ktap import equal, only

OTHERS = 30
ROUNDS = 5 if DEBUG else 50
MASK = 0x3ff        # more than the tables have chains


def chain_of_spi(spi):
    """Where __xfrm_spi_hash() puts it, addresses left out."""
    h = socket.htonl(spi) ^ xfrm.ESP
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


class Chains(Flood):
    """Others in the chains of A's SAs: by SPI of the input SA, by ends of the other."""

    def __init__(self):
        super().__init__()
        self.chains = {}
        for sa, others in (
                (self.out, [{"spi": 0x2000 + n, "reqid": reqid} for n, reqid in
                            enumerate(alike(self.out.reqid, chain_of_reqid))]),
                (self.other.in_, [{"spi": spi} for spi in
                                  alike(self.other.in_.spi, chain_of_spi)])):
            plain = sa.but(flags=0, drop=("REPLAY_ESN_VAL",))
            self.chains[sa.spi] = [sa, *(self.a.xfrm.new(plain.but(**o)) for o in others)]

    def check(self, peers):
        """No packet is lost while all of them move; the input SAs to these peers."""
        def moves(sa):
            inbound = sa is self.other.in_
            return [(xfrm.MIGRATE_STATE, xfrm.migrate(s, src=peer).pack(), 0)
                    for peer in (peers if inbound else (sa.src,)) for s in self.chains[sa.spi]]
        cost = self.run(moves, ROUNDS)
        print(f"# {cost}")
        equal((cost.lost, cost.counters), (0, {}), "packets lost, counters")
        equal((cost.acquires, cost.larval), (0, 2 * OTHERS), "acquires, other SAs")
        for way in cost.ways:
            equal((way.reused, way.again), ((0, 0), 0), "numbers and IVs, packets: twice")
        for chain in self.chains.values():
            for sa in chain:
                equal(self.a.xfrm.get(sa)["spi"], sa.spi, "SPI of the SA that is found by it")


@only(RUST)
def sas_are_found_in_their_places():
    with Chains() as two:
        two.check(V4[1:])


@only(RUST)
def input_is_found_when_the_peer_moves():
    """The place by SPI stays, the others don't."""
    with Chains() as two:
        two.check((V4_MOVED[1], V4[1]))


if __name__ == "__main__":
    ktap.main([sas_are_found_in_their_places, input_is_found_when_the_peer_moves])

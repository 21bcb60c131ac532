#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""SPIs, and moves, that a user of namespaces of their own makes dear: others don't wait for it.

SAS=N in the environment: of how many SAs.
"""

import os
import struct
import time
from pathlib import Path

from lib import handler, hostile, ktap, spi, xfrm
from lib.handler import BRIEF, DEBUG, NEITHER, SOAK
from lib.hostile import compared, timed
from lib.ktap import equal, true
from lib.netlink import CREATE, EXCL, REQUEST, Message
from lib.probe import Allocations
from lib.spi import in_one_chain, larval, request, spread
from lib.xfrm import DIR_IN, DIR_OUT, SA, Xfrm, migrate

SAS = int(os.environ.get("SAS", 500 if BRIEF else 50000 if SOAK and not DEBUG else 2000))
SPI, OTHER, FREE = 0x1000, 0x2000, 0x3000
# SPIs of a range that is all taken, and SAs whose allocations are looked at one by one.
RANGE, FEW = 64, 100
# What a request itself may take, in seconds, more than twice what it takes without.
OWN = 0.2 if DEBUG else 0.02
HERE, PEER = "10.9.9.9", "10.8.8.8"
NEW = CREATE | EXCL
NULL = {"ALG_CRYPT": struct.pack("=64sI", b"ecb(cipher_null)", 0),
        "ALG_AUTH": struct.pack("=64sI", b"digest_null", 0)}


def each(nl, kind, bodies, flags=0):
    """Only failures are answered."""
    for start in range(0, len(bodies), 500):
        nl.send(b"".join(Message(kind, REQUEST | flags, 0, 0, body).pack()
                         for body in bodies[start:start + 500]))
        equal(nl.pending(), [], "failures")


def same_spi(address, direction, spi_, count):
    return [SA(HERE, address(n, spi_), spi_, mode=xfrm.TRANSPORT, attrs=NULL)
            .but({"SA_DIR": bytes([direction])}) for n in range(1, count + 1)]


def ask(nl, spi_, n, more=0):
    """How long it takes to ask for an SPI to receive by, or one of so many more, which is given
    back."""
    start = time.monotonic()
    got = request(nl, larval(PEER, spi_, spi_ + more, src=HERE, direction=DIR_IN, reqid=n))
    took = time.monotonic() - start
    if not got.errno:
        nl.delete(SA(HERE, PEER, spi_))
    return took


def shared(address, direction):
    """Asks for an SPI that all these SAs have; then for that of half of them, which have gone,
    while the others are in their chain."""
    def act():
        takes = {}
        with Xfrm() as nl:
            each(nl, xfrm.NEWSA, [sa.pack() for sa in same_spi(address, direction, SPI, SAS)], NEW)
            ask(nl, FREE, 0)
            takes["the SPI of all"] = min(ask(nl, SPI, n) for n in range(1, 6))
            nl.flush()
            gone = same_spi(address, direction, SPI, SAS // 2)
            for half in gone, same_spi(address, direction, OTHER, SAS // 2):
                each(nl, xfrm.NEWSA, [sa.pack() for sa in half], NEW)
            ask(nl, FREE, 0)
            each(nl, xfrm.DELSA, [sa.ident() for sa in gone])
            # The first one pays once for those that have gone, but not in one hold.
            takes["the SPI of half that have gone"] = min(ask(nl, SPI, n) for n in range(1, 6))
        return takes
    compared(act, hostile.rtnl, hostile.states, own=OWN)


def outbound_in_one_chain():
    shared(in_one_chain, DIR_OUT)


def outbound_spread():
    shared(spread, DIR_OUT)


def inbound_in_one_chain():
    shared(in_one_chain, DIR_IN)


def a_range_that_is_taken():
    """Each SPI of it by one of the first SAs of a long chain, in which who comes later is found
    before."""
    def act():
        with Xfrm() as nl:
            first = [sa for spi_ in range(SPI, SPI + RANGE)
                     for sa in same_spi(in_one_chain, DIR_IN, spi_, 1)]
            for sas in first, same_spi(in_one_chain, DIR_IN, OTHER, SAS):
                each(nl, xfrm.NEWSA, [sa.pack() for sa in sas], NEW)
            ask(nl, FREE, 0)
            return {"one of a range": min(ask(nl, SPI, n, RANGE - 1) for n in range(1, 6))}
    compared(act, hostile.rtnl, hostile.states, own=OWN)


def moves_in_one_chain():
    """Of one of the first SAs, to other addresses in the chain."""
    def act():
        with Xfrm() as nl:
            sas = same_spi(in_one_chain, DIR_IN, SPI, SAS)
            each(nl, xfrm.NEWSA, [sa.pack() for sa in sas], NEW)
            takes, sa = [], sas[0]
            for n in range(1, 11):
                to = in_one_chain(SAS + n, SPI)
                takes.append(timed(nl.must, xfrm.MIGRATE_STATE, migrate(sa, dst=to).pack()))
                sa = sa.but(dst=to)
            return {"a move": min(takes)}
    compared(act, hostile.rtnl, hostile.states, own=OWN)


def memory():
    """How many objects of the size of the index's there are."""
    return sum(int(slab.read_text().split()[0])
               for name in ("kmalloc-64", "kmalloc-cg-64")
               if (slab := Path("/sys/kernel/slab", name, "objects")).exists())


def memory_goes_with_the_sas():
    """Without another request."""
    if not Path("/sys/kernel/slab/kmalloc-64/objects").exists():
        raise ktap.Skip("no SLUB_DEBUG")
    with handler.module(), spi.namespace() as ns:
        before = memory()
        each(ns.xfrm, xfrm.NEWSA, [sa.pack() for sa in same_spi(spread, DIR_IN, SPI, SAS)], NEW)
        ask(ns.xfrm, FREE, 0)
        kept = memory() - before
        true(kept > SAS / 2, f"{kept} objects for {SAS} SAs: where is the index?")
        ns.xfrm.flush()
        ktap.wait(lambda: memory() - before < SAS / 4, "it is given back", 60, ktap.Failed)


def memory_is_the_asker_s():
    """The kernel counts it as that of the control group of who asks for an SPI, as all that is
    asked for with this flag; SAs, which the kernel makes, aren't counted as anybody's."""
    with handler.module(), spi.namespace() as ns:
        each(ns.xfrm, xfrm.NEWSA, [sa.pack() for sa in same_spi(spread, DIR_IN, SPI, FEW)], NEW)
        with Allocations() as asked:
            ask(ns.xfrm, FREE, 0)
    true(len(asked.flags) > FEW, f"{len(asked.flags)} allocations for {FEW} SAs")
    equal([flags for flags in asked.flags if "ACCOUNT" not in flags], [], "which isn't counted")


if __name__ == "__main__":
    ktap.main([outbound_in_one_chain, outbound_spread, inbound_in_one_chain,
               a_range_that_is_taken, moves_in_one_chain, memory_is_the_asker_s]
              + [memory_goes_with_the_sas] * (not DEBUG), handlers=(NEITHER,), load=False)

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What an SPI costs, in guest instructions, with so many other SAs there.

    scripts/vm --icount --memory 2G --timeout 3000 -- bench/spi.py [shared] SAS...

From request to answer, with scope 2, which is what the kernel does without the
module. The floor is a request for nothing. "shared": all SAs have the wanted SPI, in
each scope.
"""

import errno
import struct
import sys

import measure
from lib import netlink, spi, xfrm
from lib.netlink import CREATE, EXCL
from lib.netns import Netns
from lib.spi import larval
from lib.xfrm import DIR_IN, SA

HERE, OTHER = "192.0.2.1", "192.0.2.9"
COUNT, FEW = 40, 3
WIDE, NARROW = (0x100000, 0xfffffff), (0x10000000, 0x100000ff)
FULL = 0x100, 0x1ff         # has the SPIs of the first 256 SAs
SHARED = 0x1000


class Jobs(measure.Requests):
    """Each leaves the SAs as they were, but for keep()."""

    def alloc(self, low_high, errno_=0, reqid=0):
        sa, low, high = larval(OTHER, *low_high, direction=DIR_IN, reqid=reqid)
        return self.ask(xfrm.ALLOCSPI, sa.info() + struct.pack("=II", low, high)
                        + netlink.attr(xfrm.A["SA_DIR"], b"\1"), errno=errno_)

    def delete(self, number):
        return self.cost(xfrm.DELSA, SA(HERE, OTHER, number).ident())

    def one_of(self, low_high):
        cost, answer = self.alloc(low_high)
        self.delete(xfrm.parse_sa(answer.body)["spi"])
        return cost

    def wide(self):
        return self.one_of(WIDE)

    def narrow(self):
        """Of 256, all free."""
        return self.one_of(NARROW)

    def full(self):
        """Of 256, none free."""
        return self.alloc(FULL, errno.ENOENT)[0]

    def kept(self):
        """The SA stays, so that the next one has something to read. Each has a
        reqid of its own, else the kernel looks for longer and longer."""
        answers = [self.alloc(WIDE, reqid=n + 1) for n in range(COUNT)]
        for _, answer in answers:
            self.delete(xfrm.parse_sa(answer.body)["spi"])
        return [cost for cost, _ in answers]

    def new_and_delete(self):
        new = self.cost(xfrm.NEWSA, SA(HERE, OTHER, 0x90, reqid=3).pack(), CREATE | EXCL)
        return new + self.delete(0x90)

    def floor(self):
        return self.cost(xfrm.DELSA, SA(HERE, OTHER, 0x91).ident(), errno=errno.ESRCH)


def by(who, ns):
    what = {"bench": "spi", "who": who, "sas": ns.xfrm.count(), "hash": measure.hash_size(ns)}
    with Jobs(ns) as jobs:
        if who == measure.RUST:
            spi.scope(ns, 2)
            # It reads all SAs that are there.
            measure.result([jobs.wide()], op="first", **what)
        for op in jobs.floor, jobs.wide, jobs.narrow, jobs.full, jobs.new_and_delete:
            if op != jobs.full or what["sas"] >= 256:
                # In C it takes long.
                count = FEW if op == jobs.full and who != measure.RUST else COUNT
                measure.result([op() for _ in range(count)], op=op.__name__, **what)
        measure.result(jobs.kept(), op="kept", **what)


def share(ns, count, in_one_chain):
    """Adds outbound SAs of one SPI."""
    for n in range(1, count + 1):
        address = spi.in_one_chain if in_one_chain else spi.spread
        sa = SA(HERE, address(n, SHARED), SHARED, reqid=n).but({"SA_DIR": b"\2"})
        ns.xfrm.send(ns.xfrm.message(xfrm.NEWSA, sa.pack(), CREATE).pack())
    assert ns.xfrm.count() == count and not ns.xfrm.pending()


def by_sharing(who, ns, **what):
    """Asks for the SPI that they have: C does as scope 2."""
    with Jobs(ns) as jobs:
        for scope in (0, 1, 2) if who == measure.RUST else (2,):
            if who == measure.RUST:
                spi.scope(ns, scope)
                jobs.wide()
            refused = scope == 2
            costs = []
            for _ in range(COUNT // 4):
                cost, _ = jobs.alloc((SHARED, SHARED), errno.ENOENT if refused else 0)
                costs.append(cost)
                if not refused:
                    jobs.delete(SHARED)
            measure.result(costs, bench="shared", who=who, scope=scope, **what)


def shared(counts):
    for count in counts:
        for in_one_chain in False, True:
            with Netns() as ns:
                spi.patient(ns)
                share(ns, count, in_one_chain)
                measure.each_handler(lambda who: by_sharing(who, ns, sas=count,
                                                            in_one_chain=in_one_chain))
                ns.xfrm.flush()


def main():
    with Netns() as ns:
        spi.patient(ns)
        ns.xfrm.new(SA(HERE, OTHER, 1))     # what is needed has been loaded
    measure.quiet()
    if sys.argv[1] == "shared":
        return shared(map(int, sys.argv[2:]))
    for count in map(int, sys.argv[1:]):
        with Netns() as ns:
            measure.fill(ns, count)
            measure.each_handler(lambda who: by(who, ns))
            ns.xfrm.flush()


if __name__ == "__main__":
    main()

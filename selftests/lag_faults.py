#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Memory that is refused, one allocation after the other, to what a bond's SAs need.

For a kernel with FAILSLAB. Whatever fails, every slave holds every SA, or none.
"""

import struct

from lib import ktap, netlink, xfrm
from lib.bond import Bonded, master, must, out
from lib.handler import RUST
from lib.ktap import equal
from lib.netns import IFLA_IFNAME, RTM_NEWLINK
from lib.xfrm import migrate
from migrate_faults import failed_sends, failing


def adding():
    with failing(), Bonded() as lag:
        lag.add()
        sa = out(7)
        request = xfrm.NEWSA, lag.offloaded(sa).pack(), netlink.CREATE | netlink.EXCL
        for nth, _ in failed_sends(lag.nl, *request):
            there = lag.nl.get(sa) is not None
            ktap.wait(lambda: lag.held() in ([8 + there] * 2, [8, 8]), f"SAs, failure {nth}")
            lag.nl.delete(sa)
            ktap.wait(lambda: lag.held() == [8, 8], f"SAs, failure {nth}")


def migrating():
    with failing(), Bonded() as lag:
        lag.add()
        sa = out(0)
        for nth, _ in failed_sends(lag.nl, xfrm.MIGRATE_STATE, migrate(sa, reqid=9).pack()):
            ktap.wait(lambda: lag.held() in ([8, 8], [7, 7]), f"SAs, failure {nth}")
            equal(lag.nl.count(), 8, f"SAs, failure {nth}")


def joining():
    with failing(), Bonded() as lag:
        lag.add()
        port = lag.port()
        lag.a.up(port.name, False)
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + netlink.attrs([
            (IFLA_IFNAME, port.name.encode() + b"\0"),
            master(lag.a, "bond0")])
        for nth, reply in failed_sends(lag.a.rtnl, RTM_NEWLINK, body):
            joined = f"Slave Interface: {port.name}\n" in lag.proc()
            equal(lag.held(), [8, 8], f"SAs in the others, failure {nth}")
            equal(port.held(), 8 * joined, f"SAs in the one that joins: failure {nth}, {reply}")
            if joined:
                must(lag.a, port.name, master(lag.a))
                equal(port.held(), 0, f"SAs in the one that leaves, failure {nth}")
            lag.a.up(port.name, False)


if __name__ == "__main__":
    ktap.main([adding, migrating, joining], handlers=(RUST,))

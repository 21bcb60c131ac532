#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What it takes a driver to ask for the handle of an SA, in guest instructions
more than reading it takes.

    scripts/vm --icount -- bench/resolve.py RESOLVER.KO

Of an SA on the device itself, on a bond in mode active-backup, and on each slave
of a bond that uses all.
"""

import struct
import sys
from pathlib import Path

import measure
from lib import bond, handler, nsim, xfrm
from lib.bond import ACTIVE_BACKUP, Bonded, out
from lib.netns import Netns

TIMES = 1000
PARAMETERS = Path("/sys/module/resolver/parameters")


def cost(ns, sa, dev):
    """Instructions more, of one call."""
    daddr, spi = struct.unpack("=I", xfrm.addr(sa.dst)[:4])[0], struct.pack(">I", sa.spi)
    with ns.inside():
        handler.insmod(sys.argv[1], f"daddr={daddr} spi={struct.unpack('=I', spi)[0]} "
                                    f"lower={dev.ifindex}".encode())
    plain, resolved = (int((PARAMETERS / name).read_text()) for name in ("plain", "resolved"))
    handler.rmmod("resolver")
    return round((resolved - plain) / TIMES)


def tell(kind, costs):
    measure.result(costs, bench="resolve", who=measure.RUST, op="resolve", kind=kind)


def main():
    nsim.prepare()
    handler.use(handler.RUST)
    with Netns() as ns, nsim.Device(ns) as dev:
        sa = ns.xfrm.new(out(0).but({"OFFLOAD_DEV": xfrm.offload(dev.ifindex)}))
        tell("direct", [cost(ns, sa, dev)])
    with Bonded(ACTIVE_BACKUP, esp=False) as lag:
        sa = lag.new(out(0))
        tell("active-backup bond", [cost(lag.a, sa, port.dev) for port in lag.ports if port.held()])
    for slaves in 2, 4, 8:
        with Bonded(slaves=slaves) as lag:
            sa = lag.new(out(0))
            tell(f"LAG of {slaves}", [cost(lag.a, sa, port.dev) for port in lag.ports])


if __name__ == "__main__":
    with Netns():
        bond.prepare(module=False)
    with handler.module():
        main()

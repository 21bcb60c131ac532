#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What SAs on a bond that uses all its slaves cost, in guest instructions, by the number of
slaves, and beside one on the device itself.

    scripts/vm --icount -- bench/resolve.py RESOLVER.KO

A driver asks for the handle: more than reading it takes; also on a bond in mode active-backup.
The drivers are told of an extended sequence number. An SA is added, and deleted.
"""

import struct
import sys
from pathlib import Path

import measure
from lib import bond, handler, netlink, nsim, xfrm
from lib.bond import ACTIVE_BACKUP, Bonded, esn_out, out
from lib.netns import Netns

TIMES, REQUESTS = 1000, 50
PARAMETERS = Path("/sys/module/resolver/parameters")


def read(ns, sa, dev):
    """What the module resolver has counted, by name."""
    daddr, spi = struct.unpack("=I", xfrm.addr(sa.dst)[:4])[0], struct.pack(">I", sa.spi)
    with ns.inside():
        handler.insmod(sys.argv[1], f"daddr={daddr} spi={struct.unpack('=I', spi)[0]} "
                                    f"lower={dev.ifindex}".encode())
    counts = {path.name: int(path.read_text()) for path in PARAMETERS.iterdir()
              if path.name in ("plain", "resolved", "told")}
    handler.rmmod("resolver")
    return counts


def cost(ns, sa, dev):
    """Instructions more, of one call."""
    counts = read(ns, sa, dev)
    return round((counts["resolved"] - counts["plain"]) / TIMES)


def told(ns, sa, dev):
    """Instructions of telling all that have an SA of its number."""
    return [round(read(ns, sa, dev)["told"] / TIMES) for _ in range(3)]


def requests(ns, sa):
    """Instructions of adding and of deleting an SA."""
    with measure.Requests(ns) as ask:
        new = xfrm.NEWSA, sa.pack(), netlink.CREATE | netlink.EXCL
        costs = [(ask.cost(*new), ask.cost(xfrm.DELSA, sa.ident())) for _ in range(REQUESTS)]
    return zip(*costs[1:])      # the first one loads what ciphers need


def tell(kind, costs, op="resolve"):
    measure.result(costs, bench="resolve", who=measure.RUST, op=op, kind=kind)


def tell_more(kind, ns, dev, offload):
    """Of an SA that is offloaded like this, and another one with ESN."""
    offloaded = {"OFFLOAD_DEV": offload}
    for op, costs in zip(("add", "delete"), requests(ns, out(1).but(offloaded))):
        tell(kind, costs, op)
    tell(kind, told(ns, ns.xfrm.new(esn_out(2).but(offloaded)), dev), "advance_esn")


def main():
    nsim.prepare()
    handler.use(handler.RUST)
    with Netns() as ns, nsim.Device(ns) as dev:
        sa = ns.xfrm.new(out(0).but({"OFFLOAD_DEV": xfrm.offload(dev.ifindex)}))
        tell("direct", [cost(ns, sa, dev)])
        measure.quiet()
        tell_more("direct", ns, dev, xfrm.offload(dev.ifindex))
    with Bonded(ACTIVE_BACKUP, esp=False) as lag:
        sa = lag.new(out(0))
        tell("active-backup bond", [cost(lag.a, sa, port.dev) for port in lag.ports if port.held()])
    for slaves in 2, 4, 8:
        with Bonded(slaves=slaves) as lag:
            sa = lag.new(out(0))
            tell(f"LAG of {slaves}", [cost(lag.a, sa, port.dev) for port in lag.ports])
            tell_more(f"LAG of {slaves}", lag.a, lag.ports[0].dev,
                      xfrm.offload(lag.a.ifindex(bond.BOND)))


if __name__ == "__main__":
    with Netns():
        bond.prepare(module=False)
    with handler.module():
        main()

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What moving one SA costs, in guest instructions, from request to answer.

    scripts/vm --icount --memory 2G --timeout 3000 -- bench/migrate.py SAS...

The SA moves to another pair of addresses and back. Between so many others it
is one in tunnel mode; the other kinds ("kinds" instead of a number) have one
other SA beside them, which keeps the pages of the allocator in use. The floor
is the same request for an SA that isn't there.
"""

import contextlib
import errno
import sys

import measure
from lib import bond, handler, nsim, xfrm
from lib.netlink import CREATE, EXCL
from lib.netns import Netns
from lib.xfrm import SA, Selector, migrate

COUNT = 100
HERE, THERE = ("192.0.2.3", "192.0.2.4"), ("192.0.2.5", "192.0.2.6")
ANY = Selector(family=xfrm.AF_INET)
TUNNEL = SA(*HERE, 0x90, mode=xfrm.TUNNEL, reqid=77, sel=ANY).but({"SA_DIR": b"\2"})
KINDS = {
    "transport": TUNNEL.but(mode=xfrm.TRANSPORT),
    "encap": TUNNEL.but({"ENCAP": xfrm.encap(4500, 4500)}),
    "ESN": TUNNEL.but({"REPLAY_ESN_VAL": xfrm.esn(0, 0)}, flags=xfrm.FLAG_ESN),
    "CBC+HMAC": TUNNEL.but(dict([xfrm.crypt(), xfrm.auth()]), drop=["ALG_AEAD"]),
}


class Moves:
    """Requests for one SA, which is HERE before and after each kind of them."""

    def __init__(self, ns, sa):
        self.ns, self.sa = ns, ns.xfrm.new(sa)
        self.requests = measure.Requests(ns)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.requests.__exit__()
        self.ns.xfrm.delete(self.sa)

    def both_ways(self, kind, request, count=COUNT):
        there = self.sa.but(src=THERE[0], dst=THERE[1])
        return [self.requests.cost(kind, request(*way)) for _ in range(count // 2)
                for way in ((self.sa, there), (there, self.sa))]

    def migrate(self, count=COUNT):
        return self.both_ways(xfrm.MIGRATE_STATE, lambda old, new: migrate(
            old, dst=new.dst, src=new.src).pack(), count)

    def in_place(self):
        body = migrate(self.sa).pack()
        return [self.requests.cost(xfrm.MIGRATE_STATE, body) for _ in range(COUNT)]

    def floor(self):
        body = migrate(self.sa.but(spi=0x91)).pack()
        return [self.requests.cost(xfrm.MIGRATE_STATE, body, errno=errno.ESRCH)
                for _ in range(COUNT)]

    def with_policy(self):
        self.ns.xfrm.policy(xfrm.POLICY_OUT, ANY, self.sa)
        return self.both_ways(xfrm.MIGRATE, lambda old, new: xfrm.migrate_with_policy(
            xfrm.POLICY_OUT, ANY, old, new))

    def replaced(self):
        """Read, deleted and added, by the kernel: what a daemon does that can't migrate."""
        cost, sa = self.requests.cost, self.sa
        return [cost(xfrm.GETSA, sa.ident()) + cost(xfrm.DELSA, sa.ident())
                + cost(xfrm.NEWSA, sa.pack(), CREATE | EXCL) for _ in range(COUNT)]


def by(who, ns, sa, kind):
    """All that is to be told of one SA of this kind."""
    what = {"bench": "migrate", "who": who, "kind": kind, "sas": ns.xfrm.count(),
            "hash": measure.hash_size(ns)}
    with Moves(ns, sa) as moves:
        before = ns.xfrm.get(sa)
        moves.migrate(10)
        for op, run in (("floor", moves.floor), ("migrate", moves.migrate)):
            measure.result(run(), op=op, **what)
        with ns.listen(xfrm.GROUP_MIGRATE):
            measure.result(moves.migrate(), op="migrate, a listener", **what)
        after = ns.xfrm.get(sa)
        assert before.keys() == after.keys(), xfrm.changes(before, after)
        measure.result(moves.replaced(), op="delete and add", **what)
        if kind == "tunnel":
            measure.result(moves.in_place(), op="in place", **what)
            measure.result(moves.with_policy(), op="XFRM_MSG_MIGRATE", **what)
            ns.xfrm.must(xfrm.FLUSHPOLICY, b"")


def sizes(counts):
    for count in counts:
        with Netns() as ns:
            measure.fill(ns, count)
            measure.each_handler(lambda who: by(who, ns, TUNNEL, "tunnel"))
            ns.xfrm.flush()


def kinds():
    with Netns() as ns:
        measure.fill(ns, 1)
        for kind, sa in KINDS.items():
            measure.each_handler(lambda who, kind=kind, sa=sa: by(who, ns, sa, kind))
    # The C handler can't do these.
    with handler.module():
        handler.use(handler.RUST)
        with Netns() as ns, nsim.Device(ns) as dev:
            measure.fill(ns, 1)
            sa = TUNNEL.but({"OFFLOAD_DEV": xfrm.offload(dev.ifindex)})
            by(measure.RUST, ns, sa, "offload on a device")
        with bond.Bonded() as lag:
            measure.fill(lag.a, 1)
            by(measure.RUST, lag.a, lag.offloaded(TUNNEL), "offload on a LAG of 2")


def main():
    nsim.prepare()
    with Netns(), handler.module():
        bond.prepare()
    measure.quiet()
    with contextlib.suppress(ValueError):
        sys.argv.remove("kinds")
        kinds()
    sizes(map(int, sys.argv[1:]))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""XFRM_MSG_MIGRATE_STATE of SAs that are on all slaves of a bond."""

import errno
import itertools

from lib import ktap, xfrm
from lib.bond import BOND, Bonded, in_, out
from lib.handler import RUST
from lib.ktap import equal
from lib.xfrm import migrate
from lag_members import traffic
from lag_offload import fill


def moved(lag, sa, n=None, **request):
    """The SA after it has been moved to the n-th address, and with a policy."""
    dst = f"192.0.2.{10 + n}" if n is not None else sa.dst
    reply = lag.nl.migrate(migrate(sa, dst=dst, **request))
    equal(reply.verdict, (0, None), "answer")
    return sa.but(dst=dst)


def is_replicated_again():
    """One entry in each slave, before, meanwhile visible as little as possible, and after."""
    with Bonded() as lag:
        made = lag.add()
        for n, sa in enumerate(made):
            if sa.attrs["SA_DIR"] == b"\2":
                sa = moved(lag, sa, 12 + n)
                lag.protect(sa)
            else:
                sa = moved(lag, sa, reqid=99)
            equal(lag.held(), [8, 8], "SAs in each slave")
            made[n] = sa
        plain, cipher = lag.wire(*((sa, 2) for sa in made[::2]))
        equal((sum(plain), sum(cipher)), (8, 0), "encrypted by hardware, by software")
        for sa in made:
            equal(lag.nl.delete(sa).errno, 0, "deletion")
        equal(lag.held(), [0, 0], "SAs in each slave")


def under_traffic():
    """All the time there is an SA in hardware: no packet needs software, or goes out as it is."""
    with Bonded() as lag:
        sa = lag.add()[0]
        start = sum(port.sent() for port in lag.ports)
        with lag.watched() as counts, traffic(lag):
            for n in itertools.count():
                sa = moved(lag, sa, reqid=1 + n % 2)
                if n >= 100 and sum(port.sent() for port in lag.ports) > start + 100:
                    break
        equal(lag.held(), [8, 8], "SAs in each slave")
        equal(counts[1], 0, "packets encrypted by software")


def changes_its_device():
    """From the bond to a plain one, to another bond, into software, and back."""
    with Bonded() as lag:
        plain = lag.port()
        lag.create(lag.a, "bond1")
        other = [lag.port() for _ in range(2)]
        for port in other:
            equal(lag.try_join(port.name, "bond1").errno, 0, "another bond's slave")
        lag.a.up("bond1")
        lag.esp(True, "bond1")

        def held():
            return lag.held(), plain.held(), [port.held() for port in other]

        def to(dev):
            return {"add": [("OFFLOAD_DEV", lag.offloaded(sa, dev).attrs["OFFLOAD_DEV"])]}
        for sa in (out(0), in_(0)):
            sa = lag.nl.new(lag.offloaded(sa))
            equal(held(), ([1, 1], 0, [0, 0]), "at first")
            for wish, want in (
                    (to(plain.name), ([0, 0], 1, [0, 0])), (to(BOND), ([1, 1], 0, [0, 0])),
                    (to("bond1"), ([0, 0], 0, [1, 1])), (to(plain.name), ([0, 0], 1, [0, 0])),
                    (to("bond1"), ([0, 0], 0, [1, 1])), (to(BOND), ([1, 1], 0, [0, 0])),
                    ({"flags": xfrm.CLEAR_OFFLOAD}, ([0, 0], 0, [0, 0])),
                    (to(BOND), ([1, 1], 0, [0, 0]))):
                moved(lag, sa, **wish)
                equal(held(), want, f"SAs in slaves, plain port, other bond: {wish}")
            lag.nl.delete(sa)


def refusal_changes_nothing():
    """A slave without room: the old SA serves on."""
    with Bonded() as lag:
        lag.new(out(0))
        fill(lag, lag.ports[1], 32)
        reply = lag.nl.migrate(migrate(out(0), dst="192.0.2.19"))
        equal(reply.verdict, (errno.ENOSPC, "netdevsim: No space for SA in Rx table!"), "answer")
        equal(lag.held(), [1, 33], "SAs in each slave")
        plain, cipher = lag.wire((out(0), 4))
        equal((sum(plain), sum(cipher)), (4, 0), "encrypted by hardware, by software")


def follows_the_bond():
    """What it inherits is a wish: with the bond's offload off, it is done in software."""
    with Bonded() as lag:
        sa = lag.new(out(0))
        lag.esp(False)
        sa = moved(lag, sa, 5)
        equal(lag.held(), [0, 0], "SAs in each slave")
        lag.protect(sa)
        plain, cipher = lag.wire((sa, 4))
        equal((sum(plain), sum(cipher)), (0, 4), "encrypted by hardware, by software")


if __name__ == "__main__":
    ktap.main([is_replicated_again, under_traffic, changes_its_device, refusal_changes_nothing,
               follows_the_bond], handlers=(RUST,))

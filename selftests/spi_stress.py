#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Processes that ask for SPIs at once, while SAs go and move and scopes change.

SECONDS=N and SPACES=N in the environment: that long each of them, and in so
many namespaces.
"""

import collections
import contextlib
import errno
import os
import pickle
import random
import time

from lib import ktap, spi, xfrm
from lib.handler import DEBUG, NEITHER
from lib.ktap import equal
from lib.spi import NO_SPI, larval, request
from lib.race import SECONDS
from lib.xfrm import DIR_IN, DIR_OUT, SA, migrate

SPACES = int(os.environ.get("SPACES", 3 if DEBUG else 8))
HERE, PEERS = "192.0.2.1", [f"198.51.100.{n}" for n in range(1, 9)]


@contextlib.contextmanager
def worker(ns, job, *args):
    """Runs job(socket, stop, *args) in a process of its own; yields a function
    that waits for its result."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        result = None
        try:
            with ns.inside(), xfrm.Xfrm() as nl:
                result = job(nl, time.monotonic() + SECONDS, *args)
        except BaseException as why:     # the parent shall see it
            result = why
        finally:
            with os.fdopen(write, "wb") as f:
                pickle.dump(result, f)
            os._exit(0)
    os.close(write)

    def result():
        with os.fdopen(read, "rb") as f:
            value = pickle.load(f)
        os.waitpid(child, 0)
        if isinstance(value, BaseException):
            raise ktap.Failed(f"{job.__name__}: {value!r}")
        return value
    yield result


def together(ns, *jobs):
    """The results of jobs that run at once."""
    with contextlib.ExitStack() as stack:
        return [r() for r in [stack.enter_context(worker(ns, *job)) for job in jobs]]


def _spi(reply):
    return xfrm.parse_sa(reply.messages[0].body)["spi"]


def _take_all(nl, _stop, first):
    """Takes SPIs of 64 until there are no more."""
    got = []
    for n in range(200):
        reply = request(nl, larval(PEERS[0], 0x100, 0x13f, direction=DIR_IN, reqid=first + n))
        if reply.verdict == NO_SPI:
            return got
        got.append(_spi(reply))
    return got


def each_spi_goes_to_one():
    for value in 0, 1, 2:
        for _ in range(10):
            with spi.namespace(value) as ns:
                results = together(ns, *((_take_all, 1000 * n) for n in range(1, 5)))
                equal(sorted(n for got in results for n in got), list(range(0x100, 0x140)), "SPIs")
            if sum(map(bool, results)) > 1:
                break       # else the first one was done before the next one began
        else:
            raise ktap.Failed(f"only one process got any: {results}")


def _allocate(nl, stop, me, direction):
    """Takes SPIs, uses some, moves some of those, and gives them back; there are
    always enough."""
    pick, held, count = random.Random(me), [], 0
    while time.monotonic() < stop:
        wanted = larval(pick.choice(PEERS), 0x100, 0x4ff, direction=direction, reqid=me,
                        mode=xfrm.TUNNEL)
        reply = request(nl, wanted)
        if reply.errno:
            return f"{reply} after {count}, with {len(held)} SAs"
        held.append(wanted[0].but(dict([xfrm.aead()]), spi=_spi(reply)))
        count += 1
        if len(held) > 50:
            sa = held.pop(pick.randrange(len(held)))
            if pick.random() < .3:
                nl.update(sa)
                to = migrate(sa, dst=pick.choice(PEERS))
                reply = nl.migrate(to)
                # Somebody may have that SPI with that destination.
                if reply.errno not in (0, errno.EEXIST):
                    return f"{reply} after {count}, moving"
                sa = sa if reply.errno else sa.but(dst=to.dst)
            reply = nl.delete(sa)
            if reply.errno:
                return f"{reply} after {count}, deleting {sa}"
    return ""


def _churn(nl, stop, me):
    """Adds SAs by themselves, and moves them."""
    sa = SA(HERE, "203.0.113.1", 0x1000 + me, mode=xfrm.TUNNEL, reqid=me)
    while time.monotonic() < stop:
        nl.new(sa)
        for dst in "203.0.113.9", "2001:db8::9", "203.0.113.1":
            src = "2001:db8::1" if ":" in dst else HERE
            reply = nl.migrate(migrate(sa, dst=dst, src=src))
            if reply.errno:
                return str(reply)
            sa = sa.but(dst=dst, src=src)
        nl.delete(sa)
    return ""


def _change(_nl, stop):
    """Changes the scope of the namespace that it is in."""
    while time.monotonic() < stop:
        for value in 0, 1, 2:
            with open("/proc/sys/net/" + spi.SCOPE, "w") as f:
                f.write(str(value))
            time.sleep(0.003)
    return ""


def triples(nl):
    """How many SAs there are for each destination, SPI and protocol."""
    return collections.Counter((s["daddr"], s["spi"], s["proto"]) for s in nl.all() if s["spi"])


def inbound(nl):
    """How many SAs there are for each SPI and protocol, that aren't marked as outbound."""
    return collections.Counter((s["spi"], s["proto"]) for s in nl.all()
                               if s["spi"] and s.get("SA_DIR") != bytes([DIR_OUT]))


def anyone(nl):
    """How many SAs there are for each SPI and protocol."""
    return collections.Counter((s["spi"], s["proto"]) for s in nl.all() if s["spi"])


def _watch(nl, stop, shares):
    """Looks for what is there twice while others are at it. An SA that comes, or moves to the
    front, isn't in a dump that is under way: so all that one shows have been there at once."""
    while time.monotonic() < stop:
        if twice := [what for what, n in shares(nl).items() if n > 1]:
            return f"given twice: {twice}"
    return ""


def everywhere(value, *jobs):
    """Runs jobs in each of many namespaces at once, and then yields these, where
    no SAs have the same triple."""
    with contextlib.ExitStack() as stack:
        spaces = [stack.enter_context(spi.namespace(value)) for _ in range(SPACES)]
        results = [stack.enter_context(worker(ns, *job)) for ns in spaces for job in jobs]
        equal([r() for r in results], [""] * len(results), "complaints")
        for ns in spaces:
            equal([t for t, n in triples(ns.xfrm).items() if n > 1], [], "SAs that can't be told apart")
            yield ns


def scopes_change_meanwhile():
    """Never two SAs with the same triple, never a refusal while there is room."""
    for _ in everywhere(None, (_allocate, 1, DIR_IN), (_allocate, 2, None), (_churn, 3), (_change,),
                        (_watch, triples)):
        pass


def inbound_stays_unique():
    for ns in everywhere(1, (_allocate, 1, DIR_IN), (_allocate, 2, DIR_IN), (_allocate, 3, DIR_OUT),
                         (_churn, 4), (_watch, inbound)):
        equal([s for s, n in inbound(ns.xfrm).items() if n > 1], [], "SPIs given twice")


def strict_stays_strict():
    for ns in everywhere(2, (_allocate, 1, DIR_IN), (_allocate, 2, None), (_churn, 3),
                         (_watch, anyone)):
        equal([s for s, n in anyone(ns.xfrm).items() if n > 1], [], "SPIs given twice")


if __name__ == "__main__":
    ktap.main([each_spi_goes_to_one, scopes_change_meanwhile, inbound_stays_unique,
               strict_stays_strict], handlers=(NEITHER,))

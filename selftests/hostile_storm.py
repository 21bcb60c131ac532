#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Everything that a user in namespaces of their own can ask for, again and again: others wait
no longer than without the module.

SECONDS=N in the environment: for how long each.
"""

import contextlib
import os
import resource
import socket
import time
from pathlib import Path

from lib import hostile, ktap, spi, xfrm
from lib.handler import BRIEF, NEITHER, SOAK
from lib.hostile import compared
from lib.netlink import CREATE, EXCL, REQUEST, Message
from lib.netns import Netns
from lib.spi import larval, request
from lib.xfrm import DIR_IN, SA, Selector, Xfrm, migrate
from hostile_spi import NULL, each

SECONDS = float(os.environ.get("SECONDS", 20 if SOAK else 1 if BRIEF else 2))
HERE, PEER = "192.0.2.1", "192.0.2.2"
LISTENERS, AT_ONCE = 64, 400
LINES = 100 if BRIEF else 10000 if SOAK else 1000
PROBES = hostile.rtnl, hostile.states, hostile.end


def together(*jobs):
    """Runs each in a process of its own, in the namespace that we are in, until time is up."""
    stop = time.monotonic() + SECONDS
    children = []
    for job in jobs:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                job(stop)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    bad = [job.__name__ for job, pid in zip(jobs, children) if os.waitpid(pid, 0)[1]]
    ktap.equal(bad, [], "jobs that failed")
    return {}


def move(stop):
    """Many moves in each datagram, each of the SA that has just been moved."""
    with Xfrm() as nl:
        sa = nl.new(SA(HERE, PEER, 0x10))
        moves = Message(xfrm.MIGRATE_STATE, REQUEST, 0, 0, migrate(sa).pack()).pack() * AT_ONCE
        while time.monotonic() < stop:
            nl.send(moves)
            nl.pending()


def allocate(stop):
    """SPIs of a range in which there are some, by this one and others."""
    me = os.getpid()
    with Xfrm() as nl:
        while time.monotonic() < stop:
            for n in range(200):
                request(nl, larval(PEER, 0x100, 0x17f, direction=DIR_IN, reqid=1000 * me + n))
            nl.flush()


def change(stop):
    """Sysctls, to what they may be and what they may not."""
    files = [f for f in Path("/proc/sys/net/xfrm_next").glob("*") if f.is_file()]
    while time.monotonic() < stop:
        for f in files:
            for value in "0", "1", "-1", "1000":
                with contextlib.suppress(OSError):
                    f.write_text(value)
        for f in files:
            f.write_text("1")
        time.sleep(0.01)


def ask_by_pfkey(stop):
    with contextlib.suppress(ktap.Skip), spi.PfKey() as key:
        while time.monotonic() < stop:
            for n in range(100):
                key.getspi(PEER, 0x100 + n)
            key.flush()


def requests():
    compared(lambda: together(move, allocate, allocate, ask_by_pfkey, change), *PROBES)


def listeners_that_do_not_listen():
    """Their sockets are full."""
    def act():
        with contextlib.ExitStack() as stack:
            for _ in range(LISTENERS):
                nl = stack.enter_context(Xfrm(range(1, xfrm.GROUP_MAX + 1)))
                nl.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
            return together(move, allocate)
    compared(act, *PROBES)


def make_and_end(stop):
    """Namespaces in which each of our messages has been sent."""
    while time.monotonic() < stop:
        with Netns() as ns:
            sa = ns.xfrm.new(SA(HERE, PEER, 0x10))
            ns.xfrm.migrate(migrate(sa))
            request(ns.xfrm, larval(PEER, 0x100, 0x1ff, direction=DIR_IN))


def namespaces_in_a_loop():
    compared(lambda: together(make_and_end, make_and_end), *PROBES)


def sockets(ns):
    """Some, each of which keeps a route by an SA of its own; and those."""
    ns.dummy("d")
    ns.address("d", f"{HERE}/24")
    ns.route("11.0.0.0/8", dev="d")
    ns.xfrm.policy(xfrm.POLICY_OUT, Selector("11.0.0.0", plen_d=8, family=xfrm.AF_INET),
                   SA(HERE, PEER, 0), zero=True)
    sas = [SA(HERE, spi.spread(n, 0), 0x1000 + n, attrs=NULL).but({"SA_DIR": b"\2"})
           for n in range(1, LINES + 1)]
    each(ns.xfrm, xfrm.NEWSA, [sa.pack() for sa in sas], CREATE | EXCL)
    for sa in sas:
        s = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.connect((sa.dst, 9))
        yield s, sa


def many_lines():
    """Each of many SAs is replaced while a socket keeps a route by it: the worker of the namespace
    has as many lines to look at, again and again."""
    def act():
        with Netns() as ns:
            pairs, rounds = list(sockets(ns)), 0
            moves = [migrate(sa).pack() for _, sa in pairs]
            stop = time.monotonic() + SECONDS
            while time.monotonic() < stop:
                for s, _ in pairs:
                    s.send(b"x")
                each(ns.xfrm, xfrm.MIGRATE_STATE, moves)
                rounds += 1
        print(f"# {rounds} times {LINES} SAs")
        return {}
    resource.setrlimit(resource.RLIMIT_NOFILE, (LINES + 1000,) * 2)
    compared(act, *PROBES)


if __name__ == "__main__":
    ktap.main([requests, listeners_that_do_not_listen, namespaces_in_a_loop, many_lines],
              handlers=(NEITHER,), load=False)

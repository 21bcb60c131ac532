#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Many SAs, namespaces and listeners, and listeners that don't listen.

STATES=N and NAMESPACES=N in the environment: that many of each.
"""

import contextlib
import errno
import os
import resource
import socket
import struct

from lib import handler, ktap, xfrm
from lib.handler import DEBUG, RUST
from lib.ktap import equal, only, true
from lib.netlink import CREATE, DUMP, EXCL, REQUEST, SOL_NETLINK, Message, parse_ack
from lib.netns import Netns
from lib.xfrm import SA, migrate

STATES = int(os.environ.get("STATES", 500 if DEBUG else 10000))
NAMESPACES = int(os.environ.get("NAMESPACES", 10 if DEBUG else 100))
BROADCAST_ERROR = 4
ONE = SA("192.0.2.1", "192.0.2.2", 1)
# Where they are at first, and then: network numbers, to which SPIs are added.
HERE, THERE = 10 << 24, 11 << 24


def send_all(nl, kind, body, places, numbers, flags=0):
    """A request for each number, which is added to the integers at those places
    of the body: {offset: integer}. Only failures are answered."""
    for start in range(0, len(numbers), 500):
        datagram = bytearray()
        for n in numbers[start:start + 500]:
            numbered = bytearray(body)
            for offset, base in places.items():
                struct.pack_into(">I", numbered, offset, base + n)
            datagram += Message(kind, REQUEST | flags, n, 0, bytes(numbered)).pack()
        nl.send(datagram)
        equal([(m.seq, parse_ack(m)) for m in nl.pending()], [], "failures")


def place(network, n):
    """How a dump shows the address and SPI of the SA with this number."""
    return struct.pack(">I12xI", network + n, n)


def are_at(nl, want, what):
    """Those in the dump are at these places, each once."""
    equal(sorted(m.body[56:76] for m in nl.must(xfrm.GETSA, b"", DUMP)) == sorted(want), True, what)
    equal(nl.count(), len(want), f"count of {what}")


@only(RUST)
def many_sas():
    """One of them is migrated, then all; half of them are deleted."""
    every, half = range(1, STATES + 1), range(1, STATES + 1, 2)
    # xfrm_usersa_info, xfrm_user_migrate_state, xfrm_usersa_id
    new, move, ident = {56: HERE, 72: 0}, {0: HERE, 16: 0, 24: THERE}, {0: THERE, 16: 0}
    with Netns() as ns:
        send_all(ns.xfrm, xfrm.NEWSA, ONE.pack(), new, every, CREATE | EXCL)
        request = migrate(ONE, dst="192.0.2.2").pack()
        send_all(ns.xfrm, xfrm.MIGRATE_STATE, request, move, [STATES // 2])
        are_at(ns.xfrm, [place(THERE if n == STATES // 2 else HERE, n) for n in every],
               "SAs after one migration")
        send_all(ns.xfrm, xfrm.MIGRATE_STATE, request, move,
                 [n for n in every if n != STATES // 2])
        are_at(ns.xfrm, [place(THERE, n) for n in every], "SAs after all migrations")
        send_all(ns.xfrm, xfrm.DELSA, ONE.ident(), ident, half)
        are_at(ns.xfrm, [place(THERE, n) for n in every if n not in half], "SAs, the other half")
        ns.xfrm.flush()
        ktap.wait(lambda: ns.xfrm.count() == 0, "nothing is left")


@only(RUST)
def many_namespaces():
    """They are there when the module comes and when it goes, and end meanwhile."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (NAMESPACES * 4 + 1000,) * 2)
    try:
        with contextlib.ExitStack() as stack:
            all_ = [stack.enter_context(Netns()) for _ in range(NAMESPACES)]
            for _ in range(2):
                handler.rmmod(handler.NAME)
                handler.insmod(handler.KO)
            for ns in all_:
                equal(ns.sysctl("xfrm_next/migrate_state"), "1", "switch")
                ns.xfrm.new(ONE)
                equal(ns.xfrm.migrate(migrate(ONE, dst="192.0.2.8")).verdict, (0, None), "answer")
                equal(ns.xfrm.count(), 1, "SAs")
        # They are ending now.
        handler.rmmod(handler.NAME)
        handler.insmod(handler.KO)
        equal(handler.refcount(), 0, "reference count")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def many_listeners():
    """Each hears everything once, and all hear the same."""
    with Netns() as ns:
        ns.xfrm.new(ONE)
        listeners = [ns.listen(xfrm.GROUP_MIGRATE) for _ in range(64)]
        for reqid in range(20):
            equal(ns.xfrm.migrate(migrate(ONE, reqid=reqid)).errno, 0, "answer")
        first, *others = ([m.pack() for m in nl.pending()] for nl in listeners)
        equal((len(first), len(set(first))), (20, 20), "messages, different ones")
        true(all(heard == first for heard in others), "one has heard something else")


def deaf_listener():
    """Its buffer is full: it misses some, nobody else does, and requests succeed."""
    with Netns() as ns:
        ns.xfrm.new(ONE)
        deaf, hear = ns.listen(xfrm.GROUP_MIGRATE), ns.listen(xfrm.GROUP_MIGRATE)
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for insists in (0, 1):
            # Then the kernel tells who sends of it, which fails no request either.
            deaf.socket.setsockopt(SOL_NETLINK, BROADCAST_ERROR, insists)
            for reqid in range(100):
                equal(ns.xfrm.migrate(migrate(ONE, reqid=reqid)).errno, 0, "answer")
            equal(len(hear.pending()), 100, "messages to the other")
        try:
            deaf.receive()
            raise ktap.Failed("the deaf one has missed nothing")
        except OSError as why:
            equal(why.errno, errno.ENOBUFS, "errno of the deaf one")
        true(len(deaf.pending()) < 100, "the deaf one has heard everything")


if __name__ == "__main__":
    ktap.main([many_sas, many_namespaces, many_listeners, deaf_listener])

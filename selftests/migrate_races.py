#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Migrations at both ends of a flooded SA, and somebody else who is after it.

What counts is what is left: no SA that nobody added, none that is stuck, and a
kernel that has nothing to say. SECONDS=N in the environment: that long each.
"""

import errno
import os
import socket
import struct
import subprocess
import time

from lib import flood, handler, ktap, netlink, xfrm
from lib.flood import Flood
from lib.handler import RUST
from lib.ktap import equal, only, true
from lib.netlink import ACK, CREATE, EXCL, REPLACE, REQUEST, Message

SECONDS = float(os.environ.get("SECONDS", 1 if flood.DEBUG else 2))
FOREVER = 1 << 40
# What one of two who want the same SA may be told.
LOST = {errno.ESRCH, errno.EEXIST}


def messages(*requests):
    return b"".join(Message(kind, REQUEST | ACK | flags, 0, 0, body).pack()
                    for kind, body, flags in requests)


class Race(Flood):
    """The flood, a mover at each end, and the processes that disturb them."""

    def __enter__(self):
        self.sender = self.start(self.a, 0, "send", *self.outer, flood.PORT)
        self.requesters = {}
        for name, host, sa in (("A", self.a, self.out), ("B", self.b, self.in_)):
            self.request(name, host, *flood.migrate(sa))
        return self

    def request(self, name, host, *requests):
        """A process that sends these over and over again."""
        process = self.start(host, len(self.requesters) % 2, "request", FOREVER,
                             stdin=subprocess.PIPE)
        process.stdin.write(messages(*requests))
        process.stdin.close()
        process.stdin = None
        self.requesters[name] = process

    def stop(self, allowed=LOST):
        """Ends all processes; each has been told nothing but this."""
        self.end(self.sender)
        for name, process in self.requesters.items():
            done, *failures = self.end(process)
            told = dict(zip(failures[::2], failures[1::2]))
            print(f"# {name}: {done} done, told {told}")
            true(set(told) <= allowed, f"{name} is told {told}")
            true(done + sum(told.values()) > 10, f"{name} did something")

    def clean(self):
        """Nothing is left after a flush, soon."""
        for host in (self.a, self.b):
            host.xfrm.flush()
            ktap.wait(lambda host=host: host.xfrm.count() == 0 and not host.xfrm.all(),
                      "all SAs are gone")


def disturbed(*requests, allowed=LOST):
    """Runs a race in which each host's SA is disturbed by requests(sa)."""
    with Race() as two:
        for name, host, sa in (("X", two.a, two.out), ("Y", two.b, two.in_)):
            two.request(name, host, *(r(sa) for r in requests))
        time.sleep(SECONDS)
        two.stop(allowed)
        two.clean()


def add(sa):
    return xfrm.NEWSA, sa.pack(), CREATE | EXCL


def delete(sa):
    return xfrm.DELSA, sa.ident(), 0


def update(sa):
    return xfrm.UPDSA, sa.pack(), 0


def flush(_):
    return xfrm.FLUSHSA, bytes(4), 0


def count(sa):
    """Sets its counters by XFRM_MSG_NEWAE."""
    return (xfrm.NEWAE, sa.ident() + xfrm.addr(sa.src) + struct.pack("=II", 0, sa.reqid)
            + netlink.attrs([(xfrm.A["LTIME_VAL"], xfrm.lifetime(1, 1, 1, 1))]), REPLACE)


@only(RUST)
def against_delete_and_add():
    disturbed(delete, add)


@only(RUST)
def against_flush_and_add():
    disturbed(flush, add)


@only(RUST)
def against_update_and_new_counters():
    disturbed(update, count)


@only(RUST)
def against_flush_by_pf_key():
    """SADB_FLUSH of all types, from a socket of the other family."""
    with Race() as two:
        with two.b.inside():
            try:
                key = socket.socket(15, socket.SOCK_RAW, 2)
            except OSError as why:
                raise ktap.Skip(f"no PF_KEY: {why.strerror}") from why
        two.request("X", two.b, add(two.in_))
        end, flushes = time.monotonic() + SECONDS, 0
        with key:
            key.setblocking(False)
            while time.monotonic() < end:
                key.send(struct.pack("=BBBBHHII", 2, 9, 0, 0, 2, 0, flushes, os.getpid()))
                flushes += 1
        two.stop()
        true(flushes > 10, "flushes")
        two.clean()


@only(RUST)
def against_a_limit_of_packets():
    """The SA expires again and again, at any point of a request."""
    with Race() as two:
        for name, host, sa in (("X", two.a, two.out), ("Y", two.b, two.in_)):
            limits = list(xfrm.NO_LIMITS)
            limits[3] = 20
            two.request(name, host, add(sa.but(lft=tuple(limits))), delete(sa))
        time.sleep(SECONDS)
        two.stop()
        two.clean()


@only(RUST)
def against_the_end_of_the_namespaces():
    """They end with retired SAs in them, and with packets under way."""
    for _ in range(5):
        with Race() as two:
            time.sleep(SECONDS / 10)
            two.stop(set())


@only(RUST)
def against_unloading():
    """The C handler and ours take turns."""
    with Race() as two:
        for _ in range(3):
            time.sleep(SECONDS / 10)
            handler.rmmod(handler.NAME)
            time.sleep(SECONDS / 10)
            handler.insmod(handler.KO)
        two.stop()
        two.clean()
    equal(handler.refcount(), 0, "reference count")


if __name__ == "__main__":
    ktap.main([against_delete_and_add, against_flush_and_add, against_update_and_new_counters,
               against_flush_by_pf_key, against_a_limit_of_packets,
               against_the_end_of_the_namespaces, against_unloading])

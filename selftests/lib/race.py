# SPDX-License-Identifier: GPL-2.0
"""Processes that send requests over and over again, and what they ask for.

SECONDS=N in the environment: that long each race.
"""

import contextlib
import errno
import os
import re
import signal
import struct
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from lib import flood, ktap, netlink, xfrm
from lib.ktap import equal, true
from lib.netlink import ACK, CREATE, EXCL, REPLACE, REQUEST, Message

SECONDS = float(os.environ.get("SECONDS", 0.5))
FOREVER = 1 << 40
# What one of two who want the same SA may be told.
LOST = {errno.ESRCH, errno.EEXIST}


def messages(*requests):
    return b"".join(Message(kind, REQUEST | ACK | flags, 0, 0, body).pack()
                    for kind, body, flags in requests)


class Result(NamedTuple):
    done: int
    told: dict      # {errno: times}


class Requesters(contextlib.ExitStack):
    """What each has asked for, how often, and with what success."""

    def __init__(self):
        super().__init__()
        self.processes = {}

    def run(self, host, cpu, *words, **more):
        """A process that does not survive the block."""
        process = flood.Flood.start(host, cpu, *words, **more)
        self.callback(process.kill)
        return process

    def request(self, name, host, *requests, times=FOREVER):
        """A process that sends these, that many times."""
        # The second pair has the CPUs the other way round.
        pairs, place = divmod(len(self.processes), 2)
        process = self.run(host, (pairs + place) % 2, "request", times, stdin=subprocess.PIPE)
        process.stdin.write(messages(*requests))
        process.stdin.close()
        process.stdin = None
        self.processes[name] = process
        return process

    def go(self, seconds=SECONDS):
        """Lets them all work for that long."""
        ktap.wait(lambda: all(map(has_begun, self.processes.values())), "all have begun")
        time.sleep(seconds)

    def stop(self, allowed=LOST):
        """Ends them; each has been told nothing but this. Returns {name: Result}."""
        results = {}
        for name, process in self.processes.items():
            done, *failures = flood.Flood.end(process)
            told = dict(zip(failures[::2], failures[1::2]))
            print(f"# {name}: {done} done, told {told}")
            true(done + sum(told.values()), f"{name} did something")
            true(set(told) <= allowed, f"{name} is told {told}")
            results[name] = Result(done, told)
        self.processes = {}
        return results


def has_begun(process):
    """Whether it handles its signals by now."""
    caught, = re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.M)
    return int(caught, 16) >> signal.SIGALRM - 1 & 1


def clean(*hosts):
    """Nothing is left after a flush, soon."""
    for host in hosts:
        host.xfrm.flush()
        ktap.wait(lambda host=host: host.xfrm.count() == 0 and not host.xfrm.all(),
                  "all SAs are gone")


def are_there(host, *sas):
    """These SAs and no others, each where it belongs; those of the kernel don't count."""
    found = [(s["spi"], s["proto"], s["daddr"], s["saddr"], s["reqid"])
             for s in host.xfrm.all() if s["proto"] != xfrm.IPIP]
    equal(sorted(found), sorted((sa.spi, sa.proto, xfrm.addr(sa.dst), xfrm.addr(sa.src), sa.reqid)
                                for sa in sas), "SAs")


def move(sa, dst=None):
    return xfrm.MIGRATE_STATE, xfrm.migrate(sa, dst=dst).pack(), 0


def add(sa):
    return xfrm.NEWSA, sa.pack(), CREATE | EXCL


def delete(sa):
    return xfrm.DELSA, sa.ident(), 0


def update(sa):
    return xfrm.UPDSA, sa.pack(), 0


def flush():
    return xfrm.FLUSHSA, bytes(4), 0


def count(sa, octets=1):
    """Sets its counters, and when it was made and used, by XFRM_MSG_NEWAE."""
    return (xfrm.NEWAE, sa.ident() + xfrm.addr(sa.src) + struct.pack("=II", 0, sa.reqid)
            + netlink.attrs([(xfrm.A["LTIME_VAL"], xfrm.lifetime(octets, 1, 1, 1))]), REPLACE)


def policies(direction, sel, sa, zero):
    """A policy that comes and goes, in all ways."""
    new = xfrm.policy(direction, sel, sa, zero)
    put = xfrm.UPDPOLICY, new, 0
    return [put, (xfrm.DELPOLICY, sel.pack() + struct.pack("=IB3x", 0, direction), 0),
            (xfrm.NEWPOLICY, new, 0), (xfrm.FLUSHPOLICY, b"", 0), put]

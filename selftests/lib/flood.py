# SPDX-License-Identifier: GPL-2.0
"""An SA that is moved while it is flooded, and what that costs.

A sends to B as fast as one CPU can, the other CPU moves the SA of one of them,
again and again, to where it is. Then B is sent all that came once more.
"""

import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lib import ktap, netlink, xfrm
from lib.hosts import PORT, V4, Hosts
from lib.netlink import ACK, CREATE, EXCL, REQUEST, Message
from lib.xfrm import SA

BINARY = Path(__file__).resolve().parent.parent / "flood"
# The largest there is: a replay of what came last would be seen.
WINDOW = 1 << 12
ESN = {"in": xfrm.esn(WINDOW, WINDOW // 32), "out": xfrm.esn(0, 0)}
DEBUG = os.path.exists("/sys/kernel/debug/kmemleak")


@dataclass
class Cost:
    """What happened to the packets."""
    moves: int
    sent: int
    refused: int        # of those that were to be sent, at once
    received: int
    repeated: int       # received more than once
    replayed: int
    accepted: int       # of the replayed that had been received
    counters: dict      # of xfrm_stat that have changed
    acquires: int
    larval: int         # SAs left behind

    @property
    def lost(self):
        return self.refused + self.sent - self.received


def migrate(sa):
    """Moves it to where it is."""
    return [(xfrm.MIGRATE_STATE, xfrm.migrate(sa).pack(), 0)]


def replace(sa):
    """Deletes it and adds it anew."""
    return [(xfrm.DELSA, sa.ident(), 0), (xfrm.NEWSA, sa.pack(), CREATE | EXCL)]


class Flood(Hosts):
    """A and B, and processes of theirs that each have a CPU."""

    def __init__(self):
        super().__init__()
        if os.cpu_count() < 2:
            raise ktap.Skip("needs 2 CPUs")
        if not BINARY.exists():
            raise ktap.Skip(f"make {BINARY.name} in selftests first")
        self.dir = self.enter_context(tempfile.TemporaryDirectory())
        esn = SA(*V4, 0x1000, mode=xfrm.TRANSPORT, flags=xfrm.FLAG_ESN)
        self.sa(esn, more_in={"REPLAY_ESN_VAL": ESN["in"]},
                more_out={"REPLAY_ESN_VAL": ESN["out"]})

    def start(self, host, cpu, *words, **more):
        with host.inside():
            return subprocess.Popen([BINARY, *map(str, words)], stdout=subprocess.PIPE,
                                    preexec_fn=lambda: os.sched_setaffinity(0, {cpu}), **more)

    @staticmethod
    def end(process):
        """Its numbers, as soon as it has done what it has to."""
        process.send_signal(signal.SIGTERM)
        return [int(n) for n in process.communicate(timeout=netlink.PATIENCE)[0].split()]

    def receiver(self):
        """A process of B that receives, when it does."""
        process = self.start(self.b, 1, "receive", V4[1], PORT)
        with self.b.inside():
            ktap.wait(lambda: f":{PORT:04X} " in Path("/proc/thread-self/net/udp").read_text(),
                      "B receives")
        return process

    def run(self, side, how, count):
        """Floods while the SA of that side, "in" or "out", is moved."""
        host, sa = (self.b, self.in_) if side == "in" else (self.a, self.out)
        frames = os.path.join(self.dir, "frames")
        hear = [ns.listen(xfrm.GROUP_ACQUIRE) for ns in (self.a, self.b)]
        before = [ns.counters() for ns in (self.a, self.b)]
        requests = b"".join(Message(kind, REQUEST | ACK | flags, 0, 0, body).pack()
                            for kind, body, flags in how(sa))

        tap = self.start(self.b, 1, "tap", "v", frames)
        receiver = self.receiver()
        ktap.wait(lambda: os.path.exists(frames), "the tap is open")
        sender = self.start(self.a, 0, "send", *V4, PORT)
        ktap.wait(lambda: self.b.xfrm.get(self.in_)["cur.packets"] > 10, "packets flow")
        mover = self.start(host, 1, "request", count, stdin=subprocess.PIPE)
        done, *failures = map(int, mover.communicate(requests)[0].split())
        ktap.equal(failures, [], "errno and number of requests that failed")
        sent, refused = self.end(sender)
        self._settle(self.b)
        self.end(tap)
        received, repeated = self.end(receiver)
        counters = {}
        for old, ns in zip(before, (self.a, self.b)):
            counters |= xfrm.changes(old, ns.counters())
        replayed, accepted = self._replay(frames)
        return Cost(done, sent, refused, received, repeated, replayed,
                    # What had been lost is welcome now.
                    max(0, accepted - (sent - received)),
                    {k: v - before[0].get(k, 0) for k, v in counters.items()},
                    sum(len(h.pending()) for h in hear),
                    sum(ns.xfrm.count() - 1 for ns in (self.a, self.b)))

    def _replay(self, frames):
        receiver = self.receiver()
        process = self.start(self.a, 0, "replay", "v", frames)
        replayed = int(process.communicate(timeout=netlink.PATIENCE)[0])
        self._settle(self.b)
        return replayed, self.end(receiver)[0]

    @staticmethod
    def _settle(host):
        """Waits until the number of packets handled stands still."""
        last, now = None, host.xfrm.all()
        while last != now:
            time.sleep(0.3)
            last, now = now, host.xfrm.all()

# SPDX-License-Identifier: GPL-2.0
"""SAs that are moved while they are flooded, and what that costs.

A and B send to each other as fast as one CPU can; the other CPU moves both SAs
of A, again and again, to where they are. Each host sees what it puts on the
wire. Then all of that is sent once more.
"""

import collections
import contextlib
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lib import handler, ktap, netlink, xfrm
from lib.hosts import PORT, V4, Hosts, selector
from lib.netlink import ACK, CREATE, EXCL, REQUEST, Message
from lib.netns import Netns
from lib.xfrm import SA

BINARY = handler.PROGRAMS / "flood"
# The largest window there is: a replay of what came last would be seen.
ESN = {"REPLAY_ESN_VAL": xfrm.esn(1 << 12, 1 << 7)}, {"REPLAY_ESN_VAL": xfrm.esn(0, 0)}


@dataclass
class Way:
    """What happened to the packets that went this way."""
    sent: int
    refused: int        # of those that were to be sent, at once
    received: int
    repeated: int       # received more than once
    frames: int         # on the wire
    numbers: int        # different sequence numbers of these
    ivs: int
    counted: tuple      # by the output SA and by the input SA: (bytes, packets)
    accepted: int = 0   # of the frames, when they were replayed in the end

    @property
    def lost(self):
        return self.refused + self.sent - self.received

    @property
    def again(self):
        """How many were received more than once, in the flood or by the replay."""
        # What had been lost is welcome now.
        return self.repeated + max(0, self.accepted - (self.sent - self.received))

    @property
    def reused(self):
        """How many sequence numbers and IVs went over the wire more than once."""
        return self.frames - self.numbers, self.frames - self.ivs


@dataclass
class Cost:
    """What happened while so many requests moved the SAs of A."""
    moves: int
    out: Way            # by A's output SA
    in_: Way            # by A's input SA
    counters: dict      # of xfrm_stat that have changed, of both hosts
    acquires: int
    larval: int         # SAs left behind

    @property
    def ways(self):
        return self.out, self.in_

    @property
    def lost(self):
        return self.out.lost + self.in_.lost

    @property
    def again(self):
        return self.out.again + self.in_.again


def migrate(sa):
    """Moves it to where it is."""
    return [(xfrm.MIGRATE_STATE, xfrm.migrate(sa).pack(), 0)]


def migrate_policy(sa):
    """Moves it together with the policy that asks for it."""
    direction = xfrm.POLICY_IN if sa.attrs["SA_DIR"] == b"\1" else xfrm.POLICY_OUT
    return [(xfrm.MIGRATE, xfrm.migrate_with_policy(direction, selector(sa.family), sa), 0)]


def replace(sa):
    """Deletes it and adds it anew."""
    return [(xfrm.DELSA, sa.ident(), 0), (xfrm.NEWSA, sa.pack(), CREATE | EXCL)]


class Flow:
    """The processes that send datagrams one way and see what becomes of them."""

    def __init__(self, ends, frames, again):
        self.ends, self.frames = ends, frames
        self.tap = Flood.start(ends.a, 1, "tap", "v", frames, *["again"] * again)
        ktap.wait(lambda: os.path.exists(frames), "the tap is open")
        self.receiver = self.receive()

    def receive(self):
        """A process that receives, when it does."""
        process = Flood.start(self.ends.b, 1, "receive", self.ends.talk[1], PORT)
        with self.ends.b.inside():
            ktap.wait(lambda: any(f":{PORT:04X} " in Path("/proc/thread-self/net", udp).read_text()
                                  for udp in ("udp", "udp6")), "somebody receives")
        return process

    def send(self, host, address, segments):
        self.sender = Flood.start(host, 0, "send", address, self.ends.talk[1], PORT, segments)
        ktap.wait(lambda: self.counted()[1][1] > 10, "packets flow")

    def counted(self):
        return tuple((sa["cur.bytes"], sa["cur.packets"]) for sa in self.ends.dumps())

    def end(self, sent):
        return Way(*sent, *Flood.end(self.receiver), *Flood.end(self.tap), self.counted())

    def replay(self, way):
        """Sends all that went over the wire once more."""
        receiver = self.receive()
        replayed, = Flood.end(Flood.start(self.ends.a, 0, "replay", "v", self.frames), hurry=False)
        ktap.equal(replayed, way.frames, "frames replayed")
        settle(self.ends.b)
        way.accepted = Flood.end(receiver)[0]


@contextlib.contextmanager
def on_cpu(cpu):
    """Keeps this thread on a CPU."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)


class Flood(Hosts):
    """A and B with an SA each way, and processes of theirs that each have a CPU."""

    def __init__(self, sa=SA(*V4, 0x1000, flags=xfrm.FLAG_ESN), inner=xfrm.AF_INET, window=ESN):
        super().__init__()
        if os.cpu_count() < 2:
            raise ktap.Skip("needs 2 CPUs")
        self.other = self.back()
        self.other.sa(sa.but(src=sa.dst, dst=sa.src, spi=sa.spi + 1), inner, *window)
        self.sa(sa, inner, *window)

    @staticmethod
    def start(host, cpu, *words, **more):
        if not BINARY.exists():
            raise ktap.Skip(f"make {BINARY.name} in selftests first")
        # Inherited: a function in the child would cost a fork.
        with on_cpu(cpu), host.inside():
            return subprocess.Popen([BINARY, *map(str, words)], stdout=subprocess.PIPE, **more)

    @staticmethod
    def end(process, hurry=True):
        """Its numbers, as soon as it has done what it has to."""
        if hurry:
            process.send_signal(signal.SIGTERM)
        return [int(n) for n in process.communicate(timeout=netlink.PATIENCE)[0].split()]

    def behind(self):
        """A host whose datagrams to B come by way of A."""
        host = self.enter_context(Netns())
        self.a.veth("w", host, "w")
        self.a.address("w", "10.3.0.2/24")
        self.a.sysctl("ipv4/ip_forward", 1)
        host.address("w", "10.3.0.1/24")
        host.route(f"{self.talk[1]}/32", via="10.3.0.2")
        return host, "10.3.0.1"

    def run(self, how, moves, again=False, segments=1):
        """Floods both ways while the SAs of A are moved.

        again: each frame is sent twice. segments: so many datagrams at a time
        reach A's output SA in one piece, which A forwards.
        """
        senders = ((self.a, self.talk[0], 1) if segments == 1 else (*self.behind(), segments),
                   (self.b, self.talk[1], 1))
        hear = [ns.listen(xfrm.GROUP_ACQUIRE) for ns in (self.a, self.b)]
        before = [ns.counters() for ns in (self.a, self.b)]
        requests = [Message(kind, REQUEST | ACK | flags, 0, 0, body).pack()
                    for sa in (self.out, self.other.in_) for kind, body, flags in how(sa)]

        with tempfile.TemporaryDirectory() as files:
            flows = [Flow(ends, os.path.join(files, name), again)
                     for name, ends in (("out", self), ("in", self.other))]
            for flow, sender in zip(flows, senders):
                flow.send(*sender)
            mover = self.start(self.a, 1, "request", moves, stdin=subprocess.PIPE)
            ktap.equal(mover.communicate(b"".join(requests))[0].split(),
                       [b"%d" % (moves * len(requests))],
                       "requests that were done, errno and number of those that were not")
            sent = [self.end(flow.sender) for flow in flows]
            settle(self.a, self.b)
            ways = [flow.end(s) for flow, s in zip(flows, sent)]
            counters = collections.Counter()
            for ns, old in zip((self.a, self.b), before):
                counters.update({k: v - old[k] for k, v in ns.counters().items() if v != old[k]})
            for flow, way in zip(flows, ways):
                flow.replay(way)
        return Cost(moves, *ways, dict(counters), sum(len(h.pending()) for h in hear),
                    sum(ns.xfrm.count() - 2 for ns in (self.a, self.b)))


def settle(*hosts):
    """Waits until the numbers of packets that were handled stand still: the host may not run a
    CPU of theirs for some tenths of a second."""
    last, still = None, 0
    while still < 4:
        now = [host.xfrm.all() for host in hosts]
        still = still + 1 if now == last else 0
        last = now
        time.sleep(0.2)

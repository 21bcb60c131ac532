#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Packets that wait on their way by an SA, while that is moved again and again.

Whatever they wait in, they keep no CPU longer than they do without moves: each
finds the newest SA of its line by one step. Those on the 16 SAs that were replaced
last go on, by the newest; others may be dropped, as those of an SA that was deleted.

MOVES=N in the environment: so often the SA is moved.
"""

import contextlib
import math
import os
import statistics
import struct
import subprocess
import time
from pathlib import Path

from lib import crypto, hosts, ktap, xfrm
from lib.child import USER, in_child
from lib.flood import on_cpu
from lib.handler import BRIEF, DEBUG, RUST, SOAK
from lib.hosts import PORT, V4, Hosts
from lib.ktap import equal, only, true
from lib.netlink import REQUEST, Message
from lib.nfqueue import Queue
from lib.watch import CPU, Watch
from lib.xfrm import SA, migrate

MANY = SOAK and not DEBUG
MOVES = int(os.environ.get("MOVES", 8000 if MANY else 500 if DEBUG else 3000))
PACKETS = 1500 if MANY else 60 if DEBUG else 300
# How many replaced SAs of a line are kept, and for how many seconds.
KEPT, PATIENCE = 16, 1
# Of what waits for a time: enough for the moves, in microseconds.
DELAY = 800000 if MANY else 300000
TRIES = 8
TUNNEL = SA(*V4, 0x1000, mode=xfrm.TUNNEL)
SOL_UDP, UDP_CORK = 17, 1


@contextlib.contextmanager
def roomy():
    """Lets all wait in sockets and before hosts, however many."""
    room = {"rmem_max": 1 << 26, "rmem_default": 1 << 26, "wmem_default": 1 << 26,
            "netdev_max_backlog": 1 << 16}
    files = {Path("/proc/sys/net/core", name): str(value) for name, value in room.items()}
    before = {f: f.read_text() for f in files}
    try:
        for f, value in files.items():
            f.write_text(value)
        yield
    finally:
        for f, value in before.items():
            f.write_text(value)


def move_often(nl, sa, times):
    """Moves it to where it is, as fast as one can."""
    request = Message(xfrm.MIGRATE_STATE, REQUEST, 0, 0, migrate(sa).pack()).pack()
    for left in range(times, 0, -400):
        nl.send(request * min(left, 400))
    equal(nl.pending(), [], "failures")


def needs(*modules):
    for name in modules:
        if subprocess.run(["modprobe", "-q", name], check=False).returncode:
            raise ktap.Skip(f"no {name}")


def run(ns, *words):
    with ns.inside():
        subprocess.run(words, check=True)


class Waiting(Hosts):
    """A sends packets that wait somewhere, until they are let go. B sees what comes."""

    NEEDS = ()
    COUNT = PACKETS
    MORE = {}           # attributes of the SA
    TIMED = False       # whether they go by themselves, after DELAY
    FLOOR = 0.05        # less than this may be the host's doing

    def __init__(self, watch):
        super().__init__()
        self.watch = watch
        self.sa(TUNNEL.but(mode=xfrm.IPTFS if self.MORE else xfrm.TUNNEL),
                more_out=self.MORE, more_in={"REPLAY_ESN_VAL": xfrm.esn(1 << 12, 1 << 7)})
        self.mover, self.moved = self.a, self.out
        self.sender, self.receiver = self.sockets()
        self.receiver.setblocking(False)
        self.heard = self.tap(self.b)
        # Few wait for a neighbour that isn't known yet.
        self.a.udp(V4[0]).sendto(b"", (V4[1], PORT + 1))

    def hold(self):
        """They wait afterwards."""
        for n in range(self.COUNT):
            self.sender.send(payload(n))

    def let_go(self):
        """They have arrived or been dropped afterwards. Returns the longest time that a
        CPU was taken, or what one packet took."""
        self.wait()
        return self.watch.longest()[CPU]

    def wait(self):
        try:
            ktap.wait(self.through, "all are through")
        except ktap.Late as why:
            raise ktap.Failed(f"{why}: {len(self.arrived)} of {self.COUNT} arrive, "
                              f"{self.lost()} are dropped") from None

    def through(self):
        """Whether none waits any more."""
        self.receive()
        return len(self.arrived) + self.lost() >= self.COUNT

    def receive(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                self.arrived += struct.unpack_from("I", self.receiver.recv(65536))

    def lost(self):
        """How many were dropped, and counted."""
        now = xfrm.changes(self.drops, self.mover.counters())
        return sum(now.values()) - sum(self.drops[name] for name in now)

    def number(self):
        """The last one that A's newest SA has given."""
        return struct.unpack("=III", self.a.xfrm.get(self.out)["REPLAY_VAL"])[0]

    def cork(self, n):
        """A socket that keeps a packet until it is uncorked."""
        s = self.a.udp(self.talk[0])
        s.connect(self.receiver.getsockname())
        s.setsockopt(SOL_UDP, UDP_CORK, 1)
        s.send(payload(n))
        return s

    @staticmethod
    def around():
        """What has to be so meanwhile, and takes root."""
        return contextlib.nullcontext()

    def begin(self):
        self.arrived, self.drops = [], self.mover.counters()
        hosts.frames(self.heard)
        self.first = self.number() + 1

    def attempt(self, moves):
        """They wait, the SA is moved that often, they are let go. Returns what that cost,
        and whether it was done in time for none to be forgotten."""
        self.begin()
        # What goes by two CPUs changes places.
        with on_cpu(0):
            begun = time.monotonic()
            self.hold()
            if self.TIMED:
                time.sleep(max(0, begun + DELAY * 1e-6 - 0.05 - moves * 1e-4 - time.monotonic()))
                self.watch.begin()
            start = time.monotonic()
            move_often(self.mover.xfrm, self.moved, moves)
            if not self.TIMED:
                self.watch.begin()
            cost = self.let_go()
        if self.TIMED and start > begun + DELAY * 1e-6:
            cost = math.inf     # some have gone before the watch began
        return cost, time.monotonic() - start < PATIENCE

    def check_numbers(self):
        equal(sorted(hosts.esp(f)[0] for f in hosts.frames(self.heard)),
              list(range(self.first, self.number() + 1)), "numbers on the wire")

    def costs_no_more(self):
        """Whether some were replaced or many: at most twice what it is if none is, in the
        best of some attempts. And of the first, all arrive; of the others those that
        aren't dropped, each once."""
        costs, all_came = dict.fromkeys((0, KEPT, MOVES), math.inf), False
        for _ in range(TRIES):
            for moves in costs:
                cost, in_time = self.attempt(moves)
                print(f"# {moves} moves: {cost * 1e3:.2f} ms, {len(self.arrived)} arrive, "
                      f"{self.lost()} are dropped", flush=True)
                costs[moves] = min(costs[moves], cost)
                equal(len(set(self.arrived)), len(self.arrived), "different ones that arrive")
                if moves == 0 or moves == KEPT and in_time:
                    equal((len(self.arrived), self.lost()), (self.COUNT, 0),
                          f"packets that arrive after {moves} moves, and are dropped")
                    all_came |= moves > 0
                self.check_numbers()
            dear = not max(costs.values()) <= 2 * max(self.FLOOR, costs[0]) < math.inf
            # A debug kernel is there for what it says.
            if DEBUG or all_came and not dear:
                return
        true(not dear, f"more than twice what it is without moves: {costs}")
        raise ktap.Late("none was let go in time")


def payload(n):
    return struct.pack("I", n) + bytes(1000)


class Corked(Waiting):
    """In sockets."""

    COUNT = 20
    FLOOR = 0.0003

    def hold(self):
        self.corked = [self.cork(n) for n in range(self.COUNT)]

    def let_go(self):
        took = list(map(uncork, self.corked))
        self.wait()
        return statistics.median(took)


def uncork(s):
    """How long its packet takes."""
    start = time.perf_counter()
    s.setsockopt(SOL_UDP, UDP_CORK, 0)
    took = time.perf_counter() - start
    s.close()
    return took


class Aggregated(Waiting):
    """In the queue of IP-TFS: many of them in the old SA's own."""

    TIMED = True
    MORE = {"IPTFS_INIT_DELAY": xfrm.u32(DELAY), "IPTFS_MAX_QSIZE": xfrm.u32(1 << 26),
            "IPTFS_PKT_SIZE": xfrm.u32(200)}


class Queued(Waiting):
    """For verdicts of user space, which come in a batch."""

    NEEDS = "nfnetlink_queue", "nft_queue"

    def __init__(self, watch):
        super().__init__(watch)
        with self.a.inside():
            self.queue = self.a.keep(Queue(0, self.COUNT))
        run(self.a, "nft", "table ip t { chain c { type filter hook output priority 0; "
            f"udp dport {PORT} queue num 0; }}; }}")

    def hold(self):
        super().hold()
        ktap.wait(lambda: self.queue.count() == self.COUNT, "all are in the queue")

    def let_go(self):
        self.queue.accept_all()
        return super().let_go()


class Delayed(Waiting):
    """In a qdisc: they have their numbers already."""

    NEEDS = "sch_netem",
    TIMED = True

    def __init__(self, watch):
        super().__init__(watch)
        run(self.a, *f"tc qdisc add dev v root netem delay {DELAY}us limit 10000".split())


class Encrypted(Waiting):
    """For a cipher that finishes later: they have their numbers already."""

    COUNT = min(PACKETS, 900)   # cryptd takes 1,000
    FLOOR = 0.0003

    @staticmethod
    def around():
        return crypto.handled_by("cryptd", "seqiv(rfc4106(gcm(aes)))")

    def __init__(self, watch):
        super().__init__(watch)
        self.callback(self.flush)

    def flush(self):
        """What was received on a CPU may be freed, and with it the cipher, when that one
        receives again."""
        for cpu in os.sched_getaffinity(0):
            with on_cpu(cpu):
                self.a.udp("127.0.0.1").sendto(b"", ("127.0.0.1", PORT + 1))

    def hold(self):
        self.seize()
        super().hold()

    def seize(self):
        """Takes a CPU: the worker there, which is cryptd's, has to wait."""
        self.everywhere = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(self.everywhere)})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

    def let_go(self):
        start = time.perf_counter()
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, self.everywhere)
        self.wait()
        return (time.perf_counter() - start) / self.COUNT


class Decrypted(Encrypted):
    """At B: it is B's SA that is moved."""

    def __init__(self, watch):
        super().__init__(watch)
        self.mover, self.moved = self.b, self.in_
        self.again = self.tap(self.a)

    def hold(self):
        """What B doesn't take at first comes again."""
        self.b.xfrm.delete(self.in_)
        Waiting.hold(self)
        self.frames = []
        ktap.wait(self.all_sent, "all are on the wire")
        self.b.xfrm.new(self.in_)
        self.drops = self.b.counters()
        self.seize()
        self.repeat()

    def all_sent(self):
        self.frames += hosts.frames(self.heard)
        return len(self.frames) == self.COUNT

    def repeat(self):
        for frame in self.frames:
            self.again.send(frame)

    def check_numbers(self):
        """What has arrived isn't taken when it comes again, what was dropped is."""
        taken, lost = len(self.arrived), self.lost()
        self.repeat()
        ktap.wait(lambda: self.through() and len(self.arrived) + self.lost() == 2 * self.COUNT,
                  "all came again")
        equal(self.lost(), lost + taken, "packets refused, which had arrived")
        equal(len(set(self.arrived)), self.COUNT, "different ones that have come in all")


def waits(kind, name, user=None):
    """A test of this kind of waiting."""
    @only(RUST)
    def test():
        def job():
            with kind(watch) as two:
                two.costs_no_more()
        needs(*kind.NEEDS)
        with roomy(), Watch() as watch, kind.around():
            in_child(job, user)
    test.__name__ = f"{kind.__name__.lower()}_{name}"
    return test


NUMBERED = Delayed, Encrypted
KINDS = Corked, Aggregated, Queued, *NUMBERED, Decrypted


@only(RUST)
def the_last_replaced_are_kept():
    """A packet waits on each of many; after a while those on older ones are dropped."""
    with Waiting(None) as two:
        two.COUNT = 2 * KEPT + 1
        for patience in (0.2, 0.3, 0.4, 0.5) * (1 if DEBUG else 2):
            two.begin()
            corked, began = [], []
            for n in range(2 * KEPT):
                corked.append(two.cork(n))
                began.append(time.monotonic())
                move_often(two.a.xfrm, two.out, 1)
            corked.append(two.cork(2 * KEPT))   # on the newest
            time.sleep(patience)
            for s in corked:
                uncork(s)
            in_time = time.monotonic() - began[KEPT] < PATIENCE
            two.wait()
            two.check_numbers()
            print(f"# after {patience} s: {two.arrived}")
            if in_time:
                equal(two.arrived[-KEPT - 1:], list(range(KEPT, 2 * KEPT + 1)),
                      "those that are kept")
                if two.lost() == KEPT:
                    return
        true(DEBUG, "older ones are not dropped, or it took too long")


@only(RUST)
def none_is_kept_for_long():
    """As soon as the host lets the worker run that sees to it."""
    with Waiting(None) as two:
        two.COUNT = 1
        for patience in 0.5, 1, 2, 4:
            two.begin()
            corked = two.cork(0)
            move_often(two.a.xfrm, two.out, 1)
            time.sleep(PATIENCE + patience)
            uncork(corked)
            two.wait()
            two.check_numbers()
            if two.lost():
                return
        raise ktap.Failed("it is")


if __name__ == "__main__":
    ktap.main([the_last_replaced_are_kept, none_is_kept_for_long]
              + [waits(kind, "by_a_user", USER) for kind in KINDS
                 if not (BRIEF and kind in NUMBERED)]
              + [waits(kind, "by_root") for kind in KINDS if not BRIEF])

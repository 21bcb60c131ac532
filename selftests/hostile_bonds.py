#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Bonds of a user with namespaces of their own: others don't wait for them, whatever else runs.

BONDS=N in the environment: of how many.
"""

import collections
import contextlib
import math
import mmap
import os
import resource
import signal
import struct
import subprocess
import time

from lib import bond, handler, hostile, kmsg, ktap
from lib.bond import ACTIVE_BACKUP, BOND, XOR, Bonded, link, master, must, options, sas
from lib.child import USER, in_child
from lib.handler import BRIEF, DEBUG, NEITHER, SOAK
from lib.hostile import FLOOR, compared, timed
from lib.ktap import equal, true
from lib.netlink import CREATE, EXCL
from lib.netns import Netns
from lib.probe import Allocations, Probe
from lib.watch import Watch

BONDS = int(os.environ.get("BONDS", 30 if BRIEF else 4000 if SOAK and not DEBUG else 150))
# How long a process stays in the kernel, and how many pages it asks for at once.
STAYS, PAGES, FEW_PAGES = 3 if DEBUG else 5, 600, 3
# For how long something is done.
SECONDS = 20 if SOAK else 2
# How often unloading waits for it; a module that nobody needs.
GRACE_PERIODS, OTHER = 8, "sch_netem"
# Bonds for which RTNL is held at once when they are shown; SAs that a simulated NIC has room for.
AT_ONCE, CAPACITY = 16, 32
ATTEMPTS, FEW = 5, 10
# What a request may take longer by chance, in seconds.
SMALL = 0.2 if DEBUG else 0.02
# Ours in the log within five seconds, as net_ratelimit() lets through, and before and after.
LINES = 30
FEATURE = "esp-hw-offload"


def prepare():
    subprocess.run(["modprobe", "-q", "bonding", "max_bonds=0"], check=False)
    if not os.path.isdir("/sys/module/bonding"):
        raise ktap.Skip("no bonding")
    # Three for each namespace.
    resource.setrlimit(resource.RLIMIT_NOFILE, (BONDS + 1000,) * 2)


def make(ns, name="b0"):
    must(ns, name, options(mode=XOR), flags=CREATE | EXCL)


def delete(ns, name="b0"):
    reply = link(ns, name, kind=bond.RTM_DELLINK)
    equal(reply.errno, 0, f"error of deleting {name}")


class Staying:
    """A process that hardly leaves the kernel, which takes no privileges: reads so many pages at
    once, then sleeps for so long. If it doesn't sleep, only a tick of the clock that comes
    between two calls tells RCU that it was elsewhere."""

    def __init__(self, pages=PAGES, sleeps=0):
        self.pages, self.sleeps = pages, sleeps
        self.longest = mmap.mmap(-1, 8)

    def __enter__(self):
        self.child = os.fork()
        if not self.child:
            try:
                os.nice(5)
                self._stay()
            finally:
                os._exit(1)
        time.sleep(1)
        return self

    def __exit__(self, *_):
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)

    def _stay(self):
        fd = os.open("/dev/urandom", os.O_RDONLY)
        page, worst = bytearray(1 << 20), 0
        while True:
            worst = max(worst, timed(os.readv, fd, [page] * self.pages))
            struct.pack_into("d", self.longest, 0, worst)
            if self.sleeps:
                time.sleep(self.sleeps)

    def stays(self):
        """For how long at most so far, in seconds."""
        return struct.unpack("d", self.longest)[0]


def end_of_namespaces():
    """With a bond in the first one."""
    others = [Netns() for _ in range(5)]
    make(others[0])
    home = Netns()
    for n, ns in enumerate(others):
        home.veth(f"v{n}", ns, "v")
    start = time.monotonic()
    for ns in others:
        ns.cleanup.close()
    ktap.wait(lambda: home.links() == {"lo"}, "their ends", 60, ktap.Failed)
    return time.monotonic() - start


def deleted_while_a_process_stays_in_the_kernel():
    """Nothing waits for tasks to sleep."""
    def act():
        with Netns() as ns, Staying():
            took = []
            for _ in range(2):
                make(ns)
                took.append(timed(delete, ns))
            return {"deletion of a bond": max(took),
                    "end of namespaces with one": end_of_namespaces()}
    prepare()
    compared(act, hostile.rtnl, hostile.end, factor=1.5, floor=2 * FLOOR)


def tasks():
    return sum(name.isdigit() for name in os.listdir("/proc"))


def many(spread):
    """Bonds in one namespace, or one in each: what each costs, and their end."""
    def act():
        with Netns() as first:
            first.dummy("d0")
            count = BONDS // 4 if spread else BONDS
            spaces = [Netns() for _ in range(count)] if spread else [first]
            before, start = tasks(), time.monotonic()
            for n in range(count):
                make(spaces[n % len(spaces)], f"b{n}")
            took = {"a bond": (time.monotonic() - start) / count}
            start = time.monotonic()
            for n in range(100):
                first.up("d0", n % 2)
            took["100 times up and down of another device"] = time.monotonic() - start
            for n in range(3):
                took["deletion of one"] = min(took.get("deletion of one", math.inf),
                                              timed(delete, spaces[n % len(spaces)], f"b{n}"))
            most = tasks()
            home = Netns()
            for n, ns in enumerate(spaces):
                home.veth(f"v{n}", ns, "v")
            start = time.monotonic()
            for ns in spaces:
                ns.cleanup.close()
            while home.links() != {"lo"}:
                most = max(most, tasks())
                time.sleep(0.02)
            took["end of them all"] = time.monotonic() - start
            # A worker each would be so many more.
            took["tasks, in units of 100"] = (most - before) / 100
        return took
    prepare()
    compared(act, hostile.rtnl, hostile.states, factor=1.2 if SOAK else 1.5)


def many_bonds():
    many(False)


def many_namespaces():
    many(True)


def loading_and_unloading_with_many():
    """Who wants RTNL gets it after all have been taken over, which costs less than to make them;
    they are given back in pieces."""
    prepare()
    with Netns() as ns, Watch(hostile.rtnl) as watch:
        for count in 0, BONDS:
            start = time.monotonic()
            for n in range(count):
                make(ns, f"b{n}")
            made = time.monotonic() - start
            took, waits = [], []
            for act in load, lambda: handler.rmmod(handler.NAME):
                watch.begin()
                took.append(timed(act))
                waits.append(watch.longest()["rtnl"])
            print(f"# {count} bonds, made in {made:.2f} s: {took[0]:.2f} s to load the module, "
                  f"RTNL {waits[0]:.3f} s; {took[1]:.2f} s to unload it, RTNL {waits[1]:.3f} s")
            if count:
                more = (10 if DEBUG else 3) * max(BONDS / 4000, 0.3)
                true(took[1] < alone[1] + more, f"{took[1]} s, {alone[1]} s without bonds")
                true(waits[0] < FLOOR + made / 2, "RTNL while the module is loaded")
            alone = took


def load():
    if not handler.load():
        raise ktap.Skip("XFRM_NEXT_KO names no module")


def another_module():
    """Loads one, which takes ftrace_lock, and unloads it."""
    def probe(_n):
        for words in ["-q", OTHER], ["-rq", OTHER]:
            subprocess.run(["modprobe", *words], check=True)
    return probe


def unloading_while_a_process_stays_in_the_kernel():
    """Who unloads waits for that process, so many times; who loads another module, while ftrace
    waits for it. Nobody else."""
    def act():
        ours = handler.loaded()
        with Netns() as ns, Staying(FEW_PAGES, sleeps=0.01) as process:
            make(ns)
            with Watch(another_module) as watch:
                watch.begin()
                took = timed(handler.rmmod, handler.NAME) if ours else timed(time.sleep, SECONDS)
                waits, stays = watch.longest()[another_module.__name__], process.stays()
        print(f"# it stays for {stays:.2f} s; another module: {waits:.2f} s", end="")
        print(f", unloading: {took:.2f} s" * ours)
        # RCU looks at such a process each 0.1 s, or more seldom.
        true(max(took, waits) < GRACE_PERIODS * (stays + 1), "unloading, or another module")
        return {}
    prepare()
    compared(act, hostile.rtnl, hostile.states, hostile.end, user=None)


def shown_with_many():
    """RTNL isn't held for all of them at once."""
    prepare()
    with handler.module(), Netns() as ns, Probe("rtnl_lock", one="\\1") as taken:
        bond.needs_lag()
        for n in range(BONDS):
            make(ns, f"b{n}")
        taken.calls()
        text = bond.shown()
        times = len(taken.calls())
    equal(text.count("bond b"), BONDS, "bonds that are shown")
    true(times >= BONDS / AT_ONCE, f"RTNL is taken {times} times for {BONDS} bonds")


def sas_come_and_go():
    """On a bond whose slaves all have them, compared with one of which one slave has them, as
    bonding does it."""
    def act():
        ours = handler.loaded()
        with Bonded(XOR if ours else ACTIVE_BACKUP, esp=ours, module=ours) as lag:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                for sa in sas(CAPACITY // 2):
                    lag.nl.new(lag.offloaded(sa))
                lag.nl.flush()
        return {}
    compared(act, hostile.rtnl, hostile.states, hostile.end, user=None)


def all_sas_at_once():
    """What a slave takes longer to join and to leave if the bond has SAs: not twice what it takes
    to add as many to a device, and to take them from it when that goes down. All of it with RTNL
    held, but adding SAs."""
    with handler.module(), Bonded(slaves=1) as lag:
        guest, alone = lag.port(), lag.port()
        best = collections.defaultdict(lambda: math.inf)

        def note(what, act, *args):
            best[what] = min(best[what], timed(act, *args))

        def add(dev):
            for sa in sas(CAPACITY // 2):
                lag.nl.new(lag.offloaded(sa, dev))
        for _ in range(ATTEMPTS):
            note("add", add, alone.name)
            note("flush", lag.a.up, alone.name, False)
            lag.a.up(alone.name)
            note("go down", lag.a.up, alone.name, False)
            lag.a.up(alone.name)
            for full in False, True:
                if full:
                    add(BOND)
                note(("join", full), lag.join, guest)
                equal(guest.held(), CAPACITY * full, "SAs in the slave")
                note(("leave", full), lag.release, guest)
                equal(guest.held(), 0, "SAs in the one that has left")
            lag.nl.flush()
    print("# " + ", ".join(f"{what}: {seconds * 1e3:.2f} ms" for what, seconds in best.items()))
    for what, base in ("join", best["add"]), ("leave", best["flush"] - best["go down"]):
        more = best[what, True] - best[what, False]
        true(more < 2 * base + SMALL, f"{what}: {more} s more with SAs, {base} s")


def memory_is_the_maker_s():
    """The kernel counts it as that of the control group of who makes bonds and slaves, as all
    that is asked for with this flag."""
    prepare()
    with handler.module(), Netns() as ns:
        bond.needs_lag()
        # What is kept for a driver stays, however many bonds it has.
        make(ns, "first")
        with Allocations() as asked:
            for n in range(FEW):
                ns.dummy(f"d{n}")
                make(ns, f"b{n}")
                ns.up(f"d{n}", False)
                must(ns, f"d{n}", master(ns, f"b{n}"))
            with Netns():
                pass
    true(len(asked.flags) >= 4 * FEW, f"{len(asked.flags)} allocations for {FEW} bonds with a slave")
    equal([flags for flags in asked.flags if "ACCOUNT" not in flags], [], "which isn't counted")


def log_is_quiet():
    """However often somebody asks for what a bond can't."""
    prepare()

    def act():
        with Netns() as ns:
            make(ns)
            end, n = time.monotonic() + STAYS, 0
            while time.monotonic() < end:
                for wish in True, False:
                    for feature in FEATURE, "tx-esp-segmentation":
                        with contextlib.suppress(OSError):
                            bond.feature(ns, "b0", feature, wish)
                n += 1
            return n
    with handler.module():
        if not handler.loaded():
            raise ktap.Skip("XFRM_NEXT_KO names no module")
        reader = kmsg.Reader()
        asked = in_child(act, USER)
        lines = [line for line in reader.lines() if "xfrm_next" in line]
    print(f"# {len(lines)} lines, asked {4 * asked} times")
    true(len(lines) <= LINES, f"{len(lines)} lines such as {lines[:1]}")


if __name__ == "__main__":
    ktap.main([deleted_while_a_process_stays_in_the_kernel, many_bonds, many_namespaces,
               loading_and_unloading_with_many,
               unloading_while_a_process_stays_in_the_kernel, shown_with_many, sas_come_and_go,
               all_sas_at_once, memory_is_the_maker_s, log_is_quiet], handlers=(NEITHER,), load=False)

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Bonds of a user with namespaces of their own: others don't wait for them, whatever else runs.

BONDS=N in the environment: of how many.
"""

import contextlib
import math
import os
import resource
import signal
import subprocess
import time

from lib import bond, handler, hostile, kmsg, ktap
from lib.bond import XOR, link, must, options
from lib.child import USER, in_child
from lib.handler import BRIEF, DEBUG, NEITHER, SOAK
from lib.hostile import FLOOR, compared, timed
from lib.ktap import equal, true
from lib.netlink import CREATE, EXCL
from lib.netns import Netns
from lib.probe import Probe
from lib.watch import Watch

BONDS = int(os.environ.get("BONDS", 30 if BRIEF else 4000 if SOAK and not DEBUG else 150))
# How long a process stays in the kernel, and how many pages it asks for at once.
STAYS, PAGES = 3 if DEBUG else 5, 600
# Bonds for which RTNL is held at once when they are shown.
AT_ONCE = 16
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


@contextlib.contextmanager
def staying():
    """A process that hardly leaves the kernel, which takes no privileges."""
    child = os.fork()
    if not child:
        try:
            os.nice(5)
            fd = os.open("/dev/urandom", os.O_RDONLY)
            page = bytearray(1 << 20)
            while True:
                os.readv(fd, [page] * PAGES)
        finally:
            os._exit(1)
    try:
        time.sleep(1)
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


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
        with Netns() as ns, staying():
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


def unloading_with_many():
    """In pieces: who wants RTNL gets it in between."""
    prepare()
    with Netns() as ns:
        for with_bonds in False, True:
            for n in range(BONDS * with_bonds):
                make(ns, f"b{n}")
            if not handler.load():
                raise ktap.Skip("XFRM_NEXT_KO names no module")
            with Watch(hostile.rtnl) as watched:
                watched.begin()
                took = timed(handler.rmmod, handler.NAME)
                waits = watched.longest()
            print(f"# {BONDS * with_bonds} bonds: {took:.2f} s, RTNL {waits['rtnl']:.3f} s")
            if with_bonds:
                more = (10 if DEBUG else 3) * max(BONDS / 4000, 0.3)
                true(took < alone + more, f"{took} s, {alone} s without bonds")
            alone = took


def shown_with_many():
    """RTNL isn't held for all of them at once."""
    prepare()
    with handler.module(), Netns() as ns, Probe("rtnl_lock", one="\\1") as taken:
        for n in range(BONDS):
            make(ns, f"b{n}")
        taken.calls()
        text = bond.shown()
        times = len(taken.calls())
    equal(text.count("bond b"), BONDS, "bonds that are shown")
    true(times >= BONDS / AT_ONCE, f"RTNL is taken {times} times for {BONDS} bonds")


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
               unloading_with_many, shown_with_many, log_is_quiet], handlers=(NEITHER,), load=False)

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""All that can happen to a bond with SAs, at the same time.

Afterwards no slave holds an SA that isn't there, none has been told to forget one
that it didn't have (ktap hears of that), and nothing has gone over a wire as it
was that the slave hasn't counted as encrypted.

SECONDS=N in the environment: for how long.
"""

import contextlib
import itertools
import os
import random
import socket
import threading
import time

from lib import handler, ktap
from lib.bond import (BOND, LAYER2, LAYER34, RTM_DELLINK, XOR, Bonded, esn_in, esn_out, feature, link,
                      master, options, sas, seen)
from lib.handler import BRIEF, NEITHER
from lib.ktap import equal, true
from lib.netlink import CREATE, EXCL, Netlink
from lib.xfrm import Xfrm, migrate

OTHER = "bond1"
SECONDS = float(os.environ.get("SECONDS", 5))


class Rtnl:
    """A socket of a thread's own, in the namespace that it is in."""

    def __init__(self, stack):
        self.rtnl = stack.enter_context(Netlink(socket.NETLINK_ROUTE))


class Stress(contextlib.ExitStack):
    """A bond with two slaves that stay and two that come and go."""

    def __init__(self):
        super().__init__()
        self.lag = self.enter_context(Bonded())
        self.guests = [self.lag.port() for _ in range(2)]
        self.all = self.lag.ports + self.guests
        self.taps = [self.lag.tap(port) for port in self.all]
        self.plain = [0] * len(self.all)
        self.done = threading.Event()
        self.counts = {}
        self.broken = []

    def start(self, work, *args):
        """Calls work() over and over again, in the namespace of the bond."""
        name = f"{work.__name__}{args or ''}"

        def loop():
            try:
                with self.lag.a.inside(), contextlib.ExitStack() as stack:
                    act = work(stack, *args)
                    for n in itertools.count(1):
                        if self.done.is_set():
                            break
                        act()
                        self.counts[name] = n
            except Exception as why:    # shown by stop()
                self.broken.append((name, why))
        thread = threading.Thread(target=loop)
        thread.start()
        self.callback(thread.join)
        self.callback(self.done.set)

    def stop(self):
        self.done.set()
        self.close_threads()
        print(f"# {self.counts}", flush=True)
        equal(self.broken, [], "what went wrong")

    def close_threads(self):
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join()

    def adder(self, stack, which):
        return self.adds(stack, mixed()[which::2], BOND)

    def adds(self, stack, mine, dev):
        nl = stack.enter_context(Xfrm())

        def act():
            sa = random.choice(mine)
            with contextlib.suppress(OSError):
                nl.new(self.lag.offloaded(sa, dev))
            nl.delete(random.choice(mine))
        return act

    def other_bond(self, stack):
        """It has SAs of its own, comes, and goes."""
        ns = Rtnl(stack)
        add = self.adds(stack, mixed(12)[16:], OTHER)

        def act():
            if random.random() < .05:
                link(ns, OTHER, kind=RTM_DELLINK)
            link(ns, OTHER, options(mode=XOR), up=True, flags=CREATE | EXCL)
            with contextlib.suppress(OSError):
                feature(self.lag.a, OTHER, "esp-hw-offload", True)
            with contextlib.suppress(OSError):      # it has just gone
                add()
        stack.callback(link, ns, OTHER, kind=RTM_DELLINK)
        return act

    def migrator(self, stack):
        nl = stack.enter_context(Xfrm())

        def act():
            sa = random.choice(sas(8))
            nl.migrate(migrate(sa, reqid=random.choice((sa.reqid, 99))))
        return act

    def guest(self, stack, number, bonds=(BOND,)):
        port = self.guests[number]
        ns = Rtnl(stack)
        left = master(self.lag.a)

        def act():
            link(ns, port.name, up=False)
            with contextlib.suppress(OSError):      # it has just gone
                link(ns, port.name, master(self.lag.a, random.choice(bonds)))
            time.sleep(random.random() / 20)
            link(ns, port.name, left)
        return act

    def flapper(self, stack):
        states = itertools.cycle((False, True))
        with self.lag.b.inside():
            ns = Rtnl(stack)
        return lambda: link(ns, self.lag.ports[0].peer.name, up=next(states))

    def policies(self, stack):
        ns = Rtnl(stack)
        hashes = itertools.cycle((LAYER2, LAYER34, LAYER34, LAYER34))

        def act():
            time.sleep(random.random() / 5)
            link(ns, BOND, options(policy=next(hashes)))
        return act

    def switch(self, _):
        wishes = itertools.cycle((False, True))

        def act():
            time.sleep(random.random() / 5)
            self.lag.esp(next(wishes))
        return act

    def loader(self, _):
        def act():
            time.sleep(random.random())
            handler.rmmod(handler.NAME)
            handler.insmod(handler.KO)
        return act

    def traffic(self, _):
        def act():
            for sa in sas(8)[::2]:
                self.lag.send(sa)
            self.drain()
        return act

    def drain(self):
        for n, tap in enumerate(self.taps):
            self.plain[n] += seen(tap)[0]


def mixed(pairs=8):
    """SAs, those of every other pair with extended sequence numbers, near the edge, if the kernel
    can."""
    if handler.PATCHES < 7:
        return sas(pairs)
    edge = (1 << 32) - 5
    with_esn = (f(n, edge) for n in range(1, pairs, 2) for f in (esn_out, esn_in))
    return [next(with_esn) if n // 2 % 2 else sa for n, sa in enumerate(sas(pairs))]


def stress(*works):
    with Stress() as all_:
        lag = all_.lag
        for sa in sas(8)[::2]:
            lag.protect(sa)
        # The first SA loads what ciphers need, which takes long while all that runs.
        lag.add()
        lag.nl.flush()
        for work, *args in works:
            for arg in args or [()]:
                all_.start(getattr(all_, work), *arg)
        time.sleep(SECONDS)
        all_.stop()
        all_.drain()
        time.sleep(0.5)
        all_.drain()
        sent = [port.sent() for port in all_.all]
        print(f"# plain {all_.plain} encrypted by hardware {sent}", flush=True)
        true(all(a <= b for a, b in zip(all_.plain, sent)), f"plain {all_.plain}, encrypted {sent}")
        lag.nl.flush()
        ktap.wait(lambda: not any(p.held() for p in all_.all), "no slave has an SA")
        lag.policy(LAYER34)
        lag.esp(True)
        lag.add()
        equal(lag.held(), [8, 8], "SAs in each slave, once more")
        lag.nl.flush()


PACE = ("adder", (0,), (1,)), ("migrator",), ("traffic",)


def members():
    with handler.module():
        stress(*PACE, ("guest", (0,), (1,)), ("flapper",))


def changes():
    with handler.module():
        stress(*PACE, ("policies",), ("switch",))


def two_bonds_that_share_ports():
    with handler.module():
        both = BOND, OTHER
        stress(*PACE, ("guest", (0, both), (1, both)), ("other_bond",), ("switch",))


def everything():
    with handler.module():
        stress(*PACE, ("guest", (0,), (1,)), ("flapper",), ("policies",), ("switch",), ("loader",))


if __name__ == "__main__":
    ktap.main([members, changes, two_bonds_that_share_ports] * (not BRIEF) + [everything], handlers=(NEITHER,), load=False)

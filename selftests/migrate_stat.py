#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What the module tells of itself: /proc/net/xfrm_next_stat and xfrm_next_moved."""

import errno
import json
import os
import shutil
import subprocess
import threading

from lib import handler, ktap, spi, xfrm
from lib.child import USER, in_child
from lib.handler import DEBUG, RUST
from lib.hosts import V6
from lib.ktap import equal, true
from lib.netlink import CREATE, EXCL
from lib.netns import CLONE_NEWUSER, Netns, check
from lib.xfrm import SA, migrate
from migrate_grace import Moved
from migrate_scale import send_all

STAT, MOVED = (f"/proc/thread-self/net/xfrm_next_{name}" for name in ("stat", "moved"))
ONE = SA("192.0.2.1", "192.0.2.2", 0x1001)
MANY = 500 if DEBUG else 5_000


def counters(ns):
    with ns.inside(), open(STAT) as f:
        return {name: int(value) for name, value in map(str.split, f)}


def counted(ns, what, act):
    """`act` counts just this."""
    before = counters(ns)
    act()
    equal(xfrm.changes(before, counters(ns)), what, "counters")


def moved(ns):
    """The lines, each as a dictionary."""
    with ns.inside(), open(MOVED) as f:
        lines = [line.split() for line in f]
    return [dict(zip(words[::2], words[1::2])) for words in lines]


def requests_are_counted():
    with Netns() as ns:
        ns.sysctl("xfrm_next/migrate_grace", 0)
        true(not any(counters(ns).values()), "all begin with 0")
        for sa in ONE, ONE.but(dst="192.0.2.3"):
            ns.xfrm.new(sa)
        to = migrate(ONE, dst="192.0.2.4")
        for name, request, code in (
                ("Invalid", migrate(ONE, flags=1 << 31), errno.EINVAL),
                ("NotFound", migrate(ONE.but(spi=0x1002)), errno.ESRCH),
                ("Occupied", migrate(ONE, dst="192.0.2.3"), errno.EEXIST),
                # Transport mode has one family.
                ("Error", migrate(ONE, dst=V6[1], src=V6[0]), errno.EPROTONOSUPPORT)):
            def refused():
                equal(ns.xfrm.migrate(request).errno, code, name)
            counted(ns, {f"XfrmMigrateState{name}": 1}, refused)
        before = counters(ns)
        equal(ns.xfrm.migrate(to).errno, 0, "migration")
        after = xfrm.changes(before, counters(ns))
        equal(after.pop("XfrmReplacedKept", 1), 1, "kept, if it still is")
        equal(after, {"XfrmMigrateState": 1, "XfrmReplacedKeptMost": 1}, "counters")
        ktap.wait(lambda: not counters(ns)["XfrmReplacedKept"], "none is kept")


def spis_are_counted():
    with Netns() as ns:
        spi.patient(ns)
        wanted = spi.larval("192.0.2.2", 0x100)
        counted(ns, {"XfrmAllocSpi": 1}, lambda: spi.must(ns.xfrm, wanted))
        other = spi.larval("192.0.2.2", 0x100, src="192.0.2.9")
        counted(ns, {"XfrmAllocSpiTaken": 1},
                lambda: equal(spi.verdict(ns.xfrm, other), spi.NO_SPI, "answer"))


def packets_are_counted():
    """Those for an old address, and none of the others."""
    with Moved(grace=60_000) as two:
        counted(two.b, {}, lambda: two.arrives(3))
        two.away()
        counted(two.b, {"XfrmReplacedOldAddress": 5, "XfrmReplacedInFlight": 5},
                lambda: two.arrives(5))
        two.hear()
        counted(two.b, {}, lambda: two.send(3))
        equal(counters(two.b)["XfrmReplacedKept"], 1, "kept")
        two.b.xfrm.delete(two.in_)
        ktap.wait(lambda: not counters(two.b)["XfrmReplacedKept"], "none is kept", 20)
        equal(counters(two.b)["XfrmReplacedKeptMost"], 1, "kept at most")


def old_addresses_are_listed():
    """For as long as SAs are found there."""
    with Netns() as ns:
        ns.sysctl("xfrm_next/migrate_grace", 30_000)
        equal(moved(ns), [], "before")
        four = ONE.but(mode=xfrm.TUNNEL)
        six = SA(*V6, 0x2001, attrs={**ONE.attrs, "MARK": xfrm.mark(1, 0xff)})
        for sa, to in (four, "2001:db8::9"), (six, "2001:db8::3"):
            ns.xfrm.new(sa)
            equal(ns.xfrm.migrate(migrate(sa, dst=to, src=V6[0])).errno, 0, "migration")
        lines = sorted(moved(ns), key=lambda line: line["spi"])
        for line in lines:
            true(20_000 < int(line.pop("msecs")) <= 30_000, "time that is left")
        equal(lines, [
            {"dst": ONE.dst, "proto": "50", "spi": "0x00001001", "mark": "0x0/0x0", "new-dst": "2001:db8::9"},
            {"dst": six.dst, "proto": "50", "spi": "0x00002001", "mark": "0x1/0xff", "new-dst": "2001:db8::3"}],
            "list")
        # Back again: it is found at the address that it leaves now.
        there = six.but(dst="2001:db8::3")
        equal(ns.xfrm.migrate(migrate(there, dst=six.dst)).errno, 0, "migration")
        ns.xfrm.delete(four.but(src=V6[0], dst="2001:db8::9"))
        equal([(line["dst"], line["new-dst"]) for line in moved(ns)], [("2001:db8::3", six.dst)],
              "after it has moved back, and the other has been deleted")
        ns.sysctl("xfrm_next/migrate_grace", 1)
        ktap.wait(lambda: not moved(ns), "the time is over")


def command_shows_them():
    if not shutil.which("xfrm-next"):
        raise ktap.Skip("no xfrm-next in PATH")

    def run(*words):
        with ns.inside():
            result = subprocess.run(["xfrm-next", *words], capture_output=True, text=True, check=True)
        return result.stdout
    with Netns() as ns:
        ns.sysctl("xfrm_next/migrate_grace", 60_000)
        equal(run("moved", "show") + run("-j", "moved", "show"), "[]\n", "none")
        ns.xfrm.new(ONE)
        equal(ns.xfrm.migrate(migrate(ONE, dst="192.0.2.4")).errno, 0, "migration")
        line, = json.loads(run("-j", "moved", "show"))
        true(line.pop("msecs") > 30_000, "time that is left")
        equal(line, {"dst": ONE.dst, "proto": "esp", "spi": ONE.spi, "new-dst": "192.0.2.4"}, "JSON")
        text = run("moved", "show")
        want = f"dst {ONE.dst} proto esp spi 0x00001001 new-dst 192.0.2.4 msecs "
        equal(text[:len(want)], want, "text")
        equal(json.loads(run("-j", "show")), counters(ns), "counters")


def only_the_administrator_sees_addresses():
    def by_another():
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)

    def read():
        with open(STAT) as f:
            f.read()
        try:
            with open(MOVED) as f:
                f.read()
        except OSError as why:
            return why.errno
        return 0
    with Netns() as ns, ns.inside():
        equal(in_child(read), 0, "root")

        def another():
            by_another()
            return read()
        equal(in_child(another), errno.EPERM, "another user")

        def root_elsewhere():
            by_another()
            check(handler.libc.unshare(CLONE_NEWUSER))
            return read()
        equal(in_child(root_elsewhere), errno.EPERM, "with all capabilities of another user namespace")

        equal(in_child(read, USER), 0, "root of its own")


def an_open_list_is_of_its_namespace():
    """It may be read as long as it is open, whoever has left the namespace."""
    with Netns() as ns, ns.inside():
        f = open(MOVED)
    with f:
        equal(f.read(), "", "list")
    with Netns() as other:
        equal(moved(other), [], "another namespace")


def lists_are_read_while_sas_come_and_go():
    """Each SA that is there all the time is listed once, in whatever pieces it is read."""
    rounds = range(1, MANY + 1)
    with Netns() as ns:
        ns.sysctl("xfrm_next/migrate_grace", 60_000)
        stay, go = (SA("192.0.2.1", dst, 0x7fffffff) for dst in ("192.0.2.2", "192.0.2.3"))

        def all_move(nl, sa, to):
            send_all(nl, xfrm.NEWSA, sa.pack(), {72: 0, 208: 0}, rounds, CREATE | EXCL)
            send_all(nl, xfrm.MIGRATE_STATE, migrate(sa, dst=to).pack(), {16: 0, 120: 0}, rounds)
        all_move(ns.xfrm, stay, "198.51.100.2")
        done = []

        def come_and_go():
            with ns.inside(), xfrm.Xfrm() as nl:
                all_move(nl, go, "198.51.100.3")
                send_all(nl, xfrm.DELSA, go.but(dst="198.51.100.3").ident(), {16: 0}, rounds)
            done.append(1)
        other = threading.Thread(target=come_and_go)
        other.start()
        reads = 0
        while reads < 3 or not done:
            with ns.inside():
                fd = os.open(MOVED, os.O_RDONLY)
            with os.fdopen(fd, "rb", buffering=777 * (1 + reads % 9)) as f:
                spis = [line.split()[5] for line in f if line.startswith(b"dst 192.0.2.2 ")]
            equal((len(spis), len(set(spis))), (MANY, MANY), "those that stay, and different ones")
            reads += 1
            true(other.is_alive() or done, "the other has failed")
        other.join()


if __name__ == "__main__":
    ktap.main([
        requests_are_counted, spis_are_counted, packets_are_counted, old_addresses_are_listed,
        command_shows_them, only_the_administrator_sees_addresses,
        an_open_list_is_of_its_namespace, lists_are_read_while_sas_come_and_go], handlers=(RUST,))

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Migrations at both ends of a flooded SA, and somebody else who is after it.

What counts is what is left: no SA that nobody added or that somebody deleted,
all that nobody deleted, none that is stuck; and a kernel that has nothing to say.
SECONDS=N in the environment: that long each of them.
"""

import os
import signal
import socket
import struct
import subprocess
import time

from lib import handler, ktap, race, xfrm
from lib.flood import ESN, PORT, Flood, on_cpu
from lib.handler import BRIEF, RUST, SOAK
from lib.hosts import V4, selector
from lib.ktap import equal, only, true
from lib.netlink import CREATE, DUMP, EXCL
from lib.netns import Netns
from lib.race import LOST, SECONDS, add, are_there, delete, move
from lib.xfrm import limits
from migrate_scale import send_all

TRANSPORT = xfrm.SA(*V4, 0x1000, flags=xfrm.FLAG_ESN)
TUNNEL = TRANSPORT.but(mode=xfrm.TUNNEL)
# So many processes at each end replace the same SAs.
MOVERS = 4 if SOAK else 2
# It keeps an SA of IPIP beside it.
IPCOMP = xfrm.SA(*V4, 0x77, proto=xfrm.COMP, mode=xfrm.TUNNEL, attrs=dict([xfrm.comp()]))


class Race(race.Requesters):
    """The flood, movers at each end, and the processes that disturb them."""

    def __init__(self, sa=TRANSPORT):
        super().__init__()
        two = self.enter_context(Flood(sa, window=ESN if sa.flags & xfrm.FLAG_ESN else ({}, {})))
        self.a, self.b = two.a, two.b
        self.sas = {two.a: [two.out, two.other.in_], two.b: [two.in_, two.other.out]}
        self.senders = [self.run(way.a, n, "send", *way.talk, PORT)
                        for n, way in enumerate((two, two.other))]
        self.acquired = self.a.listen(xfrm.GROUP_ACQUIRE)
        for n in range(MOVERS):
            self.each(lambda sa: [move(sa)], f"mover {n}")

    def each(self, requests, name="other"):
        """A process at each end that sends requests(SA) over and over again."""
        for end, (host, sas) in zip("AB", self.sas.items()):
            self.request(f"{name} {end}", host, *(r for sa in sas for r in requests(sa)))

    def stop(self, allowed=LOST):
        for sender in self.senders:
            Flood.end(sender)
        return super().stop(allowed)

    def clean(self):
        race.clean(self.a, self.b)

    def nothing_happened(self):
        """Nobody has deleted the SAs, and nobody has missed them."""
        equal(len(self.acquired.pending()), 0, "acquires")
        for host, sas in self.sas.items():
            are_there(host, *sas)


def affordable(kinds):
    """Where time is short the last one is enough."""
    return kinds[-1:] if BRIEF else kinds


def disturbed(requests, *kinds):
    """Runs races in which each host's SA is disturbed by requests(sa)."""
    for sa in affordable(kinds):
        with Race(sa) as two:
            two.each(requests)
            two.go()
            two.stop()
            two.clean()


@only(RUST)
def against_delete_and_add():
    disturbed(lambda sa: [delete(sa), add(sa)], TRANSPORT, TUNNEL, IPCOMP)


@only(RUST)
def against_flush_and_add():
    disturbed(lambda sa: [race.flush(), add(sa)], TRANSPORT, IPCOMP, TUNNEL)


@only(RUST)
def against_flush_by_pf_key():
    """SADB_FLUSH of all types, from a socket of the other family."""
    with Race() as two:
        with two.b.inside():
            try:
                key = socket.socket(15, socket.SOCK_RAW, 2)
            except OSError as why:
                raise ktap.Skip(f"no PF_KEY: {why.strerror}") from why
        two.request("other", two.b, *map(add, two.sas[two.b]))
        two.go(0)
        end, flushes = time.monotonic() + SECONDS, 0
        with key:
            key.setblocking(False)
            while flushes <= 10 or time.monotonic() < end:
                key.send(struct.pack("=BBBBHHII", 2, 9, 0, 0, 2, 0, flushes, os.getpid()))
                flushes += 1
        two.stop()
        two.clean()


@only(RUST)
def against_a_module_that_flushes():
    """xfrm6_tunnel deletes all SAs when it goes, without the lock that requests hold."""
    def modprobe(*words):
        return subprocess.run(["modprobe", "-q", *words], check=False).returncode == 0
    if not modprobe("xfrm6_tunnel") or not os.path.exists("/sys/module/xfrm6_tunnel/initstate"):
        raise ktap.Skip("xfrm6_tunnel is no module here")
    # These use it; and have gone when the collector has had their SAs.
    for user in "ipcomp6", "xfrm_interface", "xfrm6_tunnel":
        ktap.wait(lambda user=user: modprobe("-r", user), f"{user} is unloaded", 20)
    with Netns() as ns, race.Requesters() as requesters:
        # One process on each CPU, each with nothing else to do.
        sa = TRANSPORT.but(flags=0)
        requesters.request("mover", ns, move(sa))
        requesters.go(0)
        end, times = time.monotonic() + SECONDS, 0
        with on_cpu(1):
            while times < 5 or time.monotonic() < end:
                # Not meanwhile: the kernel revives an SA that is flushed while it is added.
                ns.xfrm.new(sa)
                true(modprobe("xfrm6_tunnel"), "it is loaded")
                handler.rmmod("xfrm6_tunnel")
                times += 1
        print(f"# {times} times")
        requesters.stop()
        race.clean(ns)


def expiring(lft, *kinds):
    """Runs races in which SAs with these limits are added whenever they have
    expired again; which they do at any point of a migration."""
    for sa in affordable(kinds):
        with Race(sa) as two:
            hear = [host.listen(xfrm.GROUP_EXPIRE) for host in two.sas]
            two.a.xfrm.flush()
            two.b.xfrm.flush()
            two.each(lambda sa: [add(sa.but(lft=lft))])
            for nl in hear:
                # The flag behind the SA: that it was a hard limit.
                ktap.wait(lambda nl=nl: any(m.body[xfrm.INFO_SIZE] for m in nl.pending()),
                          "an SA expires")
                nl.close()
            two.go()
            two.stop()
            two.clean()


@only(RUST)
def against_a_limit_of_packets():
    expiring(limits(soft_packets=5, hard_packets=20), TRANSPORT)


@only(RUST)
def against_a_limit_of_bytes():
    expiring(limits(soft_bytes=5000, hard_bytes=20000), TUNNEL)


@only(RUST)
def against_limits_of_time():
    """Of many SAs the time ends one after the other; each is being migrated
    then. That is told once, and those with a hard limit are gone."""
    hard, soft = limits(hard_add=3), limits(soft_add=3)
    with Netns() as ns:
        nl, hear = ns.xfrm, ns.listen(xfrm.GROUP_EXPIRE)
        for lft in [hard, soft] * max(1, int(SECONDS / 4)):
            sas = [TRANSPORT.but(spi=n, lft=lft, flags=0) for n in range(1, 41)]
            for sa in sas:
                nl.new(sa)
                # That much time is there for each in the end, too.
                for _ in range(5):
                    equal(nl.migrate(xfrm.migrate(sa)).errno, 0, "answer")
            told, moves, deadline = [], 0, time.monotonic() + 60
            for sa in sas:
                while sa.spi not in told:
                    true(time.monotonic() < deadline, f"no expiry of {sa} is told")
                    moves += not nl.migrate(xfrm.migrate(sa)).errno
                    told += [int.from_bytes(m.body[72:76], "big") for m in hear.pending()]
            print(f"# {moves} migrations while {len(sas)} SAs expired")
            equal(sorted(told), [sa.spi for sa in sas], "SPIs of the expiries told")
            left = [sa for sa in sas if not nl.delete(sa).errno]
            equal(left, [] if lft == hard else sas, "SAs left")
        equal(nl.count(), 0, "SAs in the end")


def harmless(requests, *kinds):
    """Runs races in which nobody deletes anything, and nobody is told of a failure."""
    for sa in affordable(kinds):
        with Race(sa) as two:
            two.each(requests)
            two.go()
            two.stop(set())
            two.nothing_happened()
            two.clean()


@only(RUST)
def against_update_and_new_counters():
    harmless(lambda sa: [race.update(sa), race.count(sa)], TRANSPORT, TUNNEL)


@only(RUST)
def against_counters_at_their_end():
    """No byte more can be counted: the SA expires, whichever a packet finds."""
    disturbed(lambda sa: [race.count(sa, octets=xfrm.INF), move(sa), delete(sa), add(sa)],
              TRANSPORT)


@only(RUST)
def against_dumps_and_growing_tables():
    """All are listed meanwhile, and more and more are added: the hash tables are resized."""
    more = TRANSPORT.but(flags=0)
    with Race() as two:
        two.go(0)
        end, count = time.monotonic() + SECONDS, 0
        while not count or time.monotonic() < end:
            for host in two.sas:
                send_all(host.xfrm, xfrm.NEWSA, more.pack(), {72: 0x10000},
                         range(count, count + 200), CREATE | EXCL)
                host.xfrm.must(xfrm.GETSA, b"", DUMP)
            count += 200
        print(f"# {count} SAs each")
        two.stop(set())
        for host, sas in two.sas.items():
            are_there(host, *sas, *(more.but(spi=0x10000 + n) for n in range(count)))
        two.clean()


@only(RUST)
def against_policies():
    """Traffic has a policy for it, or none, or another one."""
    def policies(sa):
        direction = {b"\1": xfrm.POLICY_IN, b"\2": xfrm.POLICY_OUT}[sa.attrs["SA_DIR"]]
        return race.policies(direction, selector(xfrm.AF_INET), sa,
                             zero=sa.mode == xfrm.TRANSPORT)
    harmless(policies, TRANSPORT, TUNNEL)


@only(RUST)
def against_the_end_of_the_namespaces():
    """They end with replaced SAs in them, and with packets under way."""
    for _ in range(max(1, int(SECONDS))):
        for sa in affordable((IPCOMP, TUNNEL, TRANSPORT)):
            with Race(sa) as two:
                two.go(.1)
                two.stop(set())


@only(RUST)
def against_unloading():
    """The C handler and ours take turns."""
    with Race() as two:
        for _ in affordable(range(1 + int(SECONDS))):
            time.sleep(.2)
            handler.rmmod(handler.NAME)
            time.sleep(.2)
            handler.insmod(handler.KO)
        two.stop()
        two.clean()
    equal(handler.refcount(), 0, "reference count")


@only(RUST)
def books_are_in_order():
    """Of many SAs that move all the time, exactly those are left that nobody
    has deleted and whose time has not come; there, where they were moved to."""
    def some(first, **changes):
        return [two.sas[two.a][0].but(spi=first + n, **changes) for n in range(20)]

    with Race() as two:
        stay, go = some(0x2000), some(0x3000)
        expire = some(0x4000, lft=limits(hard_add=1))
        for sa in stay + go + expire:
            two.a.xfrm.new(sa)
        there = "192.0.2.77"
        two.request("stay", two.a, *(r for sa in stay for r in (
            move(sa, there), move(sa.but(dst=there), sa.dst))))
        two.request("go", two.a, *map(move, go + expire))
        two.go(SECONDS / 2)
        deleted = two.request("delete", two.a, *map(delete, go), times=1)
        deleted.wait(timeout=60)
        with two.a.inside(), xfrm.Xfrm() as look:
            true(not any(look.get(sa) for sa in go), "deleted SAs are back")
        ktap.wait(lambda: two.a.xfrm.count() == 2 + len(stay), "the time of some is over")
        time.sleep(SECONDS / 2)
        results = two.stop()
        equal((results["stay"].told, results["delete"].told), ({}, {}), "failures")
        are_there(two.a, *two.sas[two.a], *stay)
        two.clean()


@only(RUST)
def hit_by_signals():
    """A requester that is, all the time: it is told nothing of that."""
    with Race() as two:
        two.go(0)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for process in two.processes.values():
                process.send_signal(signal.SIGALRM)
        two.stop(set())
        two.nothing_happened()
        two.clean()


@only(RUST)
def killed_in_the_middle():
    """Requesters die at any point of a request; the SA doesn't mind."""
    with Race() as two:
        end, kills = time.monotonic() + SECONDS, 0
        while kills < 5 or time.monotonic() < end:
            victim = two.request("victim", two.a, *map(move, two.sas[two.a]))
            ktap.wait(lambda: race.has_begun(victim), "a victim")
            time.sleep(kills % 7 / 1000)
            victim.kill()
            victim.communicate()
            del two.processes["victim"]
            kills += 1
        print(f"# {kills} killed")
        two.stop(set())
        two.nothing_happened()
        two.clean()
    equal(handler.refcount(), 0, "reference count")


if __name__ == "__main__":
    ktap.main([against_delete_and_add, against_flush_and_add, against_flush_by_pf_key,
               against_a_module_that_flushes, against_a_limit_of_packets,
               against_a_limit_of_bytes, against_limits_of_time,
               against_update_and_new_counters, against_counters_at_their_end,
               against_dumps_and_growing_tables, against_policies,
               against_the_end_of_the_namespaces, against_unloading,
               books_are_in_order, hit_by_signals, killed_in_the_middle])

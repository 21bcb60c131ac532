#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What replaced SAs cost others: memory, and time when namespaces end. And that they
don't tell of themselves.

MOVES=N and NAMESPACES=N in the environment: so often an SA is moved, and so many
namespaces end.
"""

import math
import os
import re
import resource
import socket
import struct
import time
from pathlib import Path

from lib import handler, ktap, netns, xfrm
from lib.child import in_child
from lib.handler import BRIEF, C, DEBUG, RUST, SOAK
from lib.hosts import INNER, PORT
from lib.ktap import equal, only, true
from lib.netlink import REQUEST, Message, parse_attrs
from lib.netns import Netns
from lib.race import SECONDS
from lib.xfrm import A, SA, Selector, migrate, u32
from migrate_races import TRANSPORT, Race
from migrate_waiting import TRIES, Waiting, move_often, uncork

MOVES = int(os.environ.get("MOVES", 500 if BRIEF else 100000 if SOAK else 4000))
FRAGMENTS = 200 if DEBUG else 2000
NAMESPACES = int(os.environ.get("NAMESPACES", 10 if DEBUG else 100))
ONE = SA("192.0.2.1", "192.0.2.2", 1)
# SAs that may wait for RCU and the kernel's collector, and that the allocator has in stock.
UNDER_WAY, IN_STOCK = 2000, 500
MORE_FRAGMENTS = 0x2000


def states():
    """How many SAs are in memory, as the allocator counts them."""
    objects = Path("/sys/kernel/slab/xfrm_state/objects")
    if not objects.exists():
        raise ktap.Skip("no SLUB_DEBUG")
    return int(objects.read_text().split()[0])


def most_at_a_time():
    """A packet waits on the first of many SAs that replace each other, and some on later ones."""
    with Waiting(None) as two:
        before, most, corked = states(), 0, []
        for n in range(0, MOVES, 100):
            if n % (MOVES // 10) == 0:
                corked.append(two.cork(n))
            move_often(two.a.xfrm, two.out, 100)
            most = max(most, states() - before)
        for s in corked:
            uncork(s)
        # KASAN keeps for long what has been freed.
        ktap.wait(lambda: DEBUG or states() - before < IN_STOCK, "they are given back", 10)
    print(f"# {MOVES} moves, {len(corked)} packets: up to {most} SAs")
    return most


@only(RUST)
def memory_is_flat():
    """In the best of some attempts: RCU takes its time if the host does something else."""
    true(any(most_at_a_time() < UNDER_WAY or DEBUG for _ in range(TRIES)), "it isn't")


def fragment(number):
    """The first one of a datagram, with some of it."""
    src, dst = (socket.inet_aton(address) for address in INNER[xfrm.AF_INET])
    # The kernel adds length and checksum.
    return (struct.pack("!BxxxHHBBxx", 0x45, number, MORE_FRAGMENTS, 64, xfrm.UDP) + src + dst
            + struct.pack("!HHHH", PORT, PORT, 2000, 0) + bytes(64))


def waiting_fragments(ns):
    """How many wait to be put together."""
    with ns.inside(), open("/proc/thread-self/net/sockstat") as f:
        return int(re.search(r"^FRAG: inuse (\d+)", f.read(), re.M)[1])


def fragments_keep_no_more_than_theirs():
    """Each was received by an SA that has been replaced since, and waits for what never comes:
    the memory of that SA stays, and of no other one."""
    before = states()
    with Waiting(None) as two:
        # Room, and time.
        for name, value in ("high_thresh", 1 << 26), ("time", 600):
            two.b.sysctl(f"ipv4/ipfrag_{name}", value)
        to = INNER[xfrm.AF_INET][1]
        two.a.xfrm.policy(xfrm.POLICY_OUT, Selector(to, plen_d=32, family=xfrm.AF_INET), two.out)
        sender = two.a.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        for number in range(1, FRAGMENTS + 1):
            sender.sendto(fragment(number), (to, 0))
            move_often(two.b.xfrm, two.in_, 1)
        waiting = waiting_fragments(two.b)
        move_often(two.b.xfrm, two.in_, MOVES)
        print(f"# {waiting} fragments wait: {states() - before} SAs after {MOVES} more moves")
        true(waiting > FRAGMENTS / 2, "few fragments wait")
        ktap.wait(lambda: DEBUG or states() - before < waiting + IN_STOCK, "others are given back",
                  10, ktap.Failed)
        true(states() - before > waiting - IN_STOCK, "their SAs have gone")
    ktap.wait(lambda: DEBUG or states() - before < IN_STOCK, "they are given back", 10, ktap.Failed)


def ending():
    """Makes namespaces in which an SA has just been moved: how long they take to end."""
    limit = Path("/proc/sys/user/max_net_namespaces")
    move = Message(xfrm.MIGRATE_STATE, REQUEST, 0, 0, migrate(ONE).pack()).pack()
    spaces = [Netns() for _ in range(NAMESPACES)]
    for ns in spaces:
        ns.xfrm.new(ONE)
    for ns in spaces:
        ns.xfrm.send(move)
    start = time.monotonic()
    for ns in spaces:
        ns.cleanup.close()
    # Another one may be made when there is ours only.
    limit.write_text("2")
    ktap.wait(lambda: not handler.libc.unshare(netns.CLONE_NEWNET), "they have ended")
    return time.monotonic() - start


@only(RUST)
def namespaces_end_as_fast():
    """As with the C handler, which deletes the SA that it moves; in the best of some
    attempts. Half a second may be the host's."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * NAMESPACES + 1000,) * 2)
    took = {C: math.inf, RUST: math.inf}
    for _ in range(TRIES):
        for name in took:
            handler.use(name)
            took[name] = min(took[name], in_child(ending, 0))
        slow = took[RUST] > 1.2 * took[C] + 0.5
        if not slow:
            break
    print("# " + ", ".join(f"{name}: {seconds:.2f} s" for name, seconds in took.items()))
    true(not slow, f"{NAMESPACES} namespaces end too slowly")


def told(m):
    """What an XFRM_MSG_NEWAE says: (which SA, bytes, packets, last number, highest number)."""
    attrs = dict(parse_attrs(m.body[48:]))
    _, oseq, seq, oseq_hi, seq_hi, _ = struct.unpack_from("=6I", attrs[A["REPLAY_ESN_VAL"]])
    octets, packets, _, _ = struct.unpack("=4Q", attrs[A["LTIME_VAL"]])
    return m.body[16:20], (octets, packets, oseq_hi << 32 | oseq, seq_hi << 32 | seq)


@only(RUST)
def events_never_go_back():
    """Timers tell of an SA each 100 ms, maybe while it is replaced, on another CPU."""
    timed = TRANSPORT.but({"ETIMER_THRESH": u32(1), "REPLAY_THRESH": u32(0)})
    with Race(timed) as two:
        hear = {host: host.listen(xfrm.GROUP_AEVENTS) for host in two.sas}
        two.go(4 * SECONDS)
        two.stop(set())
        for host, nl in hear.items():
            last = {}
            events = [told(m) for m in nl.pending() if m.kind == xfrm.NEWAE]
            for spi, now in events:
                before = last.setdefault(spi, now)
                true(all(old <= new for old, new in zip(before, now)),
                     f"SA {spi.hex()}: (bytes, packets, numbers) go from {before} to {now}")
                last[spi] = now
            print(f"# {len(events)} events of {len(last)} SAs")
            equal(len(last), 2, "SAs that events tell of")
        two.clean()


if __name__ == "__main__":
    ktap.main([memory_is_flat, fragments_keep_no_more_than_theirs, events_never_go_back]
              + [namespaces_end_as_fast] * (not BRIEF))

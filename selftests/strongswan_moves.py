#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""An IKE daemon moves its SAs by XFRM_MSG_MIGRATE_STATE when a host's address changes.

MOBIKE, by strongSwan as Debian packages it: 6.1.0 uses the message by itself, 6.0.1
deletes SAs and adds them again. SOAK=1 in the environment: the long list.
"""

import contextlib
import functools
import re
import socket
import struct
import subprocess
import time

from lib import ike, ktap, xfrm
from lib.handler import C, RUST, SOAK, chosen, mended
from lib.hosts import V4, V4_MOVED, V6, Hosts
from lib.ike import BEST, MIGRATES, PATIENCE, PLAIN, Child, Daemon, Traffic, address, esp, prefers
from lib.ktap import defect, equal, only, true
from lib.xfrm import addr

start = functools.partial(Child, start=True)
GCM = start()
# Without netfilter: what comes out of the SA has the mark that the policy asks for.
MARKS = "mark_out = 42\nmark_in = 42\nset_mark_in = 42"
KINDS = [
    GCM,
    start("cbc", 2, "aes128-sha256"),
    start("chacha20", 3, "chacha20poly1305"),
    start("window", 4, "aes128gcm16", "replay_window = 2048"),
    start("marks", 5, "aes128gcm16", MARKS, mark=42),
    start("transport", 0, "aes128gcm16", "mode = transport"),
    start("ipcomp", 7, "aes128gcm16", "ipcomp = yes"),
    start("device", 8, "aes128gcm16", if_id=43),
]
# Long enough to be compressed.
DATAGRAM = b"datagram" * 25
CTR = start("ctr", 6, "aes128ctr-sha256")
# What else than the addresses may change: the selector and the reqid of transport mode, what
# packets change, and what 6.0.1 doesn't restore.
MOVED = {"daddr", "saddr"}
OF_TRANSPORT = {"sel.daddr", "sel.saddr", "sel.family", "sel.prefixlen_d", "sel.prefixlen_s", "reqid"}
OF_FAMILY = {"family"}
OF_NAT = {"ENCAP"}
OF_PACKETS = {"cur.packets", "cur.bytes", "cur.use_time", "REPLAY_VAL", "REPLAY_ESN_VAL", "LASTUSED"}
NOT_RESTORED = {"LASTUSED"}


def by_spi(ns):
    return {sa["spi"]: sa for sa in esp(ns)}


def between(sas):
    """The pairs of addresses that they are between."""
    return {frozenset((sa["saddr"], sa["daddr"])) for sa in sas}


def numbers(sa):
    """(last number sent, highest received)."""
    if "REPLAY_ESN_VAL" in sa:
        _, oseq, seq, oseq_hi, seq_hi, _ = struct.unpack_from("=6I", sa["REPLAY_ESN_VAL"])
        return oseq_hi << 32 | oseq, seq_hi << 32 | seq
    return struct.unpack("=III", sa["REPLAY_VAL"])[:2]


def counters(sa):
    return sa["cur.packets"], sa["cur.bytes"]


class Tunnels(contextlib.ExitStack):
    """Two hosts with a daemon each, of these roots, and these CHILD_SAs."""

    def __init__(self, roots, children, connection="", ipv6=False, more="", hosts=Hosts):
        super().__init__()
        for root in roots:
            ike.need(root)
        self.children = children
        self.two = self.enter_context(ike.connected(ipv6, hosts=hosts))
        self.sides = self.two.a, self.two.b
        self.ends = list(V4)
        for side, ns in enumerate(self.sides):
            ns.address("lo", *(f"{c.end(side)}/32" for c in children if c.number > 1))
            ns.route(f"10.{2 - side}.0.0/24", dev="v")
            for c in children:
                if c.if_id:
                    run(ns, "ip", "link", "add", c.name, "up", "type", "xfrm", "if_id", c.if_id)
                    ns.route(f"{c.end(1 - side)}/32", dev=c.name)
        self.forced = "encap = yes" in connection
        self.sas = sum(c.sas() for c in children)
        # Who answers comes first.
        self.daemons = [self.enter_context(
            Daemon(self.sides[side], side, roots[side], more, connection, children))
            for side in (1, 0)][::-1]
        ktap.wait(lambda: all(len(esp(ns)) == self.sas for ns in self.sides),
                  "the CHILD_SAs", PATIENCE)
        print("# strongSwan", " and ".join(d.version() for d in self.daemons))
        self.counters = [ns.counters() for ns in self.sides]

    def talk(self, children=None, seconds=PATIENCE):
        """A datagram arrives at either end of each."""
        for child in children or self.children:
            ends = [(child.end(side) if child.number else self.ends[side], child.PORT)
                    for side in (0, 1)]
            with contextlib.ExitStack() as stack:
                sockets = [stack.enter_context(ns.udp(*end)) for ns, end in zip(self.sides, ends)]
                for s in sockets:
                    s.settimeout(0.5)
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, child.mark)
                for n in (0, 1):
                    what = f"{child.name}, from {'ab'[n]}"
                    ktap.wait(lambda n=n, s=sockets, e=ends: arrives(s[n], s[1 - n], e[1 - n]),
                              f"a datagram through {what}", seconds, ktap.Failed)

    def move(self, change, to, seen=None):
        """All SAs move to these addresses, by a change of a host's. seen: as B sees them, if
        a NAT is between: then ESP is in UDP."""
        logs = [len(d.log()) for d in self.daemons]
        before = [by_spi(ns) for ns in self.sides]
        with contextlib.ExitStack() as stack:
            hear = [stack.enter_context(ns.listen(xfrm.GROUP_SA, xfrm.GROUP_MIGRATE)) for ns in self.sides]
            change()
            self.ends = to
            for ns, ends in zip(self.sides, (to, seen or to)):
                ktap.wait(lambda ns=ns, ends=ends: self.there(ns, ends, seen is not None),
                          "all SAs have the new address", PATIENCE)
            for daemon, ns, log, old, heard in zip(self.daemons, self.sides, logs, before, hear):
                self._check(daemon, to, old, by_spi(ns), daemon.log(log), [m.kind for m in heard.pending()])

    def there(self, ns, ends, natted):
        """Whether all SAs are between these."""
        sas = esp(ns)
        return (len(sas) == self.sas and between(sas) == {frozenset(map(addr, ends))}
                and (self.forced or {"ENCAP" in sa for sa in sas if sa["proto"] == xfrm.ESP} == {natted}))

    @staticmethod
    def _check(daemon, to, before, after, log, told):
        who = f"{'ab'[daemon.side]} ({daemon.version()})"
        equal(sorted(after), sorted(before), f"SPIs at {who}")
        migrated = {int(n, 16) for n in re.findall(r"migrating SAD entry with SPI (\w{8})", log)}
        if daemon.root == MIGRATES:
            # Of a NAT it may hear when it has moved already.
            nat = any(("ENCAP" in old) != ("ENCAP" in after[spi]) for spi, old in before.items())
            equal(told, [xfrm.MIGRATE_STATE] * len(before) * (1 + (nat and len(told) > len(before))),
                  f"what the kernel of {who} tells")
            equal(migrated, set(before), f"SPIs that {who} migrates")
            for bad in ("updating SAD entry", "unable to", "failed"):
                true(bad not in log, f"{who} falls back:\n{log}")
        else:
            equal(migrated, set(), f"SPIs that {who} migrates")
            true({xfrm.DELSA, xfrm.NEWSA} <= set(told), f"the kernel of {who} tells {told}")
        for number, old in before.items():
            new = after[number]
            for count in numbers, counters:
                true(all(n >= o for n, o in zip(count(new), count(old))),
                     f"{who}, SPI {number:#x}: {count.__name__} {count(old)}, then {count(new)}")
            allowed = (MOVED | (OF_TRANSPORT if old["mode"] == xfrm.TRANSPORT else set())
                       | (OF_FAMILY if old["family"] != xfrm.family(to[0]) else set())
                       | (OF_NAT if ("ENCAP" in old) != ("ENCAP" in new) else set())
                       | (OF_PACKETS if numbers(new) != numbers(old) else set())
                       | (NOT_RESTORED if daemon.root == PLAIN else set()))
            equal(set(xfrm.changes(old, new)) - allowed, set(), f"changes of SPI {number:#x} at {who}")

    def nothing_refused(self):
        """No packet was taken for a forged or repeated one."""
        for ns, old in zip(self.sides, self.counters):
            changes = xfrm.changes(old, ns.counters())
            equal({name for name in changes if "Seq" in name or "Proto" in name}, set(), "what B and A count")

    def rekey(self, child):
        """New SAs; the old ones are deleted where they are now."""
        old = set(by_spi(self.two.a))
        self.daemons[0]("--rekey", "--child", child.name)
        for ns in self.sides:
            ktap.wait(lambda ns=ns: len(esp(ns)) == len(old) and len(set(by_spi(ns)) - old) == 2,
                      "two SAs are replaced", PATIENCE)


def run(ns, *words):
    with ns.inside():
        subprocess.run([str(w) for w in words], check=True)


def arrives(sender, receiver, end):
    with contextlib.suppress(OSError):      # no SA, or nothing yet
        sender.sendto(DATAGRAM, end)
        return receiver.recv(len(DATAGRAM))
    return None


def goes(ns, *texts):
    return lambda: [address(ns, "delete", text) for text in texts]


def comes(ns, new, *old):
    """The way back: without the old one the daemon has a reason."""
    def change():
        address(ns, "add", new)
        goes(ns, *old)()
    return change


def leaves(t):
    """A's first address goes."""
    t.move(goes(t.two.a, V4[0]), [V4_MOVED[0], V4[1]])


def returns(t):
    """It is there again, and the other one goes."""
    t.move(comes(t.two.a, V4[0], V4_MOVED[0]), list(V4))


def there_and_back(roots, children, connection=""):
    with Tunnels(roots, children, connection) as t:
        t.talk()
        with Traffic(t.two) as there, Traffic(t.two.back()) as back:
            there.flows("before")
            back.flows("before")
            leaves(t)
            there.flows("after")
            back.flows("after")
        there.lost("to the peer")
        back.lost("from the peer")
        t.talk()
        t.rekey(GCM)
        t.talk([GCM])
        returns(t)
        t.talk()
        t.nothing_refused()


def both_migrate():
    # Without an IV generator CTR needs luck, or a peer that lacks it as well.
    there_and_back((MIGRATES, MIGRATES), KINDS + [CTR] * mended())


def beside_an_older_daemon():
    with Tunnels((MIGRATES, PLAIN), KINDS) as t:
        t.talk()
        leaves(t)
        t.talk()
        t.nothing_refused()


@defect(2)
def ctr_beside_an_older_daemon():
    with Tunnels((MIGRATES, PLAIN), [CTR]) as t:
        t.talk()
        leaves(t)
        t.talk(seconds=5)


# --- The long list ---------------------------------------------------------

def there_and_back_beside_an_older_daemon():
    there_and_back((MIGRATES, PLAIN), KINDS)


def moves(roots, count):
    """A prefers one address, then the other one, and both stay up: counts of what is lost.
    Prints them as a row of docs/strongswan.md."""
    with Tunnels(roots, [GCM], more=BEST) as t:
        t.talk()
        ns = t.two.a, t.two.b
        before = [side.counters() for side in ns]
        with Traffic(t.two) as there, Traffic(t.two.back()) as back:
            for n in range(count):
                new = (V4, V4_MOVED)[(n + 1) % 2][0]
                t.move(lambda new=new: prefers(t.two.a, new), [new, V4[1]])
                there.flows("to the peer")
                back.flows("from the peer")
        a, b = ({name: now - old[name] for name, now in side.counters().items() if now != old[name]}
                for side, old in zip(ns, before))
        lost = [way.sent - len(way.got) - way.refused for way in (there, back)]
        version = t.daemons[0].version()
    none = a.pop("XfrmInNoStates", 0)
    others = [", ".join(f"{name} {n}" for name, n in of.items()) or "none" for of in (a, b)]
    cells = (version, chosen(), f"{there.sent} + {back.sent}", f"{there.refused} + {back.refused}",
             *lost, none, *others)
    print("#", *(f"| {cell}" for cell in cells), "|")
    return lost, none, a, b


def only_policies_lack(roots, count):
    """What is lost beside the packets that find no SA the daemon has no policies for, for a moment."""
    (to, back), none, a, b = moves(roots, count)
    true(back <= none + sum(a.values()) and to <= sum(b.values()), f"what is lost is counted: {a}, {b}")
    return none


@only(RUST)
def old_address_stays_up():
    """What B sends there before it has heard of a move finds an SA, by ours."""
    equal(only_policies_lack((MIGRATES, MIGRATES), 3), 0, "packets that find no SA")


def ten_moves():
    none = only_policies_lack((MIGRATES, MIGRATES), 10)
    equal(none == 0, chosen() == RUST, f"{none} packets that find no SA")


@only(C)
def ten_moves_of_an_older_daemon():
    only_policies_lack((PLAIN, PLAIN), 10)


def older_daemon_moves():
    there_and_back((PLAIN, MIGRATES), KINDS)


def encapsulation_is_forced():
    there_and_back((MIGRATES, MIGRATES), KINDS, "encap = yes")


def another_family():
    with Tunnels((MIGRATES, MIGRATES), KINDS, ipv6=True) as t:
        t.talk()
        t.move(goes(t.two.a, V4_MOVED[0], V4[0]), list(V6))
        # With its last address a device loses its routes.
        t.two.a.route("10.2.0.0/24", dev="v")
        t.talk()
        t.move(comes(t.two.a, V4[0], V6[0]), list(V4))
        t.talk()
        t.nothing_refused()


def peer_moves_too():
    """First the one that began, then the one that answered."""
    with Tunnels((MIGRATES, MIGRATES), KINDS) as t:
        t.talk()
        leaves(t)
        t.move(comes(t.two.b, V4_MOVED[1], V4[1]), list(V4_MOVED))
        t.talk()
        t.nothing_refused()


BEHIND, MAC = "192.0.2.5", "02:00:00:00:00:01"


def nat_comes_and_goes():
    """One of A's addresses is behind a NAT, which B sees another address of."""
    kinds = [child for child in KINDS if child.number]
    with Tunnels((MIGRATES, MIGRATES), kinds, more=BEST) as t:
        a, b = t.sides
        run(a, "ip", "link", "set", "v", "address", MAC)
        b.neighbours("v", BEHIND, *(V4[0], V4_MOVED[0]), lladdr=bytes.fromhex(MAC.replace(":", "")))
        run(a, "tc", "qdisc", "add", "dev", "v", "clsact")
        for way, old, new in ("egress", V4_MOVED[0], BEHIND), ("ingress", BEHIND, V4_MOVED[0]):
            run(a, "tc", "filter", "add", "dev", "v", way, "protocol", "ip", "matchall",
                "action", "nat", way, f"{old}/32", new)
        t.talk()
        for _ in range(2):
            t.move(lambda: prefers(a, V4_MOVED[0]), [V4_MOVED[0], V4[1]], [BEHIND, V4[1]])
            t.talk()
            t.move(lambda: prefers(a, V4[0]), list(V4))
            t.talk()
        t.nothing_refused()


def peer_is_watched():
    """Dead peer detection finds the peer alive after a move."""
    with Tunnels((MIGRATES, MIGRATES), [GCM], "dpd_delay = 1s") as t:
        leaves(t)
        old, (a, _) = by_spi(t.two.a), t.daemons
        start = len(a.log())
        ktap.wait(lambda: len(re.findall("sending DPD request.*?parsed INFORMATIONAL response",
                                         a.log(start), re.S)) >= 2, "answers", PATIENCE)
        equal(set(by_spi(t.two.a)), set(old), "SPIs")
        t.talk()


def move_while_rekeying():
    """Old SAs wait for late packets when the new ones move; they are deleted where they are now."""
    with Tunnels((MIGRATES, MIGRATES), [GCM], more=BEST) as t:
        old = set(by_spi(t.two.a))
        t.daemons[0]("--rekey", "--child", GCM.name)
        ktap.wait(lambda: all(len(set(by_spi(ns)) - old) == 2 for ns in t.sides), "new SAs", PATIENCE)
        starts = [len(d.log()) for d in t.daemons]
        kept = [set(by_spi(ns)) & old for ns in t.sides]
        prefers(t.two.a, V4_MOVED[0])
        t.ends = [V4_MOVED[0], V4[1]]
        want = {frozenset(map(addr, t.ends))}
        for ns in t.sides:
            ktap.wait(lambda ns=ns: between(esp(ns)) == want and old.isdisjoint(by_spi(ns)),
                      "new SAs at the new address, no old ones", PATIENCE)
            equal(len(esp(ns)), 2, "SAs")
        for daemon, start, spis in zip(t.daemons, starts, kept):
            log = daemon.log(start)
            print("#", len(spis), "old SAs,", log.count("migrating SAD entry"), "migrated")
            true("unable to" not in log and "updating SAD entry" not in log, log)
        t.talk()
        t.nothing_refused()


def many(count=50):
    return [start(f"c{n}", n, "aes128gcm16") for n in range(1, count + 1)]


def fifty():
    with Tunnels((MIGRATES, MIGRATES), many()) as t:
        begin = time.monotonic()
        leaves(t)
        print(f"# moved after {time.monotonic() - begin:.1f} s")
        t.talk()
        returns(t)
        t.talk()
        t.nothing_refused()


def killed_in_mid_move():
    """Each SA is either here or there; another daemon begins anew."""
    with Tunnels((MIGRATES, MIGRATES), many()) as t:
        a, daemon = t.two.a, t.daemons[0]
        before = by_spi(a)
        hear = a.listen(xfrm.GROUP_MIGRATE)
        goes(a, V4[0])()
        for _ in range(10):
            hear.receive()
        daemon.kill()
        after = esp(a)
        equal(sorted(sa["spi"] for sa in after), sorted(before), "SPIs")
        moved = sum(addr(V4_MOVED[0]) in (sa["saddr"], sa["daddr"]) for sa in after)
        print(f"# killed after {moved} of {len(after)} SAs")
        true(10 <= moved < len(after), f"{moved} of {len(after)} SAs have been moved")
        for sa in after:
            changes = set(xfrm.changes(before[sa["spi"]], sa))
            true(changes <= MOVED, f"changes of an SA: {changes}")
        a.xfrm.flush()
        a.xfrm.must(xfrm.FLUSHPOLICY, b"")
        address(a, "add", V4[0])
        daemon.start()
        t.talk(many(3))


SHORT = [both_migrate, old_address_stays_up, beside_an_older_daemon, ctr_beside_an_older_daemon]
LONG = [there_and_back_beside_an_older_daemon, older_daemon_moves, encapsulation_is_forced,
        another_family, peer_moves_too, nat_comes_and_goes, peer_is_watched, move_while_rekeying,
        fifty, killed_in_mid_move, ten_moves, ten_moves_of_an_older_daemon]

if __name__ == "__main__":
    if not SOAK:
        only(RUST)(beside_an_older_daemon)
    ktap.main(SHORT + LONG * SOAK)

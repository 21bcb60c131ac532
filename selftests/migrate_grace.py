#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Packets that are sent to the address that an SA has left: net.xfrm_next.migrate_grace.

A sends to B. B's SA moves; A hears of it late, and goes on sending to the old address.
"""

import contextlib
import errno
import os
import socket
import struct
import subprocess
import tempfile
import time

from lib import bond, handler, ktap, xfrm
from lib.flood import ESN, Flood, Flow, settle
from lib.handler import C, DEBUG, RUST
from lib.hosts import PORT, V4, V4_MOVED, V6, V6_MOVED, Hosts, frames, selector
from lib.ktap import equal, only, true
from lib.netlink import CREATE, EXCL
from lib.xfrm import SA, migrate
from migrate_bounds import states
from migrate_scale import send_all
from migrate_traffic import has_iptfs

SPI = 0x1000
# XFRMNLGRP_MAPPING
MAPPING = 8
TUNNEL = SA(*V4, SPI, mode=xfrm.TUNNEL)
HMAC = dict([xfrm.auth()])
IN_UDP = {"ENCAP": xfrm.encap(4500, 4500)}
MANY = 5_000 if DEBUG else 50_000


def run(ns, *words):
    with ns.inside():
        subprocess.run(words, check=True)


class Moved(Hosts):
    """A and B, of whose SA B's end will move."""

    def __init__(self, sa=TUNNEL, inner=xfrm.AF_INET, grace=None, **more):
        super().__init__()
        if grace is not None:
            self.grace(grace)
        self.first = sa
        self.sa(sa, inner, **more)

    def grace(self, ms):
        self.b.sysctl("xfrm_next/migrate_grace", ms)

    def move(self, src, dst, **request):
        """B's SA moves to these addresses."""
        reply = self.b.xfrm.migrate(migrate(self.in_, dst=dst, src=src, **request))
        equal(reply.errno, 0, f"migration ({reply.text})")
        self.in_ = self.in_.but(src=src, dst=dst)

    def away(self, **request):
        """It moves to B's other address, of the same family."""
        if self.first.sel.plen_d:
            request["flags"] = xfrm.UPDATE_H2H_SEL
        self.move(self.first.src, (V6_MOVED if ":" in self.first.dst else V4_MOVED)[1], **request)

    def hear(self, dst=None):
        """A's SA follows, or goes to an address where B's was, and the policies."""
        ends = {"src": self.in_.src, "dst": dst or self.in_.dst}
        if self.first.sel.plen_d:
            ends["flags"] = xfrm.UPDATE_H2H_SEL
        reply = self.a.xfrm.migrate(migrate(self.out, **ends))
        equal(reply.errno, 0, f"migration ({reply.text})")
        self.out = self.out.but(src=self.in_.src, dst=ends["dst"])
        self.outer = self.out.src, self.out.dst
        if self.inner:
            self.policies(self.out, update=True)

    def arrives(self, count=5):
        """So many packets arrive, and are counted by the newest SA alone."""
        before = self.b.xfrm.get(self.in_)
        counters = self.b.counters()
        self.send(count)
        after = self.b.xfrm.get(self.in_)
        equal(after["cur.packets"] - before["cur.packets"], count, "packets that the newest counted")
        equal(xfrm.changes(counters, self.b.counters()), {}, "counters of B")

    def lost(self, count=3, payload=b"late" * 100):
        """So many packets don't arrive, and B says why."""
        before = self.b.counters()
        sender, receiver = self.sockets()
        with sender, receiver:
            receiver.settimeout(0.2)
            for _ in range(count):
                sender.send(payload)
            try:
                receiver.recv(65536)
                raise ktap.Failed("a packet has arrived")
            except TimeoutError:
                pass
        equal(xfrm.changes(before, self.b.counters()), {"XfrmInNoStates": count}, "counters of B")


def late(name, sa=TUNNEL, inner=xfrm.AF_INET, prepare=lambda two: None, **more):
    """A test: packets for the old address arrive; the C handler loses them."""
    def test():
        with Moved(sa, inner, **more) as two:
            prepare(two)
            two.send(3)
            two.away()
            if handler.chosen() == C:
                two.lost()
            else:
                two.arrives()
            two.hear()
            two.send(3)
    test.__name__ = name
    return test


def in_udp(two):
    two.encap_socket(4500)


def gro(two):
    """Packets come by GRO's code of ESP."""
    for ns in (two.a, two.b):
        true(bond.feature(ns, "v", "rx-gro", True), "GRO is on")


KINDS = [
    late("tunnel"),
    late("tunnel_of_ipv6", inner=xfrm.AF_INET6),
    late("ipv6_tunnel", SA(*V6, SPI, mode=xfrm.TUNNEL)),
    late("transport", SA(*V4, SPI)),
    late("host_to_host", SA(*V4, SPI, sel=xfrm.host(*V4[::-1]))),
    late("ipv6_transport", SA(*V6, SPI), xfrm.AF_INET6),
    late("beet", SA(*V4, SPI, mode=xfrm.BEET)),
    late("authentication_header", SA(*V4, SPI, proto=xfrm.AH, mode=xfrm.TUNNEL, attrs=HMAC)),
    late("udp_encapsulation", TUNNEL.but(IN_UDP), prepare=in_udp),
    late("extended_numbers", TUNNEL.but(flags=xfrm.FLAG_ESN), more_in=ESN[0], more_out=ESN[1]),
    late("upper_half_changes", TUNNEL.but(flags=xfrm.FLAG_ESN),
         more_in={"REPLAY_ESN_VAL": xfrm.esn(128, 4, seq=0xfffffffa)},
         more_out={"REPLAY_ESN_VAL": xfrm.esn(0, 0, oseq=0xfffffffa)}),
    late("by_gro", prepare=gro),
]


@only(RUST)
def requests_find_it_where_it_is():
    """The old tuple is free for all requests."""
    with Moved() as two:
        old = two.in_
        two.away()
        equal(two.b.xfrm.count(), 1, "SAs in a dump")
        for what, reply in (("GETSA", two.b.xfrm.request(xfrm.GETSA, old.ident())),
                            ("DELSA", two.b.xfrm.request(xfrm.DELSA, old.ident())),
                            ("MIGRATE_STATE", two.b.xfrm.migrate(migrate(old)))):
            equal(reply.errno, errno.ESRCH, what)
        two.arrives()


@only(RUST)
def a_newcomer_has_its_packets():
    """An SA at the old address gets what comes there; after it, nobody does."""
    with Moved() as two:
        old = two.in_
        two.away()
        two.arrives(2)
        two.b.xfrm.new(old)
        two.send(2)
        equal(two.b.xfrm.get(old)["cur.packets"], 2, "packets of the newcomer")
        two.b.xfrm.delete(old)
        two.lost()


@only(RUST)
def who_left_last_has_its_packets():
    """Also when several have been at one address, none of which received anything there."""
    with Moved(grace=60_000) as two:
        first, places = two.in_, [f"192.0.2.{n}" for n in range(20, 28)]
        two.b.address("v", *(f"{place}/24" for place in places))
        two.away()
        for place in places:
            two.in_ = two.b.xfrm.new(first)
            two.move(V4[0], place)
            two.arrives(1)
        two.b.xfrm.delete(two.in_)
        two.lost()


@only(RUST)
def chain():
    """What was sent to the first address, and to the second, arrives at the third."""
    with Moved() as two:
        two.b.address("v", "192.0.2.5/24", "192.0.2.6/24")
        for address in V4_MOVED[1], "192.0.2.5", "192.0.2.6":
            two.move(V4[0], address)
        two.arrives(2)
        for address in V4_MOVED[1], "192.0.2.5", "192.0.2.6":
            two.hear(address)
            two.arrives(2)


@only(RUST)
def back_and_forth():
    """It may move back to where it was."""
    with Moved() as two:
        two.away()
        two.arrives(2)
        two.move(*V4)
        two.arrives(2)
        two.away()
        two.arrives(2)


@only(RUST)
def to_another_family():
    with Moved() as two:
        two.move(*V6)
        two.policies(two.in_, update=True)
        two.outer = V4
        sa = two.out
        two.a.xfrm.policy(xfrm.POLICY_OUT, selector(2), sa, True, False)
        two.arrives()


@only(RUST)
def by_tunnel_devices():
    """IP-TFS by a vti device, to the family that has others: packets go on by theirs."""
    def modprobe(*words):
        return subprocess.run(["modprobe", "-qa", *words], check=False).returncode == 0
    vti = "ip_vti", "ip6_vti"
    if not has_iptfs() or not modprobe(*vti):
        raise ktap.Skip("no XFRM_IPTFS, or no vti devices")
    with contextlib.ExitStack() as after:
        # They need what other tests unload.
        after.callback(ktap.wait, lambda: modprobe("-r", *vti), "vti is unloaded", 20)
        two = after.enter_context(Moved(TUNNEL.but(mode=xfrm.IPTFS)))
        for kind, (src, dst) in ("vti", V4), ("vti6", V6):
            run(two.b, "ip", "link", "add", kind + "a", "type", kind, "local", dst, "remote", src)
            run(two.b, "ip", "link", "set", kind + "a", "up")
        # The device has checked policies before it takes their evidence away.
        two.b.sysctl("ipv4/conf/vtia/disable_policy", 1)

        def came():
            with two.b.inside(), open("/proc/thread-self/net/dev", encoding="ascii") as f:
                return next(int(line.split()[2]) for line in f if line.split()[0] == "vtia:")
        two.send(3)
        true(came() >= 3, "packets come by the device")
        two.move(*V6)
        before = came()
        two.outer = V4
        two.send(3)
        true(came() - before >= 3, "so do late ones")


@only(RUST)
def whatever_policies_say():
    """Templates with the old addresses, with the new ones, and with none."""
    with Moved() as two:
        two.away()
        two.arrives(2)
        for template, zero in (two.in_, False), (two.in_, True), (two.first, False):
            two.b.xfrm.policy(xfrm.POLICY_IN, selector(2), template, True, zero)
            two.arrives(2)


@only(RUST)
def marks_count():
    """An SA for packets with a mark isn't found by others."""
    def mark(two, value):
        run(two.b, "nft", f"add table ip t\ndelete table ip t\ntable ip t {{ chain c {{ type filter "
            f"hook prerouting priority 0\n ip protocol esp meta mark set {value}\n }}\n }}")
    with Moved(more_in={"MARK": xfrm.mark(7, 0xff)}) as two:
        mark(two, 7)
        two.send(2)
        two.move(V4[0], V4_MOVED[1], old_mark=(7, 0xff))
        two.send(2)
        mark(two, 6)
        two.lost()


@only(RUST)
def marks_change():
    """Who moves to other marks leaves packets with the mark that it had, and none with others."""
    with Moved() as two:
        for n, old in (7, (0, 0)), (8, (7, 0xff)), (9, (8, 0xff)):
            reply = two.b.xfrm.migrate(migrate(two.in_, old_mark=old,
                                               add=[("MARK", xfrm.mark(n, 0xff))]))
            equal(reply.errno, 0, f"migration ({reply.text})")
            two.in_ = two.in_.but({"MARK": xfrm.mark(n, 0xff)})
            two.arrives(2)


@only(RUST)
def bytes_behind_the_address():
    """What a request has behind an address of four bytes is no part of it."""
    with Moved() as two:
        sa = bytearray(two.in_.pack())
        two.b.xfrm.delete(two.in_)
        sa[60:72] = b"\xee" * 12
        two.b.xfrm.must(xfrm.NEWSA, bytes(sa), CREATE | EXCL)
        two.away()
        two.arrives(2)


@only(RUST)
def it_ends_with_time():
    grace = 5 if DEBUG else 0.5
    with Moved(grace=int(1000 * grace)) as two:
        two.away()
        two.arrives(1)
        time.sleep(grace)
        two.lost()


@only(RUST)
def it_ends_with_the_sa():
    """Deleted, flushed or expired, at once."""
    for what, end in (("deleted", lambda two: two.b.xfrm.delete(two.in_)),
                      ("flushed", lambda two: two.b.xfrm.flush())):
        with Moved() as two:
            two.away()
            two.arrives(1)
            end(two)
            two.lost()


@only(RUST)
def zero_is_as_the_kernel_s():
    with Moved(grace=0) as two:
        two.away()
        two.lost()
        # What has moved before is found while it may be.
    with Moved() as two:
        two.away()
        two.arrives(1)
        two.grace(0)
        two.lost()


@only(RUST)
def at_most_sixteen_of_a_line():
    """The addresses that were left last are those where it is found."""
    places = [f"192.0.2.{n}" for n in range(20, 40)]
    with Moved(grace=60_000) as two:
        two.b.address("v", *(f"{place}/24" for place in places))
        for place in places:
            two.move(V4[0], place)
        # The worker has looked at them.
        time.sleep(1)
        two.lost()
        two.hear(places[-17])
        two.arrives(1)


@only(RUST)
def outbound_sas_have_no_old_address():
    with Moved() as two:
        two.b.xfrm.delete(two.in_)
        two.b.xfrm.new(two.in_.but({"SA_DIR": b"\2"}, window=0))
        two.away()
        two.lost()


@only(RUST)
def replays_are_refused():
    """By the window of the newest, wherever a packet came first."""
    with Moved() as two:
        tap = two.tap(two.b)
        two.send(4)
        two.away()
        two.arrives(4)
        seen = frames(tap)
        equal(len(seen), 8, "frames")
        before = two.b.counters()
        with two.tap(two.a) as s:
            for frame in seen:
                s.send(frame)
        ktap.wait(lambda: xfrm.changes(before, two.b.counters()), "they come")
        time.sleep(0.2)
        equal(xfrm.changes(before, two.b.counters()), {"XfrmInStateSeqError": 8}, "counters of B")
        two.arrives(1)
        equal(two.b.xfrm.get(two.in_)["stats.replay"], 8, "replays that the newest counts")


def forged(frame, dst, port):
    """A frame of UDP over IPv4, to this address and from this port."""
    head = frame[14:24] + bytes(2) + frame[26:30] + xfrm.addr(dst)[:4]
    total = sum(struct.unpack("!10H", head)) % 0xffff
    # UDP needs no checksum there.
    return (frame[:14] + head[:10] + struct.pack("!H", 0xffff - total) + head[12:]
            + struct.pack("!H", port) + frame[36:40] + bytes(2) + frame[42:])


@only(RUST)
def replays_tell_of_no_mapping():
    """They are refused before they are decrypted, or another source would be believed."""
    with Moved(TUNNEL.but(IN_UDP)) as two, two.b.inside(), xfrm.Xfrm(groups=(MAPPING,)) as listener:
        in_udp(two)
        tap = two.tap(two.b)
        two.away()
        two.hear()
        two.send(4)
        seen = frames(tap)
        equal(len(seen), 4, "frames")
        before = two.b.counters()
        with two.tap(two.a) as s:
            for frame in seen:
                s.send(forged(frame, V4[1], 9000))
        ktap.wait(lambda: xfrm.changes(before, two.b.counters()), "they come")
        time.sleep(0.2)
        equal(xfrm.changes(before, two.b.counters()), {"XfrmInStateSeqError": 4}, "counters of B")
        equal(listener.pending(), [], "mappings")


COMP_SPI, INNER_SIZE = 0x77, {"compressed": 600, "uncompressed": 20}


class Compressed(Moved):
    """ESP in transport mode, and IPComp in tunnel mode inside of that."""

    def __init__(self, src, dst):
        super().__init__(SA(src, dst, SPI, reqid=1), xfrm.family(src), window=None)

    def sa(self, sa, inner, window):
        self.outer, self.inner = (sa.src, sa.dst), self.ends[inner]
        comp = sa.but(spi=COMP_SPI, proto=xfrm.COMP, mode=xfrm.TUNNEL, attrs=dict([xfrm.comp()]))
        self.out, self.in_ = sa.but({"SA_DIR": b"\2"}), sa.but({"SA_DIR": b"\1"}, window=32)
        for ns, esp, direction in (self.a, self.out, "out"), (self.b, self.in_, "in"):
            ns.xfrm.new(esp)
            ns.xfrm.new(comp)
            self.template(ns, direction, sa.src, sa.dst)
        self.comp = comp

    def template(self, ns, direction, src, dst, verb="add"):
        use = ["level", "use"] if direction == "in" else []
        run(ns, "ip", "xfrm", "policy", verb, "dir", direction, "src", self.inner[0],
            "dst", self.inner[1], "proto", "udp", "dport", str(PORT),
            "tmpl", "src", src, "dst", dst, "proto", "comp", "reqid", "1", "mode", "tunnel", *use,
            "tmpl", "src", src, "dst", dst, "proto", "esp", "reqid", "1", "mode", "transport")

    def move_comp(self, src, dst):
        reply = self.b.xfrm.migrate(migrate(self.comp, dst=dst, src=src))
        equal(reply.errno, 0, f"migration of IPComp ({reply.text})")

    def move(self, src, dst, **request):
        self.move_comp(src, dst)
        super().move(src, dst, **request)


@only(RUST)
def compressed():
    """What IPComp has compressed, and what it hasn't."""
    with Compressed(*V4) as two:
        sizes = INNER_SIZE.items()
        for _, size in sizes:
            two.send(3, size)
        two.away()
        equal(two.b.xfrm.count(), 3, "SAs: ESP, IPComp, and the kernel's for what isn't compressed")
        for _ in range(2):
            for what, size in sizes:
                before = two.b.xfrm.get(two.in_)["cur.packets"], two.b.counters()
                two.send(3, size)
                equal(two.b.xfrm.get(two.in_)["cur.packets"] - before[0], 3, what)
                equal(xfrm.changes(before[1], two.b.counters()), {}, f"counters of B, {what}")
            # Then with the new address in the policy.
            two.template(two.b, "in", *(two.in_.src, two.in_.dst), verb="update")


@only(RUST)
def compressed_to_another_family():
    """What isn't compressed isn't received then, whoever sends it: docs/uapi.md."""
    with Compressed(*V4) as two:
        for size in INNER_SIZE.values():
            two.send(3, size)
        # ESP in transport mode can't.
        two.move_comp(*V6)
        two.lost(payload=bytes(INNER_SIZE["uncompressed"]))
        before = two.b.counters()
        with two.a.socket(socket.AF_INET, socket.SOCK_RAW, xfrm.IPIP) as s:
            for _ in range(3):
                s.sendto(bytes(64), (V4[1], 0))
        ktap.wait(lambda: xfrm.changes(before, two.b.counters()), "they come")
        time.sleep(0.2)
        # Where there are vti devices, these ask, too.
        equal(list(xfrm.changes(before, two.b.counters())), ["XfrmInNoStates"], "counters of B")


@only(RUST)
def compressed_over_ipv6():
    """What isn't compressed isn't received there: docs/uapi.md."""
    with Compressed(*V6) as two:
        two.send(3, INNER_SIZE["compressed"])
        two.away()
        two.send(3, INNER_SIZE["compressed"])


@only(RUST)
def by_an_xfrm_interface():
    """The packets come by the interface of the SA."""
    with Moved(more_in={"IF_ID": xfrm.u32(5)}) as two:
        run(two.b, "ip", "link", "add", "x", "type", "xfrm", "dev", "v", "if_id", "5")
        run(two.b, "ip", "link", "set", "x", "up")
        run(two.b, "ip", "xfrm", "policy", "update", "dir", "in", "src", two.inner[0],
            "dst", two.inner[1], "proto", "udp", "dport", str(PORT), "if_id", "5",
            "tmpl", "src", V4[0], "dst", V4[1], "proto", "esp", "mode", "tunnel")
        def came():
            with two.b.inside(), open("/proc/thread-self/net/dev") as f:
                return next(int(line.split()[2]) for line in f if line.split()[0] == "x:")
        two.send(2)
        before = came()
        two.away()
        two.arrives(3)
        equal(came() - before, 3, "packets of the interface")


def under_flood(where):
    """A and B exchange packets; A's inbound SA moves, and B doesn't hear of it for 300 ms.
    Returns how many were lost that way, and how many were received twice."""
    with Flood(TUNNEL.but(flags=xfrm.FLAG_ESN)) as two, tempfile.TemporaryDirectory() as files:
        mover, peer = two.other, two
        before = two.a.counters()
        flows = [Flow(ends, os.path.join(files, name), False)
                 for name, ends in (("to", mover), ("from", peer))]
        for flow in flows:
            flow.send(flow.ends.a, flow.ends.talk[0], 1)
        reply = mover.b.xfrm.migrate(migrate(mover.in_, dst=where))
        equal(reply.errno, 0, f"migration ({reply.text})")
        mover.in_ = mover.in_.but(dst=where)
        time.sleep(0.3)
        sent = [Flood.end(flow.sender) for flow in flows]
        settle(two.a, two.b)
        ways = [flow.end(s) for flow, s in zip(flows, sent)]
        counters = xfrm.changes(before, two.a.counters())
        # B hears of it.
        policy = mover.out.but(dst=where)
        equal(mover.a.xfrm.migrate(migrate(mover.out, dst=where)).errno, 0, "B's migration")
        mover.a.xfrm.policy(xfrm.POLICY_OUT, selector(2), policy, True, False)
        mover.send(5)
    for name, way in zip(("to the mover", "from it"), ways):
        print(f"# {handler.chosen()}, {name}: {way.lost} of {way.sent + way.refused} lost, "
              f"{way.repeated} received twice; {counters}")
    return ways


@only(RUST)
def nothing_is_lost_before_the_peer_hears():
    """Between the first packet that B sends and its last one to the old address. The C handler
    loses all from the move on."""
    handler.use(C)
    lost = under_flood(V4_MOVED[0])[0].lost
    true(lost > 20, f"the C handler has lost {lost}: the flood is too weak")
    handler.use(RUST)
    for way in under_flood(V4_MOVED[0]):
        equal((way.lost, way.repeated), (0, 0), "packets lost, received twice")


@only(RUST)
def many_at_once():
    """All of them are found at their old addresses; then their memory is given back."""
    rounds = range(1, MANY + 1)
    with Moved(TUNNEL.but(spi=0x7fffffff), grace=60_000) as two:
        first = two.in_
        send_all(two.b.xfrm, xfrm.NEWSA, first.pack(), {72: 0, 208: 0}, rounds, CREATE | EXCL)
        before = states()
        two.away()
        move = migrate(first, dst=V4_MOVED[1]).pack()
        send_all(two.b.xfrm, xfrm.MIGRATE_STATE, move, {16: 0, 120: 0}, rounds)
        true(states() - before > 0.9 * MANY or DEBUG, "they are kept")
        for _ in range(3):
            two.arrives(3)
        for spi in 1, MANY // 2, MANY:
            # By A's SA, whose SPI changes.
            one = two.out.but(spi=spi)
            two.a.xfrm.delete(two.out)
            two.out = two.a.xfrm.new(one)
            two.in_ = first.but(spi=spi, dst=V4_MOVED[1])
            two.arrives(2)
        two.grace(0)
        ktap.wait(lambda: states() - before < MANY // 20 + 1000 or DEBUG, "they have ended", 20)
        two.lost()


if __name__ == "__main__":
    ktap.main(KINDS + [
        requests_find_it_where_it_is, a_newcomer_has_its_packets, who_left_last_has_its_packets,
        chain, back_and_forth,
        to_another_family, by_tunnel_devices, whatever_policies_say, marks_count, marks_change,
        bytes_behind_the_address, it_ends_with_time,
        it_ends_with_the_sa, zero_is_as_the_kernel_s, at_most_sixteen_of_a_line,
        outbound_sas_have_no_old_address, replays_are_refused, replays_tell_of_no_mapping,
        compressed, compressed_to_another_family, compressed_over_ipv6,
        by_an_xfrm_interface, nothing_is_lost_before_the_peer_hears, many_at_once])

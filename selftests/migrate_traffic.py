#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Datagrams flow before and after both ends of an SA have been migrated."""

import struct
import subprocess
from pathlib import Path

from lib import hosts, ktap, xfrm
from lib.handler import BRIEF
from lib.hosts import V4, V4_MOVED, V6, V6_MOVED, Hosts
from lib.ktap import defect, equal, true
from lib.xfrm import SA, changes

SPI = 0x1000
GCM = dict([xfrm.aead()])
CBC = dict([xfrm.crypt(), xfrm.auth()])
CTR = dict([xfrm.crypt(bytes(range(20)), "rfc3686(ctr(aes))"), xfrm.auth()])
NULL = dict([xfrm.crypt(b"", "ecb(cipher_null)"), xfrm.auth()])
HMAC = dict([xfrm.auth()])
DEFLATE = dict([xfrm.comp()])
# What only use changes: never what a migration does.
USE = {"cur.bytes", "cur.packets", "cur.use_time", "LASTUSED", "REPLAY_VAL", "REPLAY_ESN_VAL"}


def numbers(out, in_):
    """(last sent, highest received) sequence numbers, 64 bits if extended."""
    if "REPLAY_VAL" in out:
        return (struct.unpack("=III", out["REPLAY_VAL"])[0],
                struct.unpack("=III", in_["REPLAY_VAL"])[1])
    _, oseq, _, oseq_hi, *_ = struct.unpack("=6I", out["REPLAY_ESN_VAL"][:24])
    _, _, seq, _, seq_hi, *_ = struct.unpack("=6I", in_["REPLAY_ESN_VAL"][:24])
    return oseq_hi << 32 | oseq, seq_hi << 32 | seq


def flows(proto, algs, mode, start, end, inner, spi):
    """Three datagrams, migration, three more: counters and numbers go on."""
    with Hosts() as two:
        two.sa(SA(*start, spi, proto=proto, mode=mode, reqid=5, attrs=algs), inner)
        two.send(3)
        before = two.dumps()
        two.migrate(end)
        after = two.dumps()
        for side in 0, 1:
            equal(USE & set(changes(before[side], after[side])), set(),
                  f"what the migration changed at {'AB'[side]}")
        two.send(3)
        final = two.dumps()
        # IP-TFS is free to choose how many packets it makes of the datagrams.
        if mode != xfrm.IPTFS:
            for side in final:
                equal(side["cur.packets"], 6, "packets counted")
        if proto != xfrm.COMP:
            sent, received = numbers(*final)
            equal(received, sent, "highest number received")
            true(sent > numbers(*before)[0], "the numbers do not go on")
            true(sent == 6 or mode == xfrm.IPTFS, f"number after 6: {sent}")


def moves(proto, algs, mode, spi=SPI):
    """The address moves, within IPv4 and within IPv6."""
    for start, end, inner in ((V4, V4_MOVED, 2), (V6, V6_MOVED, 10)):
        flows(proto, algs, mode, start, end, inner, spi)


def changes_family(proto, algs, mode, spi=SPI):
    """IPv4 outside becomes IPv6 and the other way round; inside stays."""
    for start, end in ((V4, V6), (V6, V4)):
        flows(proto, algs, mode, start, end, xfrm.AF_INET, spi)
    flows(proto, algs, mode, V4, V6, xfrm.AF_INET6, spi)


def one_end_at_a_time(mode, algs):
    """A migrated end still understands one that was not.

    Two ends that have lost their IV generator may understand each other.
    """
    for first in "ab":
        with Hosts() as two:
            two.sa(SA(*V4, SPI, mode=mode, attrs=algs))
            side, sa = (two.a, two.out) if first == "a" else (two.b, two.in_)
            equal(side.xfrm.migrate(xfrm.migrate(sa)).errno, 0, "answer")
            two.send(2)


@defect(2)
def ctr_transport():
    one_end_at_a_time(xfrm.TRANSPORT, CTR)
    moves(xfrm.ESP, CTR, xfrm.TRANSPORT)


@defect(2)
def ctr_tunnel():
    one_end_at_a_time(xfrm.TUNNEL, CTR)
    moves(xfrm.ESP, CTR, xfrm.TUNNEL)
    changes_family(xfrm.ESP, CTR, xfrm.TUNNEL)


def cbc_one_end_at_a_time():
    """Also without a generator: the block that it would make is decrypted and dropped."""
    for mode in xfrm.TRANSPORT, xfrm.TUNNEL:
        one_end_at_a_time(mode, CBC)


def has_iptfs():
    subprocess.run(["modprobe", "xfrm_iptfs"], check=False, capture_output=True)
    return " iptfs_init_state" in Path("/proc/kallsyms").read_text(encoding="ascii")


def kind(name, proto, algs, mode, *spi):
    """A test of this kind of SA; only tunnels change the family outside."""
    def test():
        # Without it the kernel takes such an SA, and warns when it is used.
        if mode == xfrm.IPTFS and not has_iptfs():
            raise ktap.Skip("no XFRM_IPTFS")
        moves(proto, algs, mode, *spi)
        if mode != xfrm.TRANSPORT:
            changes_family(proto, algs, mode, *spi)
    test.__name__ = name
    return test


KINDS = [kind(*k) for k in (
    ("gcm_transport", xfrm.ESP, GCM, xfrm.TRANSPORT),
    ("gcm_tunnel", xfrm.ESP, GCM, xfrm.TUNNEL),
    ("gcm_beet", xfrm.ESP, GCM, xfrm.BEET),
    ("gcm_iptfs", xfrm.ESP, GCM, xfrm.IPTFS),
    ("cbc_transport", xfrm.ESP, CBC, xfrm.TRANSPORT),
    ("cbc_tunnel", xfrm.ESP, CBC, xfrm.TUNNEL),
    ("null_encryption_transport", xfrm.ESP, NULL, xfrm.TRANSPORT),
    ("ah_transport", xfrm.AH, HMAC, xfrm.TRANSPORT),
    ("ah_tunnel", xfrm.AH, HMAC, xfrm.TUNNEL),
    ("ipcomp_transport", xfrm.COMP, DEFLATE, xfrm.TRANSPORT, 0x77),
    ("ipcomp_tunnel", xfrm.COMP, DEFLATE, xfrm.TUNNEL, 0x77))]
ONE_CIPHER_EACH = [k for k in KINDS
                   if k.__name__.startswith(("gcm_", "ah_tunnel", "ipcomp_tunnel"))]


def round_trip_of_one_end_only():
    """A peer may lag behind: ESP does not look at the source address."""
    with Hosts() as two:
        two.sa(SA(*V4, SPI, mode=xfrm.TUNNEL, reqid=5))
        two.send(1)
        for src in (V4_MOVED[0], V4[0]):
            out = two.out
            equal(two.a.xfrm.migrate(xfrm.migrate(out, src=src)).errno, 0, "answer")
            two.out = out.but(src=src)
            two.a.xfrm.policy(xfrm.POLICY_OUT, hosts.selector(2), two.out, update=True)
            two.send(1)


def connected_socket_goes_on():
    """It has cached the route through the old SA, in place and elsewhere."""
    with Hosts() as two:
        two.sa(SA(*V4, SPI, mode=xfrm.TUNNEL, reqid=5))
        sender, receiver = two.sockets()
        for n, end in enumerate((None, None, V4_MOVED, V6, V4)):
            sender.send(bytes([n]))
            equal(receiver.recv(9), bytes([n]), f"datagram {n}")
            two.migrate(end)


def connected_socket_gets_the_sa_that_fits_now():
    """It has cached the route through one SA, and another one takes its selector, in place."""
    other = hosts.selector(xfrm.AF_INET)
    with Hosts() as two:
        two.sa(SA(*V4, SPI, mode=xfrm.TUNNEL, reqid=5))
        sender, receiver = two.sockets()

        def sent_by(sa):
            before = two.a.xfrm.get(sa)["cur.packets"]
            sender.send(b"x")
            receiver.recv(9)
            return two.a.xfrm.get(sa)["cur.packets"] - before
        second = two.a.xfrm.new(two.out.but(
            spi=SPI + 1, sel=xfrm.replace(other, dport=9)))
        two.b.xfrm.new(two.in_.but(spi=SPI + 1))
        equal(sent_by(two.out), 1, "packets by the one that fits")
        equal(two.a.xfrm.migrate(xfrm.migrate(second, sel=other)).errno, 0, "answer")
        equal(sent_by(second), 1, "packets by the newer one of two that fit")


def waiting_traffic_gets_the_migrated_sa():
    """An ACQUIRE and its larval SA are answered by the SA that moves there."""
    with Hosts() as two:
        two.sa(SA(*V4, SPI, mode=xfrm.TUNNEL, reqid=5))
        daemon = two.a.listen(xfrm.GROUP_ACQUIRE)
        two.policies(two.out.but(src=V4_MOVED[0], dst=V4_MOVED[1]), update=True)
        sender, receiver = two.sockets()
        sender.send(b"too early")
        ktap.wait(lambda: any(m.kind == xfrm.ACQUIRE for m in daemon.pending()), "ACQUIRE")
        equal(two.a.xfrm.count(), 2, "SAs before, with the larval one")
        two.migrate(V4_MOVED)
        equal(two.a.xfrm.count(), 1, "SAs after")
        sender.send(b"in time")
        # Linux keeps one packet for an SA that is to come.
        equal({receiver.recv(99), b"in time"} - {b"too early"}, {b"in time"}, "datagrams")


def keepalives_come_from_the_new_address():
    with Hosts() as two:
        two.sa(SA(*V4, SPI, mode=xfrm.TUNNEL, reqid=5))
        receiver = two.b.udp(V4_MOVED[1], 4500)
        two.migrate(V4_MOVED)
        reply = two.a.xfrm.migrate(xfrm.migrate(two.out, add=[
            ("ENCAP", xfrm.encap(4501, 4500)), ("NAT_KEEPALIVE_INTERVAL", xfrm.u32(1))]))
        equal(reply.errno, 0, "answer")
        equal(receiver.recvfrom(9), (b"\xff", (V4_MOVED[0], 4501)), "keepalive")


def udp_encapsulation(start, end):
    """None, UDP, other ports as behind a NAT, none; the wire shows it."""
    family, port = xfrm.family(start[0]), 4500
    with Hosts() as two:
        two.sa(SA(*start, SPI, mode=xfrm.TUNNEL, reqid=5))
        two.encap_socket(port, family)
        two.encap_socket(port + 1, family)
        tap = two.tap(two.b)
        ends, none = (end, start), [("ENCAP", xfrm.encap(0, 0, 0))]
        steps = ([], (xfrm.ESP, None, None)), *(
            ([("ENCAP", xfrm.encap(*ports))], (xfrm.UDP, *ports))
            for ports in ((port, port), (40001, port), (40001, port + 1))), (
            none, (xfrm.ESP, None, None))
        for n, (add, wanted) in enumerate(steps):
            two.migrate(ends[n % 2], a=add, b=add)
            hosts.frames(tap)
            two.send(2)
            equal([hosts.wire(f) for f in hosts.frames(tap)], [wanted] * 2, f"wire, step {n}")


def udp_encapsulation_of_ipv4():
    udp_encapsulation(V4, V4_MOVED)


def udp_encapsulation_of_ipv6():
    udp_encapsulation(V6, V6_MOVED)


def udp_encapsulation_is_inherited():
    with Hosts() as two:
        both = {"ENCAP": xfrm.encap(4500, 4500)}
        two.sa(SA(*V4, SPI, reqid=5), more_in=both, more_out=both)
        two.encap_socket(4500)
        tap = two.tap(two.b)
        for end in (V4, V4_MOVED, V4):
            two.migrate(end)
            two.send(1)
            equal(hosts.wire(hosts.frames(tap)[-1]), (xfrm.UDP, 4500, 4500), "wire")


def extended_numbers_wrap():
    """Migrated again and again while the lower half goes through zero."""
    top = 0xfffffffd
    for mode in (xfrm.TRANSPORT, xfrm.TUNNEL):
        with Hosts() as two:
            two.sa(SA(*V4, SPI, mode=mode, flags=xfrm.FLAG_ESN),
                   more_out={"REPLAY_ESN_VAL": xfrm.esn(0, 0, top)},
                   more_in={"REPLAY_ESN_VAL": xfrm.esn(64, 2, seq=top)})
            for end in (V4_MOVED, V4, V4_MOVED):
                two.send(2)
                two.migrate(end)
            two.send(1)
            equal(numbers(*two.dumps()), (top + 7, top + 7), "sequence numbers")


def replayed_packets_are_refused(**sides):
    """What was delivered before a migration is not delivered after it."""
    with Hosts() as two:
        two.sa(SA(*V4, SPI, mode=xfrm.TUNNEL, flags=sides.pop("flags", 0)), **sides)
        heard, again = two.tap(two.b), two.tap(two.a)
        two.send(5)
        old = hosts.frames(heard)
        equal(len(old), 5, "frames")
        two.migrate(reqid=9)
        two.policies(two.out.but(reqid=9), update=True)
        sender, receiver = two.sockets()
        errors = two.b.counters()["XfrmInStateSeqError"]
        for frame in old:
            again.send(frame)
        ktap.wait(lambda: two.b.counters()["XfrmInStateSeqError"] == errors + 5,
                  "all replayed packets are refused")
        equal(two.dumps()[1]["stats.replay"], 5, "replays counted by the SA")
        sender.send(b"new")
        equal(receiver.recv(99), b"new", "first datagram that arrives")


def plain_replay_window():
    replayed_packets_are_refused()


def extended_replay_window():
    replayed_packets_are_refused(flags=xfrm.FLAG_ESN,
                                 more_out={"REPLAY_ESN_VAL": xfrm.esn(0, 0)},
                                 more_in={"REPLAY_ESN_VAL": xfrm.esn(128, 4)})


if __name__ == "__main__":
    ktap.main((ONE_CIPHER_EACH if BRIEF else KINDS + [
        ctr_transport, ctr_tunnel, cbc_one_end_at_a_time]) + [
        round_trip_of_one_end_only,
        connected_socket_goes_on, connected_socket_gets_the_sa_that_fits_now,
        waiting_traffic_gets_the_migrated_sa,
        keepalives_come_from_the_new_address,
        udp_encapsulation_of_ipv4, udp_encapsulation_of_ipv6, udp_encapsulation_is_inherited,
        extended_numbers_wrap, plain_replay_window, extended_replay_window])

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What the kernel gets wrong beside its handler, and the module leaves alone."""

import contextlib
import fcntl
import os
import socket
import struct

from lib import hosts, ktap, netlink, xfrm
from lib.handler import C
from lib.hosts import PORT, V4, V4_MOVED, V6, Hosts
from lib.ktap import defect, equal
from lib.netlink import DUMP
from lib.netns import Netns
from lib.xfrm import SA, migrate


def first_packet_is_received_once(flags):
    """With a window whose size does not divide 2^32."""
    with Hosts() as two:
        two.sa(SA(*V4, 0x1000, mode=xfrm.TUNNEL, flags=flags),
               more_out={"REPLAY_ESN_VAL": xfrm.esn(0, 0)},
               more_in={"REPLAY_ESN_VAL": xfrm.esn(96, 3)})
        heard, again = two.tap(two.b), two.tap(two.a)
        two.send(1)
        first, = hosts.frames(heard)
        again.send(first)

        def seen():
            sa = two.dumps()[1]
            return (sa["cur.packets"], sa["stats.replay"])
        ktap.wait(lambda: sum(seen()) == 2, "the replayed packet is judged")
        equal(seen(), (1, 1), "packets received, replays refused")


@defect(23)
def first_packet_of_a_bitmap_window():
    first_packet_is_received_once(0)


@defect(23)
def first_packet_of_an_extended_window():
    first_packet_is_received_once(xfrm.FLAG_ESN)


TUNSETIFF, IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x400454ca, 1, 0x1000, 0x4000
NEEDS_CSUM, GSO_UDP_L4 = 1, 5
SEGMENT, SEGMENTS = 1000, 4


@contextlib.contextmanager
def guest(ns, name):
    """The other end of a tun device, as a virtual machine has it."""
    with ns.inside():
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        except OSError as why:
            raise ktap.Skip(f"/dev/net/tun: {why.strerror}") from why
        try:
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("=16sH22x", name.encode(),
                                                   IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
            yield fd
        finally:
            os.close(fd)


def datagrams(src, dst):
    """Some in one piece, to be cut by whoever sends it on; as virtio has it."""
    size = 8 + SEGMENTS * SEGMENT
    udp = struct.pack("!4H", PORT, PORT, size, 0)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + size, 0, 0, 64, xfrm.UDP, 0,
                     socket.inet_aton(src), socket.inet_aton(dst))
    total = sum(struct.unpack("!10H", ip))
    ip = ip[:10] + struct.pack("!H", 0xffff - (total % 0xffff)) + ip[12:]
    return struct.pack("=BB4H", NEEDS_CSUM, GSO_UDP_L4, 28, SEGMENT, 20, 6) \
        + ip + udp + bytes(size - 8)


@defect(25)
def segments_of_a_guest():
    """Each has a sequence number and an IV that no other packet has."""
    with Hosts() as two:
        two.sa(SA(*V4, 0x1000, mode=xfrm.TUNNEL))
        heard, pieces = two.tap(two.b), 3
        with guest(two.a, "guest") as fd:
            two.a.up("guest")
            two.a.address("guest", "10.3.0.2/24")
            two.a.sysctl("ipv4/ip_forward", 1)
            for _ in range(pieces):
                os.write(fd, datagrams("10.3.0.1", two.talk[1]))
            seen = []
            ktap.wait(lambda: seen.extend(hosts.frames(heard)) or len(seen) == pieces * SEGMENTS,
                      "all segments are on the wire")
        # Behind Ethernet, IPv4 and the SPI: the number, and the IV.
        equal([len({frame[at:at + size] for frame in seen}) for at, size in ((38, 4), (42, 8))],
              [len(seen)] * 2, "different sequence numbers, different IVs")


def stream(two, sa, **more):
    """[(number, IV)] of what TCP sends: GSO packets, and others after them."""
    two.sa(sa, xfrm.AF_INET6, **more)
    tap, (src, dst) = two.tap(two.b), two.talk
    tcp = xfrm.Selector(family=xfrm.AF_INET6, proto=socket.IPPROTO_TCP, dport=PORT, dmask=0xffff)
    two.a.xfrm.policy(xfrm.POLICY_OUT, tcp, sa, False, True)
    with two.b.inside():
        server = socket.create_server((dst, PORT), family=socket.AF_INET6)
    with two.a.inside():
        client = socket.create_connection((dst, PORT), 5, (src, 0))
    with server, client:
        receiver, _ = server.accept()
        with receiver:
            receiver.settimeout(5)
            for size in (SEGMENTS * SEGMENT * 4, 1) * 2:
                client.sendall(bytes(size))
                left = size
                while left:
                    left -= len(receiver.recv(left))
    return [(number, body[:8].hex()) for number, body in
            (hosts.esp(frame) for frame in hosts.frames(tap)
             if hosts.outermost(frame)[0] == xfrm.ESP)]


@defect(37)
def segments_and_the_packet_after_them():
    """Each has an IV that no other packet has, over IPv6."""
    with Hosts() as two:
        seen = stream(two, SA(*V6, 0x1000))
        equal(len({iv for _, iv in seen}), len({number for number, _ in seen}),
              "different IVs, as many as numbers")


@defect(36)
def last_segment_before_2_32():
    """It is decrypted: numbers are extended, and its upper half is still 0."""
    with Hosts() as two:
        # After SYN and ACK, it is the second of those that are cut of one packet.
        start = 0xffffffff - 4
        stream(two, SA(*V6, 0x1000, flags=xfrm.FLAG_ESN),
               more_out={"REPLAY_ESN_VAL": xfrm.esn(0, 0, oseq=start)},
               more_in={"REPLAY_ESN_VAL": xfrm.esn(64, 2, seq=start)})
        equal(two.dumps()[1]["stats.integrity_failed"], 0, "packets that are not genuine")


def fragments(src, dst, payload, first):
    """A datagram in two pieces, of which the first one has so many bytes of UDP."""
    udp = struct.pack("!4H", PORT, PORT, 8 + len(payload), 0) + payload
    for at, piece in (0, udp[:first]), (first, udp[first:]):
        flags = at // 8 | 0x2000 * (at == 0)
        yield struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(piece), 77, flags, 64, xfrm.UDP, 0,
                          socket.inet_aton(src), socket.inet_aton(dst)) + piece


@defect(42)
def fragments_around_a_move():
    """A datagram in two pieces, of which one comes before the SA moves."""
    if tuple(map(int, os.uname().release.split(".")[:2])) < (7, 3):
        raise ktap.Skip("this kernel doesn't ask by which SA fragments came")
    with Hosts() as two:
        two.sa(SA(*V4, 0x1000, mode=xfrm.TUNNEL))
        (src, dst), payload = two.talk, bytes(1000)
        # The second piece has no ports.
        whole = xfrm.Selector(dst, src, 32, 32, family=xfrm.AF_INET)
        two.a.xfrm.policy(xfrm.POLICY_OUT, whole, two.out)
        raw = two.a.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        raw.bind((src, 0))
        receiver = two.b.udp(dst, PORT)
        receiver.settimeout(2)
        with receiver:
            for moves in False, True:
                first, second = fragments(src, dst, payload, 400)
                raw.sendto(first, (dst, 0))
                ktap.wait(lambda: two.dumps()[1]["cur.packets"] == 1 + 2 * moves, "the first piece")
                if moves:
                    reply = two.b.xfrm.migrate(migrate(two.in_, reqid=7))
                    equal(reply.errno, 0, "migration")
                    two.b.xfrm.policy(xfrm.POLICY_IN, hosts.selector(xfrm.AF_INET),
                                      two.in_.but(reqid=7), True)
                raw.sendto(second, (dst, 0))
                try:
                    equal(receiver.recv(65536), payload, "the datagram")
                except TimeoutError:
                    raise (ktap.Failed if moves else ktap.Late)("the datagram is lost") from None


@defect(43)
def dump_while_sas_move():
    """It has each SA, where it was or where it is."""
    with Netns() as ns:
        sas = [ns.xfrm.new(SA(*V4, n)) for n in range(0x1001, 0x1001 + 300)]
        with ns.inside(), xfrm.Xfrm() as nl:
            # Small pieces.
            nl.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            nl.send(nl.message(xfrm.GETSA, b"", DUMP).pack())
            seen = set()
            while True:
                messages = list(netlink.parse(nl.socket.recv(4096)))
                seen |= {m.body[72:76] for m in messages if m.kind == xfrm.NEWSA}
                if messages[-1].kind == netlink.NLMSG_DONE:
                    break
                for _ in range(20):
                    if sas:
                        ns.xfrm.must(xfrm.MIGRATE_STATE, migrate(sas.pop(0), dst=V4_MOVED[1]).pack())
        equal(len(seen), 300, "SAs in the dump")


if __name__ == "__main__":
    ktap.main([first_packet_of_a_bitmap_window, first_packet_of_an_extended_window,
               segments_of_a_guest, segments_and_the_packet_after_them,
               last_segment_before_2_32, fragments_around_a_move, dump_while_sas_move],
              handlers=(C,))

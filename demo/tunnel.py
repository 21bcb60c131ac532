# SPDX-License-Identifier: GPL-2.0
"""Two hosts with two links, an ESP tunnel over one of them, and its moves."""

import contextlib
import select
import socket
import struct
import subprocess
import time
from dataclasses import dataclass

from lib import xfrm
from lib.netns import Netns
from lib.xfrm import SA, Selector

LINK1 = "192.0.2.1", "192.0.2.2"
LINK2 = "198.51.100.1", "198.51.100.2"
LINK1_V6 = "2001:db8::1", "2001:db8::2"
INNER = "10.1.0.1", "10.2.0.1"
SPIS = 0x1001, 0x1002           # left to right, right to left
KEYS = "0x" + "11" * 20, "0x" + "22" * 20
INTERVAL = 0.001                # an emulated machine needs longer
SETTLE = 0.1                    # for what is under way
BEFORE, AFTER = 1.5, 0.5        # seconds of traffic around a move
PATIENCE = 20                   # for what the commands do
REPLAYS = 20
ETH_P_ALL = 3
MOVED = xfrm.MIGRATE_STATE, xfrm.NEWSA     # what the kernel tells of an SA that has moved


@dataclass
class Count:
    sent: int
    received: int
    twice: int


@dataclass
class Seqs:
    last: int       # by the old addresses
    first: int      # by the new ones


@dataclass
class Move:
    """What a move cost."""
    notifications: list
    counts: dict        # name of the way -> Count
    sequence: dict      # name of the way -> Seqs
    replayed: int
    accepted: int       # of the replayed


class Stream:
    """Numbered datagrams one way."""

    def __init__(self, sender, receiver, addresses):
        src, dst = addresses
        self.receiver = receiver.udp(dst)
        self.receiver.setblocking(False)
        self.sender = sender.udp(src)
        self.sender.connect(self.receiver.getsockname())
        self.sent = 0
        self.got = []

    def send(self):
        # A packet without an SA is refused at once: it counts as sent and lost.
        with contextlib.suppress(OSError):
            self.sender.send(struct.pack("!Q", self.sent))
        self.sent += 1

    def receive(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                self.got.append(*struct.unpack("!Q", self.receiver.recv(64)))

    def count(self):
        return Count(self.sent, len(set(self.got)), len(self.got) - len(set(self.got)))


class Wire:
    """The ESP packets that come in at a host, on both of its links."""

    def __init__(self, host):
        self.taps = []
        for link in ("link1", "link2"):
            tap = host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            tap.bind((link, ETH_P_ALL))
            tap.setblocking(False)
            self.taps.append(tap)
        self.packets = []       # (destination, ESP)

    def receive(self):
        for tap in self.taps:
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame, origin = tap.recvfrom(65536)
                    v6 = frame[12:14] == b"\x86\xdd"
                    proto, to, head = (frame[20], frame[38:54], 54) if v6 else (
                        frame[23], frame[30:34], 34)
                    if origin[2] != socket.PACKET_OUTGOING and proto == xfrm.ESP:
                        self.packets.append((to, frame[head:]))

    def sent_to(self, address):
        """The ESP packets for this address."""
        size = 16 if ":" in address else 4
        return [packet for to, packet in self.packets if to == xfrm.addr(address)[:size]]


def seq(packet):
    return int.from_bytes(packet[4:8], "big")


class Traffic:
    """Both streams and both wires, for one move."""

    def __init__(self, left, right):
        self.left, self.right = left, right
        self.ways = {"left to right": (Stream(left, right, INNER), Wire(right)),
                     "right to left": (Stream(right, left, INNER[::-1]), Wire(left))}

    def run(self, seconds, sockets=(), follow=None):
        """Sends and receives; calls follow with those sockets that have news."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for stream, wire in self.ways.values():
                stream.send()
            tick = time.monotonic() + INTERVAL
            while (left := tick - time.monotonic()) > 0:
                readable = select.select(sockets, [], [], left)[0]
                if readable:
                    follow(readable)
            self.receive()

    def receive(self):
        for stream, wire in self.ways.values():
            stream.receive()
            wire.receive()

    def stop(self):
        """Receives what is under way, and counts."""
        time.sleep(SETTLE)
        self.receive()
        return {name: stream.count() for name, (stream, _) in self.ways.items()}

    def sequence(self, ends, to):
        """The numbers around a move from ends to other ones."""
        return {name: Seqs(seq(wire.sent_to(ends[n])[-1]), seq(wire.sent_to(to[n])[0]))
                for n, (name, (_, wire)) in zip((1, 0), self.ways.items())}

    def replay(self, ends, to):
        """Sends right what was sent to it before the move, in packets to its new
        end; gives how many, and how many it accepts that it had received. One
        that was lost in the move is nothing it has seen before."""
        stream, wire = self.ways["left to right"]
        old = wire.sent_to(ends[1])[-REPLAYS:]
        before = stream.got[:]
        attacker = self.left.socket(xfrm.family(to[0]), socket.SOCK_RAW, xfrm.ESP)
        attacker.bind((to[0], 0))
        for packet in old:
            attacker.sendto(packet, (to[1], 0))
        time.sleep(SETTLE)
        stream.receive()
        return len(old), sum(n in before for n in stream.got[len(before):])


class Host(Netns):
    """A namespace with a name, and commands that wait for their lines."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def start(self, *command):
        """A process that reads from us and can be read."""
        with self.inside():
            process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, bufsize=1,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return process


class Tunnel(contextlib.ExitStack):
    """The two hosts and what flows between them."""

    def __init__(self, ends):
        super().__init__()
        self.hosts = self.left, self.right = [
            self.enter_context(Host(name)) for name in ("left", "right")]
        for link in ("link1", "link2"):
            self.left.veth(link, self.right, link)
        for n, host in enumerate(self.hosts):
            host.address("link1", f"{LINK1[n]}/24", f"{LINK1_V6[n]}/64")
            host.address("link2", f"{LINK2[n]}/24")
            host.address("lo", f"{INNER[n]}/32")
            host.route(f"{INNER[1 - n]}/32", dev="link1")
        self.ends = ends
        for host in self.hosts:
            for line in self._states("add", ends):
                self.ip(host, *line.split())
            self.policies(host, ends, update=False)

    def ip(self, host, *args):
        with host.inside():
            return subprocess.run(["ip", *args], check=True, text=True,
                                  capture_output=True).stdout

    # The two SAs, as words for ip and for xfrm-next.

    @staticmethod
    def _directions(ends):
        return (SPIS[0], KEYS[0], *ends), (SPIS[1], KEYS[1], *ends[::-1])

    def _states(self, verb, ends):
        for spi, key, src, dst in self._directions(ends):
            line = f"xfrm state {verb} src {src} dst {dst} proto esp spi {spi:#x}"
            if verb == "add":
                line += (f" reqid 1 mode tunnel replay-window 32 aead rfc4106(gcm(aes)) {key} 128"
                         " sel src 10.0.0.0/8 dst 10.0.0.0/8")
            yield line

    def migrate_commands(self, to):
        old, new = self._directions(self.ends), self._directions(to)
        for host in self.hosts:
            for (spi, _, _, dst), (_, _, new_src, new_dst) in zip(old, new):
                yield host, (f"state migrate dst {dst} proto esp spi {spi:#x}"
                             f" new-dst {new_dst} new-src {new_src} new-reqid 1"
                             " sel src 10.0.0.0/8 dst 10.0.0.0/8")

    def replace_commands(self, to):
        for host in self.hosts:
            for verb, ends in (("delete", self.ends), ("add", to)):
                for line in self._states(verb, ends):
                    yield host, line

    def policies(self, host, ends, update=True):
        """What the hosts protect, by the SAs between these ends."""
        for out in (True, False):
            step = 1 if out == (host is self.left) else -1
            (src, dst), (inner_src, inner_dst) = ends[::step], INNER[::step]
            sel = Selector(inner_dst, inner_src, 32, 32, family=xfrm.AF_INET)
            sa = SA(src, dst, 0, mode=xfrm.TUNNEL, reqid=1)
            host.xfrm.policy(xfrm.POLICY_OUT if out else xfrm.POLICY_IN, sel, sa, update)

    def move(self, to, program, commands):
        """Moves both hosts by commands, with traffic before and after.

        Policies follow as soon as the kernel tells that both SAs of a host
        have moved, as an IKE daemon would do it.
        """
        batches = {host: host.start(program, "-batch", "-") for host in self.hosts}
        monitor = self.right.start("xfrm-next", "monitor", "migrate", "count", "2")
        news = {host: host.listen(xfrm.GROUP_MIGRATE, xfrm.GROUP_SA) for host in self.hosts}
        traffic = Traffic(self.left, self.right)

        traffic.run(BEFORE)
        for host, line in commands:
            batches[host].stdin.write(line + "\n")
        waiting = dict(news)
        moved = dict.fromkeys(self.hosts, 0)

        def follow(readable):
            for host in [h for h, listener in waiting.items() if listener.socket in readable]:
                moved[host] += sum(m.kind in MOVED for m in waiting[host].pending())
                if moved[host] == 2:
                    self.policies(host, to)
                    del waiting[host]

        sockets = [listener.socket for listener in news.values()]
        end = time.monotonic() + PATIENCE
        while waiting and time.monotonic() < end:
            traffic.run(INTERVAL, sockets, follow)
        traffic.run(AFTER, sockets, follow)
        if waiting:
            raise RuntimeError(f"{program}: " + "".join(self._stop(b) for b in batches.values()))
        counts = traffic.stop()
        sequence = traffic.sequence(self.ends, to)
        replays = traffic.replay(self.ends, to)
        self.ends = to
        return Move(self._stop(monitor).splitlines(), counts, sequence, *replays)

    @staticmethod
    def _stop(process):
        """Ends a process, and returns what it has said."""
        try:
            return process.communicate(timeout=0.5)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            return process.communicate()[0]

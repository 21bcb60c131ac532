# SPDX-License-Identifier: GPL-2.0
"""What the benchmarks share, in the VM: counting instructions, telling results.

In a VM that counts instructions instead of time (scripts/vm --icount) a
nanosecond is one. A result is a line of JSON; scripts/bench puts them together.
"""

import json
import os
import socket
import statistics
import struct
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "selftests"))

from lib import handler, netlink, xfrm      # noqa: E402
from lib.flood import BINARY                # noqa: E402
from lib.netlink import Message             # noqa: E402
from lib.xfrm import SA                     # noqa: E402

# What happens afterwards (RCU, the collection of garbage) has always ended.
GAP = 20_000_000
C, RUST, AGAIN = "C", "Rust", "C again"
SO_RCVBUFFORCE = 33


class Sender:
    """A process that sends what it is told: a command of selftests/flood.c."""

    def __init__(self, command, tx, rx, ns, **more):
        fds = tx.fileno(), rx.fileno()
        self.process = subprocess.Popen([BINARY, command, *map(str, fds), str(ns)], pass_fds=fds,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def tell(self, data, *sizes, answers=2):
        """What it answers: so many numbers."""
        self.process.stdin.write(struct.pack(f"={len(sizes)}Q", *sizes) + data)
        self.process.stdin.flush()
        return struct.unpack(f"={answers}Q", self.process.stdout.read(8 * answers))


class Stopwatch(Sender):
    """Counts until the answer has come."""

    def __init__(self, tx, rx, gap=GAP):
        # Else workers of the kernel run meanwhile.
        super().__init__("time", tx, rx, gap, preexec_fn=lambda: os.sched_setscheduler(
            0, os.SCHED_FIFO, os.sched_param(1)))

    def send(self, data):
        """(Instructions, the first answer)."""
        cost, size = self.tell(data, len(data))
        return cost, self.process.stdout.read(size)


class Requests(Stopwatch):
    """For requests to the xfrm of a namespace, without texts for errors."""

    def __init__(self, ns):
        self.socket = ns.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_XFRM)
        self.socket.connect((0, 0))
        super().__init__(self.socket, self.socket)

    def ask(self, kind, body, flags=0, errno=0):
        """(Instructions, the answer), whose errno has to be this if it is an ack."""
        data = Message(kind, netlink.REQUEST | netlink.ACK | flags, 1, 0, body).pack()
        cost, answer = self.send(data)
        message, = netlink.parse(answer)
        got = netlink.parse_ack(message).errno if message.kind == netlink.NLMSG_ERROR else 0
        assert got == errno, f"errno {got}, not {errno}"
        return cost, message

    def cost(self, *request, **more):
        return self.ask(*request, **more)[0]


def quiet():
    """Nothing is loaded from now on: reading files while counting warps time."""
    Path("/proc/sys/kernel/modprobe").write_text("\n")


def result(costs, **what):
    """Tells what was measured."""
    print(json.dumps({**what, "median": round(statistics.median(costs)), "min": min(costs),
                      "max": max(costs), "count": len(costs)}), flush=True)


def hash_size(ns):
    """Chains in each table of SAs."""
    message, = ns.xfrm.must(xfrm.GETSADINFO, xfrm.u32(0))
    return struct.unpack_from("=I", dict(netlink.parse_attrs(message.body[4:]))[2])[0]


def fill(ns, count, src="192.0.2.1", dst="192.0.2.2"):
    """Adds SAs up to that number, with SPIs from 0x100. Each has a reqid of its
    own, else all were in one chain."""
    one = ns.xfrm.message(xfrm.NEWSA, SA(src, dst, 0).pack(), netlink.CREATE).pack()
    batch = 50 * bytearray(one)
    for first in range(ns.xfrm.count(), count, 50):
        for n in range(50):
            place = n * len(one) + 16       # offsets as in xfrm.INFO, behind the header
            struct.pack_into(">I", batch, place + 72, 0x100 + first + n)
            struct.pack_into("=I", batch, place + 208, first + n)
        ns.xfrm.send(batch[:(count - first) * len(one)])
    assert ns.xfrm.count() >= count


def listen(ns):
    """Hears of moves, as many as there are, and needn't read."""
    listener = ns.listen(xfrm.GROUP_MIGRATE)
    listener.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 28)
    return listener


def each_handler(measure):
    """C, Rust, C: without the module, with it, without it again."""
    measure(C)
    with handler.module():
        measure(RUST)
    measure(AGAIN)

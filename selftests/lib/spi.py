# SPDX-License-Identifier: GPL-2.0
"""Asking for SPIs, by netlink and by PF_KEY, and the scope of a namespace."""

import contextlib
import os
import socket
import struct
import subprocess

from lib import handler, ktap, xfrm
from lib.netlink import attrs
from lib.netns import Netns
from lib.xfrm import A, SA, family, parse_sa

NO_SPI = 2, "No SPI available in the requested range"
SCOPE = "xfrm_next/spi_scope"
SADB_GETSPI, SADB_FLUSH, SATYPE_ESP = 1, 9, 3
EXT_SRC, EXT_DST, EXT_RANGE = 5, 6, 16
# For a table of so many chains and fewer.
CHAINS_BITS = 16


def patient(ns):
    """Lets larval SAs live on a machine that is slow, too."""
    ns.sysctl("core/xfrm_acq_expires", 3600)


def in_one_chain(n, spi):
    """The n-th address whose SAs with this SPI are all in one chain of the kernel's table:
    __xfrm_spi_hash() has no key."""
    h = n << CHAINS_BITS
    for bit in range(CHAINS_BITS - 1, -1, -1):
        h |= ((h >> bit + 10 ^ h >> bit + 20) & 1) << bit
    # The hash takes the SPI as it is in memory, the address as a number.
    network_order, = struct.unpack("=I", struct.pack(">I", spi))
    return socket.inet_ntoa(struct.pack(">I", h ^ network_order))


def spread(n, _spi):
    """The n-th address, whose SAs are all over the table."""
    return socket.inet_ntoa(struct.pack(">I", 0x0b000000 + n))


@contextlib.contextmanager
def namespace(value=None):
    """A namespace with this scope, served by the module."""
    if not handler.loaded():
        raise ktap.Skip("XFRM_NEXT_KO names no module")
    with Netns() as ns:
        patient(ns)
        if value is not None:
            scope(ns, value)
        yield ns


def scope(ns, value=None):
    """Reads or writes the scope of a namespace."""
    return ns.sysctl(SCOPE, value)


def larval(dst, low=0x100, high=None, src="192.0.2.1", proto=xfrm.ESP, direction=None, **more):
    """An SA to ask for: its range is `low` to `high`, its SPI none yet."""
    sa = SA(src, dst, 0, proto=proto, attrs={}, **more)
    if direction:
        sa = sa.but({"SA_DIR": bytes([direction])})
    return sa, low, low if high is None else high


def request(nl, wanted):
    """The Reply to ALLOCSPI."""
    sa, low, high = wanted
    return nl.request(xfrm.ALLOCSPI, sa.info() + struct.pack("=II", low, high)
                      + attrs((A[k], v) for k, v in sa.attrs.items()))


def verdict(nl, wanted):
    return request(nl, wanted).verdict


def must(nl, wanted):
    """The larval SA as the answer shows it."""
    reply = request(nl, wanted)
    if reply.errno:
        raise ktap.Failed(f"{wanted}: {reply}")
    return parse_sa(reply.messages[0].body)


def acquire(ns, src, dst):
    """Makes the kernel ask for an SA, which is outbound; the number of that."""
    ns.dummy("d")
    ns.address("d", src + "/24")
    ns.xfrm.policy(xfrm.POLICY_OUT, xfrm.host(dst, src), SA(src, dst, 0))
    ns.listen(xfrm.GROUP_ACQUIRE)
    with contextlib.suppress(OSError):
        ns.udp(src, 9).sendto(b"x", (dst, 9))
    return next(s["seq"] for s in ns.xfrm.all() if s["seq"])


def _sockaddr(address):
    if family(address) == socket.AF_INET:
        return struct.pack("=HH4s8x", socket.AF_INET, 0, xfrm.addr(address)[:4])
    return struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, xfrm.addr(address), 0)


class PfKey:
    """A PF_KEY socket of the namespace it was made in."""

    def __init__(self):
        try:
            self.socket = socket.socket(15, socket.SOCK_RAW, 2)
        except OSError as why:
            raise ktap.Skip(f"no PF_KEY: {why.strerror}") from None
        self.socket.settimeout(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def request(self, kind, extensions=()):
        """(errno, the SPI if there is one in the answer)."""
        body = b"".join(struct.pack("=HH", (4 + len(e)) // 8, t) + e for t, e in extensions)
        self.socket.send(struct.pack("=BBBBHHII", 2, kind, 0, SATYPE_ESP, 2 + len(body) // 8,
                                     0, 7, os.getpid()) + body)
        while True:
            answer = self.socket.recv(65536)
            _, got, error, _, _, _, seq, pid = struct.unpack_from("=BBBBHHII", answer)
            if (got, seq, pid) == (kind, 7, os.getpid()):
                break
        spi = None
        if not error and kind == SADB_GETSPI:
            at = 16
            while at < len(answer):
                length, ext = struct.unpack_from("=HH", answer, at)
                if ext == 1:
                    spi, = struct.unpack_from(">I", answer, at + 4)
                at += 8 * length
        return error, spi

    def getspi(self, dst, spi):
        ends = [(t, struct.pack("=BBH", 0, 0, 0) + _sockaddr(a))
                for t, a in ((EXT_SRC, "192.0.2.1"), (EXT_DST, dst))]
        span = struct.pack("=III", spi, spi, 0)
        return self.request(SADB_GETSPI, [*ends, (EXT_RANGE, span)])

    def flush(self):
        return self.request(SADB_FLUSH)


def pfkey(ns):
    subprocess.run(["modprobe", "-q", "af_key"], check=False)
    with ns.inside():
        return ns.keep(PfKey())

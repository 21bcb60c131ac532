#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""An SA makes the same IV of a number, however often it has been migrated.

So no other number gets that IV. Generators with one key and two salts may make it twice.
"""

import errno
import itertools

from lib import flood, ktap, xfrm
from lib.handler import BRIEF, C, SOAK
from lib.hosts import V4, V4_MOVED, V6, V6_MOVED, Hosts, esp, frames
from lib.ktap import defect, equal, only
from lib.netns import Netns
from lib.xfrm import SA, changes

SPI = 0x1000
PORTS = 4500, 4501
ROUNDS = 25 if SOAK else 1
# The upper half of the numbers changes soon.
BRINK = 7 << 32 | 0xfffffffd


def udp(*ports):
    return [("ENCAP", xfrm.encap(*ports))]


NO_UDP = [("ENCAP", xfrm.encap(0, 0, 0))]
# Where an SA moves, and what else changes then.
WITHIN = {xfrm.AF_INET: (V4, V4_MOVED), xfrm.AF_INET6: (V6, V6_MOVED)}
IN_FAMILY = {family: ((moved, []), (moved, udp(4500, 4500)), (start, []),
                      (moved, udp(40001, 4501)), (start, NO_UDP))
             for family, (start, moved) in WITHIN.items()}
ANYWHERE = ((V4_MOVED, []), (V6, []), (V6_MOVED, udp(4500, 4500)), (V4, []),
            (V4_MOVED, udp(40001, 4501)), (V6, NO_UDP), (V4, []))


class Numbered:
    """An SA from A to B, and what B's tap has seen of it."""

    def __init__(self, two, sa, inner, number=0):
        self.two, self.start = two, number
        low, high = number & 0xffffffff, number >> 32
        if sa.flags & xfrm.FLAG_ESN:
            self.counters = [("REPLAY_ESN_VAL", xfrm.esn(0, 0, oseq=low, oseq_hi=high)),
                             ("REPLAY_ESN_VAL", xfrm.esn(64, 2, seq=low, seq_hi=high))]
        else:
            self.counters = [("REPLAY_VAL", xfrm.replay(low, 0, 0)),
                             ("REPLAY_VAL", xfrm.replay(0, low, 0))]
        out, in_ = self.counters
        two.sa(sa, inner, more_out=dict([out]), more_in=dict([in_]))
        self.tap, self.seen = two.tap(two.b), []

    def send(self):
        """One more datagram, which arrives."""
        self.two.send(1)
        self.seen += map(esp, frames(self.tap))

    def again(self):
        """The same numbers once more, by the SA as it is now."""
        two, count, self.seen = self.two, len(self.seen), []
        for host, sa, counter in zip((two.a, two.b), (two.out, two.in_), self.counters):
            host.xfrm.set_ae(sa, [counter])
        for _ in range(count):
            self.send()

    def ivs(self, size):
        """{number: IV of that size} of all that was sent since the first number."""
        numbers = [number for number, _ in self.seen]
        equal(numbers, [self.start + n & 0xffffffff for n in range(1, len(numbers) + 1)],
              "numbers on the wire")
        return {self.start + n: body[:size].hex() for n, (_, body) in enumerate(self.seen, 1)}


def salts(ivs):
    """What seqiv has made them of."""
    return {f"{int(iv, 16) ^ number:016x}" for number, iv in ivs.items()}


def flow(algs, size, mode, start, inner, number, moves):
    """Datagrams between migrations; then their numbers are used again without any."""
    with Hosts() as two:
        for port in PORTS:
            two.encap_socket(port, xfrm.AF_INET6)     # and IPv4
        flags = xfrm.FLAG_ESN if number else 0
        sent = Numbered(two, SA(*start, SPI, mode=mode, reqid=5, flags=flags, attrs=algs),
                        inner, number)
        sent.send()
        for end, add in moves * ROUNDS:
            two.migrate(end, a=add, b=add)
            sent.send()
        ivs = sent.ivs(size)
        if size == 8:
            equal(len(salts(ivs)), 1, "different salts")
        sent.again()
        equal(changes(ivs, sent.ivs(size)), {}, "numbers that now get another IV")


def need(algs):
    """Skips the test if this kernel has no such algorithms."""
    with Netns() as ns:
        try:
            ns.xfrm.new(SA(*V4, SPI, attrs=algs))
        except OSError as why:
            if why.errno != errno.ENOSYS:
                raise
            raise ktap.Skip("the kernel lacks the cipher") from why


def cipher(name, algs, size=8):
    """A test of this cipher, in tunnels that change the family and in transport mode."""
    @defect(33)
    def test():
        need(algs)
        kinds = [(xfrm.TUNNEL, V4, xfrm.AF_INET, BRINK, ANYWHERE),
                 (xfrm.TRANSPORT, V6, None, 0, IN_FAMILY[xfrm.AF_INET6])]
        if SOAK:
            kinds += [(xfrm.TUNNEL, V4, inner, number, ANYWHERE)
                      for inner, number in itertools.product(WITHIN, (0, BRINK))]
            kinds += [(xfrm.TRANSPORT, WITHIN[family][0], None, number, IN_FAMILY[family])
                      for family, number in itertools.product(WITHIN, (0, BRINK))]
        for kind in kinds:
            flow(algs, size, *kind)
    test.__name__ = name
    return test


CIPHERS = [cipher(*c) for c in (
    ("gcm", dict([xfrm.aead()])),
    ("cbc", dict([xfrm.crypt(), xfrm.auth()]), 16),
    ("ctr", dict([xfrm.crypt(bytes(range(20)), "rfc3686(ctr(aes))"), xfrm.auth()])),
    ("ccm", dict([xfrm.aead(bytes(range(19)), "rfc4309(ccm(aes))")])),
    ("chacha20_poly1305", dict([xfrm.aead(bytes(range(36)), "rfc7539esp(chacha20,poly1305)")])))]


@only(C)
@defect(35)
def policy_takes_its_sa_along():
    """By XFRM_MSG_MIGRATE, to where it is."""
    with Hosts() as two:
        sent = Numbered(two, SA(*V4, SPI, mode=xfrm.TUNNEL), xfrm.AF_INET)
        sent.send()
        two.a.xfrm.must(*flood.migrate_policy(two.out)[0])
        sent.send()
        equal(len(salts(sent.ivs(8))), 1, "different salts")


if __name__ == "__main__":
    ktap.main((CIPHERS[:2] if BRIEF else CIPHERS) + [policy_takes_its_sa_along])

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The allocator knows each SA, by whatever way it came, and forgets it when it goes."""

import contextlib
import random
import time

from lib import handler, ktap, spi, xfrm
from lib.handler import DEBUG, NEITHER
from lib.ktap import equal, true
from lib.spi import NO_SPI, larval, must, pfkey, request, scope, verdict
from lib.xfrm import COMP, DIR_IN, DIR_OUT, ESP, NO_LIMITS, SA, migrate

HERE, PEER, OTHER = "192.0.2.1", "192.0.2.2", "192.0.2.9"
SA_100 = SA(HERE, PEER, 0x100)
OK = 0, None


def taken(ns, number=0x100, proto=ESP):
    """Whether somebody else has this SPI. Leaves no SPI behind."""
    got = verdict(ns.xfrm, larval(OTHER, number, reqid=0x7a, proto=proto))
    if got == OK:
        equal(ns.xfrm.delete(SA(HERE, OTHER, number, proto=proto)).errno, 0, "deletion")
    true(got in (OK, NO_SPI), got)
    return got == NO_SPI


@contextlib.contextmanager
def strict():
    """A namespace where all SAs count, and whose index has been read."""
    with spi.namespace(2) as ns:
        true(not taken(ns), "taken by nobody")
        yield ns


def is_there(ns, what):
    true(taken(ns), f"not known: {what}")


def is_gone(ns, what):
    true(not taken(ns), f"still known: {what}")


def requests():
    with strict() as ns:
        ns.xfrm.new(SA_100)
        is_there(ns, "NEWSA")
        ns.xfrm.delete(SA_100)
        is_gone(ns, "DELSA")
        must(ns.xfrm, larval(PEER))
        is_there(ns, "larval")
        ns.xfrm.update(SA_100)
        is_there(ns, "UPDSA of a larval one")
        ns.xfrm.update(SA_100.but(reqid=0))
        is_there(ns, "UPDSA")
        ns.xfrm.flush()
        is_gone(ns, "FLUSHSA")
        must(ns.xfrm, larval(PEER))
        ns.xfrm.delete(SA_100)
        is_gone(ns, "DELSA of a larval one")
        # SAs that nobody has asked about in between.
        for _ in range(3):
            ns.xfrm.new(SA_100)
            ns.xfrm.delete(SA_100)
        is_gone(ns, "SAs that were never read")


def pf_key():
    with strict() as ns:
        key = pfkey(ns)
        equal(key.getspi(PEER, 0x100), (0, 0x100), "GETSPI")
        is_there(ns, "GETSPI")
        equal(key.getspi(HERE, 0x100)[0], 2, "GETSPI of the same")
        key.flush()
        is_gone(ns, "SADB_FLUSH")


def expiry():
    with strict() as ns:
        ns.xfrm.new(SA_100.but(lft=NO_LIMITS[:5] + (3, 0, 0)))
        is_there(ns, "NEWSA with a limit")
        ktap.wait(lambda: not ns.xfrm.get(SA_100), "it expires")
        is_gone(ns, "an expired one")
        ns.sysctl("core/xfrm_acq_expires", 3)
        must(ns.xfrm, larval(PEER))
        spi.patient(ns)
        is_there(ns, "larval")
        ktap.wait(lambda: not ns.xfrm.get(SA_100), "it expires")
        is_gone(ns, "an expired larval one")


def migrations():
    """By ours, which takes SAs out of the tables itself, and by the kernel's."""
    with strict() as ns:
        for switch in 1, 0:
            with ns.inside():
                handler.switch(switch)
            sa = ns.xfrm.new(SA_100.but(mode=xfrm.TUNNEL))
            is_there(ns, "NEWSA")
            for dst in PEER, OTHER, "2001:db8::2", PEER:
                src = "2001:db8::1" if ":" in dst else HERE
                equal(ns.xfrm.migrate(migrate(sa, dst=dst, src=src)).errno, 0, f"to {dst}")
                sa = sa.but(dst=dst, src=src)
                equal(verdict(ns.xfrm, larval("192.0.2.77", reqid=5)), NO_SPI, f"at {dst}")
                scope(ns, 0)
                equal(verdict(ns.xfrm, larval(dst, src=src, reqid=6)), NO_SPI, f"at {dst}")
                scope(ns, 2)
            ns.xfrm.delete(sa)
            is_gone(ns, "a migrated one")
            ns.xfrm.flush()


def ipcomp():
    """Its SAs bring SAs of IPIP along, whose numbers are addresses."""
    with strict() as ns:
        sa = SA(HERE, PEER, 0x100, proto=COMP, mode=xfrm.TUNNEL, attrs=dict([xfrm.comp()]))
        ns.xfrm.new(sa)
        true(ns.xfrm.count() == 2, "a hidden SA")
        true(taken(ns, proto=COMP), "not known: IPComp")
        is_gone(ns, "IPComp's, asked for ESP")
        ns.xfrm.delete(sa)
        true(not taken(ns, proto=COMP), "still known: IPComp")
        ktap.wait(lambda: ns.xfrm.count() <= 1, "the hidden one goes")


def acquires():
    """An SA that the kernel makes for a packet, with the template's SPI or none."""
    with strict() as ns:
        seq = spi.acquire(ns, HERE, PEER)
        is_gone(ns, "an acquire without an SPI")      # and reads it
        # It gets its SPI where the index isn't asked.
        scope(ns, 0)
        must(ns.xfrm, larval(PEER, seq=seq))
        scope(ns, 2)
        is_there(ns, "an acquire that got its SPI later")
        ns.xfrm.flush()
        is_gone(ns, "a flushed acquire")


def dumps():
    """A dump that is under way while SPIs are given out, and its place in the list."""
    with strict() as ns:
        for n in range(200):
            ns.xfrm.new(SA(HERE, PEER, 0x1000 + n))
        with ns.inside(), xfrm.Xfrm() as reader:
            reader.send(reader.message(xfrm.GETSA, b"", 0x300).pack())
            seen = [xfrm.parse_sa(m.body)["spi"] for m in reader.receive()]
            true(0 < len(seen) < 200, f"{len(seen)} at once")
            for n in range(50):
                must(ns.xfrm, larval(PEER, 1, 0xfff, reqid=n + 1))
                ns.xfrm.delete(SA(HERE, PEER, 0x1000 + n))
            while (more := [m for m in reader.receive()]) and more[-1].kind != 3:
                seen += [xfrm.parse_sa(m.body)["spi"] for m in more if m.kind == xfrm.NEWSA]
            seen += [xfrm.parse_sa(m.body)["spi"] for m in more if m.kind == xfrm.NEWSA]
        stayed = set(range(0x1000 + 50, 0x1000 + 200))
        equal(stayed - set(seen), set(), "SAs that the dump missed")
        equal([taken(ns, 0x1000 + n) for n in (0, 49, 50, 199)], [False, False, True, True], "SPIs")


class Model:
    """What docs/spi-scope.md says, by looking at each SA."""

    def __init__(self):
        self.sas = {}       # (dst, spi, proto): direction

    def free(self, value, dst, number, proto, asked):
        for (there, n, p), direction in self.sas.items():
            if (n, p) != (number, proto):
                continue
            if there == dst or value == 2 or (
                    value == 1 and asked == DIR_IN and direction != DIR_OUT):
                return False
        return True


def model(steps=150 if DEBUG else 600, seed=None):
    """Random lives of SAs, each request judged by the model."""
    seed = seed or time.time_ns()
    pick = random.Random(seed)
    with spi.namespace() as ns:
        known, value = Model(), 1
        for step in range(steps):
            what = f"step {step} of seed {seed}"
            dst, proto = pick.choice((HERE, PEER, OTHER, "2001:db8::2")), pick.choice((ESP, COMP))
            src = "2001:db8::1" if ":" in dst else "192.0.2.33"
            asked = pick.choice((None, DIR_IN, DIR_OUT))
            low = pick.randrange(0x100, 0x110)
            high = low + pick.choice((0, 0, 3, 15))
            act = pick.randrange(12)
            if act < 7:
                free = {n for n in range(low, high + 1)
                        if known.free(value, dst, n, proto, asked)}
                got = request(ns.xfrm, larval(dst, low, high, src=src, proto=proto,
                                              direction=asked))
                equal(got.verdict, OK if free else NO_SPI, what)
                if free:
                    number = xfrm.parse_sa(got.messages[0].body)["spi"]
                    true(number in free, f"{number:#x} of {free}, {what}")
                    known.sas[dst, number, proto] = asked
            elif act == 7 and (dst, low, ESP) not in known.sas:
                sa = SA(src, dst, low)
                ns.xfrm.new(sa.but({"SA_DIR": bytes([asked])}) if asked else sa)
                known.sas[dst, low, ESP] = asked
            elif act < 10 and known.sas:
                gone = pick.choice(list(known.sas))
                equal(ns.xfrm.delete(SA(src, gone[0], gone[1], proto=gone[2])).errno, 0, what)
                del known.sas[gone]
            elif act == 10:
                value = pick.choice((0, 1, 2))
                scope(ns, value)
            elif act == 11 and pick.random() < 0.1:
                ns.xfrm.flush()
                known.sas.clear()


def _small_objects():
    """How many objects of 64 bytes the kernel has in use."""
    with open("/proc/slabinfo") as f:
        return sum(int(line.split()[1]) for line in f if line.startswith("kmalloc-64 "))


def the_index_stays_small():
    """However many SAs come and go, about as many triples as SAs are kept."""
    with strict() as ns:
        try:
            before = _small_objects()
        except OSError as why:
            raise ktap.Skip(f"no slabinfo: {why.strerror}") from None
        spis = []
        for n in range(800):
            spis.append(must(ns.xfrm, larval(PEER, 0x1000, 0xffffff, reqid=n % 7 + 1))["spi"])
            if n > 2:
                ns.xfrm.delete(SA(HERE, PEER, spis[n - 2]))
        ktap.wait(lambda: _small_objects() - before < 400, "no more than 400 objects")


if __name__ == "__main__":
    ktap.main([
        requests, pf_key, expiry, migrations, ipcomp, acquires, dumps, model,
        # A debug kernel keeps for a while what has been freed.
        *([] if DEBUG else [the_index_stays_small])], handlers=(NEITHER,))

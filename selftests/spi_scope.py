#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Which SPIs are given out: the table of docs/spi-scope.md, and who asked for it."""

import errno
import itertools
import json
import random
import shutil
import subprocess

from lib import ktap, spi, xfrm
from lib.handler import NEITHER
from lib.ktap import equal, true
from lib.spi import NO_SPI, larval, must, scope, verdict
from lib.xfrm import DIR_IN, DIR_OUT, SA

HERE, PEER = "192.0.2.1", "192.0.2.2"
PEERS = [f"198.51.100.{n}" for n in range(1, 6)]
OK = 0, None


def given(scope_, asked, there, same_destination):
    """The table: whether an SPI is given that an SA has."""
    if same_destination or scope_ == 2:
        return False
    return scope_ == 0 or asked != DIR_IN or there == DIR_OUT


def marked(sa, direction):
    return sa.but({"SA_DIR": bytes([direction])}) if direction else sa


def table():
    """Each scope, each direction of the request, each SA that may be there."""
    with spi.namespace() as ns:
        for value, asked, there in itertools.product((0, 1, 2), (None, 1, 2), (None, 1, 2)):
            scope(ns, value)
            for is_larval, same in itertools.product((False, True), repeat=2):
                six = is_larval != same
                peer, other = ("2001:db8::2", "2001:db8::9") if six else (PEER, "192.0.2.9")
                src = "2001:db8::1" if six else HERE
                if is_larval:
                    must(ns.xfrm, larval(peer, src=src, direction=there, reqid=1))
                else:
                    ns.xfrm.new(marked(SA(src, peer, 0x100), there))
                wanted = larval(peer if same else other, src=src, direction=asked, reqid=2)
                want = OK if given(value, asked, there, same) else NO_SPI
                equal(verdict(ns.xfrm, wanted), want,
                      f"scope {value}, asked {asked}, there {there}, "
                      f"larval {is_larval}, same destination {same}")
                # Another protocol is another space.
                ah = larval(PEER, proto=xfrm.AH, direction=asked, reqid=3)
                equal(verdict(ns.xfrm, ah), OK, "AH")
                ns.xfrm.flush()


def reserve(nl, direction):
    """As Android does: an outbound SPI that five peers chose alike, and that is ours as well."""
    got = [verdict(nl, larval(peer, direction=direction)) for peer in PEERS]
    return got + [verdict(nl, larval(HERE, src=PEERS[0], direction=direction and DIR_IN))]


def android():
    bad = [OK] + [NO_SPI] * 5
    for value, direction in itertools.product((0, 1, 2), (None, DIR_OUT)):
        with spi.namespace(value) as ns:
            equal(reserve(ns.xfrm, direction), bad if value == 2 else [OK] * 6,
                  f"scope {value}, direction {direction}")
            if value == 2:
                continue
            # Each becomes an SA with keys.
            for peer in PEERS:
                ns.xfrm.update(SA(HERE, peer, 0x100))
            equal(ns.xfrm.count(), 6, "SAs")


def brunner():
    """An inbound SPI may be one that a peer has chosen; installing outbound SAs
    is nobody's business."""
    with spi.namespace() as ns:
        ns.xfrm.new(marked(SA(HERE, PEER, 0x100), DIR_OUT))
        inbound = larval(HERE, src=PEER, direction=DIR_IN)
        equal(verdict(ns.xfrm, inbound), OK, "inbound, with an outbound one there")
        for value in 0, 1, 2:
            scope(ns, value)
            ns.xfrm.new(marked(SA(HERE, PEERS[value], 0x100), DIR_OUT))


def harold():
    """Who says that it receives gets an SPI of its own; who says nothing gets
    what there was before."""
    with spi.namespace() as ns:
        ours = ["192.0.2.1", "192.0.2.3", "192.0.2.4"]
        equal([verdict(ns.xfrm, larval(dst, src=PEER, direction=DIR_IN)) for dst in ours],
              [OK, NO_SPI, NO_SPI], "inbound")
        equal([verdict(ns.xfrm, larval(dst, src=PEER)) for dst in ours[1:]], [OK, OK], "unmarked")
        # Those weren't marked as outbound, so they count.
        equal(verdict(ns.xfrm, larval("192.0.2.5", src=PEER, direction=DIR_IN)), NO_SPI, "inbound")


def scope_is_per_namespace():
    with spi.namespace() as one, spi.namespace() as two:
        equal([scope(ns) for ns in (one, two)], ["1", "1"], "scopes")
        scope(one, 2)
        scope(two, 0)
        equal([scope(ns) for ns in (one, two)], ["2", "0"], "scopes")
        for ns, want in (one, NO_SPI), (two, OK):
            ns.xfrm.new(SA(HERE, PEER, 0x100))
            equal(verdict(ns.xfrm, larval(HERE)), want, "verdict")
        for bad in "3", "-1", "4294967297", "in":
            try:
                scope(one, bad)
                raise ktap.Failed(f"accepted: {bad}")
            except OSError as why:
                equal(why.errno, errno.EINVAL, f"errno for {bad}")
            equal(scope(one), "2", f"scope after {bad}")


def whole_range():
    with spi.namespace() as ns:
        for value in 0, 1, 2:
            scope(ns, value)
            for low, high in (0, 0xffffffff), (1, 0xffffffff), (0xfffffff0, 0xffffffff), (0, 1):
                got = must(ns.xfrm, larval(PEER, low, high, direction=DIR_IN))["spi"]
                true(max(low, 1) <= got <= high, f"{got:#x} of {low:#x}-{high:#x}")
                ns.xfrm.flush()


def the_last_one_is_found():
    """Each SPI of a range once, however few are left; then none."""
    with spi.namespace() as ns:
        for value in 0, 1, 2:
            scope(ns, value)
            got = [must(ns.xfrm, larval(PEER, 0x100, 0x13f, direction=DIR_IN, reqid=n + 1))["spi"]
                   for n in range(64)]
            equal(sorted(got), list(range(0x100, 0x140)), "SPIs")
            true(got != sorted(got), "they come in order")
            equal(verdict(ns.xfrm, larval(PEER, 0x100, 0x13f, direction=DIR_IN)), NO_SPI, "full")
            for n in random.sample(got, 8):
                ns.xfrm.delete(SA(HERE, PEER, n))
                one = larval(PEER, 0x100, 0x13f, direction=DIR_IN, reqid=99)
                equal(must(ns.xfrm, one)["spi"], n, "the only free one")
            ns.xfrm.flush()


def an_spi_is_kept():
    """An SA that the kernel has asked for is found by its number, and gets one
    SPI; it counts as any other from then on."""
    with spi.namespace() as ns:
        seq = spi.acquire(ns, HERE, PEER)
        other = larval("192.0.2.9", direction=DIR_IN)
        for low in 0x100, 0x101, 0:
            equal(must(ns.xfrm, larval(PEER, low, seq=seq))["spi"], 0x100, "SPI")
        equal(verdict(ns.xfrm, other), OK, "the kernel has marked it as outbound")
        scope(ns, 2)
        equal(verdict(ns.xfrm, larval("192.0.2.8")), NO_SPI, "strict")


def command():
    """xfrm-next asks and shows."""
    if not shutil.which("xfrm-next"):
        raise ktap.Skip("no xfrm-next in PATH")

    def run(line):
        done = subprocess.run(["xfrm-next", "-j", *line.split()], capture_output=True, text=True)
        return json.loads(done.stdout) if not done.returncode else (done.returncode, done.stderr)

    with spi.namespace() as ns, ns.inside():
        ask = f"state allocspi src {HERE} dst {{}} proto esp reqid 7 min 0x100 max 0x100 dir {{}}"
        sa = {"src": HERE, "proto": "esp", "spi": 0x100, "reqid": 7, "mode": "transport"}
        equal(run(ask.format(PEER, "in")), {**sa, "dst": PEER, "dir": "in"}, "inbound")
        equal(run(ask.format("192.0.2.9", "in")), (2, f"Error: {NO_SPI[1]}.\n"), "once more")
        equal(run(ask.format("192.0.2.9", "out")), {**sa, "dst": "192.0.2.9", "dir": "out"},
              "outbound")
        ns.xfrm.update(SA(HERE, PEER, 0x100))
        equal(run("spi show"), {"scope": 1, "sas": 2, "larval": 1, "duplicates": [
            {"spi": 0x100, "proto": "esp", "sas": 2}]}, "what is shared")


if __name__ == "__main__":
    ktap.main([
        table, android, brunner, harold, scope_is_per_namespace, whole_range,
        the_last_one_is_found, an_spi_is_kept, command], handlers=(NEITHER,))

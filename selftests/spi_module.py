#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Giving out SPIs with the module and without: what stays the same, and what
becomes of SAs when it comes and goes."""

import contextlib
import errno
import itertools
import os

from lib import handler, ktap, spi, xfrm
from lib.handler import NEITHER
from lib.ktap import equal, true
from lib.netns import Netns
from lib.spi import NO_SPI, larval, must, pfkey, request, scope, verdict
from lib.xfrm import DIR_IN, DIR_OUT, SA
from spi_scope import reserve

HERE, PEER, OTHER = "192.0.2.1", "192.0.2.2", "192.0.2.9"
OK = 0, None


def both(ask):
    """What ask(namespace) gives without the module and with it."""
    if not handler.KO or not os.path.exists(handler.KO):
        raise ktap.Skip("XFRM_NEXT_KO names no module")
    got = []
    for context in contextlib.nullcontext, handler.module:
        with context(), Netns() as ns:
            spi.patient(ns)
            got.append(ask(ns))
    return got


def strict(ns):
    """Scope 2 is what the kernel does without the module."""
    if handler.loaded():
        scope(ns, 2)
    for asked, there in itertools.product((None, 1, 2), repeat=2):
        sa = SA(HERE, PEER, 0x100)
        ns.xfrm.new(sa.but({"SA_DIR": bytes([there])}) if there else sa)
        for dst in PEER, OTHER:
            equal(verdict(ns.xfrm, larval(dst, direction=asked, reqid=2)), NO_SPI, dst)
        ns.xfrm.flush()
    if handler.loaded():
        scope(ns, 1)


def shared(ns):
    """An SPI for several destinations, by either way to ask."""
    key = pfkey(ns)
    equal([verdict(ns.xfrm, larval(PEER)), key.getspi(PEER, 0x200)], [OK, (0, 0x200)], "first")
    got = [verdict(ns.xfrm, larval(OTHER)), key.getspi(OTHER, 0x200)]
    equal(key.flush(), (0, None), "flush")
    return got


def refused(ns):
    """Errors and texts."""
    sa, *span = larval(PEER)
    wants = [larval(PEER, 2, 1), larval(PEER, 1, 0x10000, proto=xfrm.COMP), larval(PEER, 0, 0),
             larval(PEER, proto=xfrm.UDP), (sa.but({"SA_PCPU": xfrm.u32(1 << 20)}), *span)]
    return [verdict(ns.xfrm, w) for w in wants]


def answers(ns):
    """All that is shown of a larval SA, but the SPI and the time."""
    sa, *span = larval("192.0.2.77", 0x300)
    everything = {"MARK": xfrm.mark(7, 0xff), "IF_ID": xfrm.u32(9), "SA_PCPU": xfrm.u32(0)}
    wants = [larval(PEER, reqid=7, mode=xfrm.TUNNEL, sel=xfrm.host(PEER, HERE)),
             larval("2001:db8::2", 1, 0x100, src="2001:db8::1", direction=DIR_IN),
             larval(PEER, proto=xfrm.COMP, direction=DIR_OUT),
             (sa.but(everything), *span)]
    shown = []
    for want in wants:
        reply = request(ns.xfrm, want)
        equal((reply.errno, len(reply.messages)), (0, 1), f"answer to {want}: {reply}")
        message = reply.messages[0]
        fields = xfrm.parse_sa(message.body)
        fields.pop("cur.add_time")
        true(want[1] <= fields.pop("spi") <= want[2], "SPI")
        shown.append((message.kind, message.flags, len(message.body), list(fields.items())))
    return shown


def acquired(ns):
    """The SA that the kernel asked for, and what is kept of it."""
    seq = spi.acquire(ns, HERE, PEER)
    got = []
    for low, high in (0x100, 0x100), (0x101, 0x101), (0, 0), (0, 0xfffffff):
        fields = must(ns.xfrm, larval(PEER, low, high, seq=seq))
        fields.pop("cur.add_time")
        got.append({**fields, "seq": seq and 1})
    return got


def as_the_kernel_does():
    """With the module unloaded, and with it."""
    def all_of_it(ns):
        strict(ns)
        got = {}
        for ask in refused, answers, acquired, shared:
            got[ask.__name__] = ask(ns)
            ns.xfrm.flush()
        return got
    theirs, ours = both(all_of_it)
    equal(theirs.pop("shared"), [NO_SPI, (errno.ENOENT, None)], "shared, without the module")
    equal(ours.pop("shared"), [OK, (0, 0x200)], "shared, with the module")
    for name in theirs:
        for our, their in zip(ours[name], theirs[name], strict=True):
            equal(our, their, name)
    equal(ours["refused"][:3], [(errno.EINVAL, "Invalid SPI range: min > max"),
                                (errno.EINVAL, "IPCOMP SPI must be <= 65535"), NO_SPI], "texts")


def android():
    """Fails with the kernel as it is, and works with the module."""
    def reserved(ns):
        got = []
        for direction in None, DIR_OUT:
            got += reserve(ns.xfrm, direction)
            ns.xfrm.flush()
        return got
    theirs, ours = both(reserved)
    equal(theirs, ([OK] + [NO_SPI] * 5) * 2, "verdicts, without the module")
    equal(ours, [OK] * 12, "verdicts, with it")


def comes_and_goes():
    """SAs that are there when it comes, larval ones when it goes, namespaces
    that are older or end meanwhile."""
    with Netns() as ns:
        spi.patient(ns)
        ns.xfrm.new(SA(HERE, PEER, 0x100))
        must(ns.xfrm, larval(PEER, 0x101))

        def known(ask):
            equal([verdict(ns.xfrm, larval(OTHER, n, direction=DIR_IN)) for n in (0x100, 0x101)],
                  [NO_SPI] * 2, ask)
        known("before")
        with handler.module(), Netns() as ends:
            equal([scope(each) for each in (ns, ends)], ["1", "1"], "scopes")
            known("with the module")
            for each in ns, ends:
                scope(each, 2)
                must(each.xfrm, larval(OTHER, 0x102, reqid=1))
        known("after")
        equal(verdict(ns.xfrm, larval(PEER, 0x102)), NO_SPI, "one that the module has given")
        ns.xfrm.update(SA(HERE, PEER, 0x101))
        ns.xfrm.update(SA(HERE, OTHER, 0x102))
        equal([s["spi"] for s in ns.xfrm.all() if "ALG_AEAD" in s], [0x102, 0x101, 0x100], "SAs")
        ns.xfrm.flush()
        equal(ns.xfrm.count(), 0, "SAs")


if __name__ == "__main__":
    ktap.main([as_the_kernel_does, android, comes_and_goes], handlers=(NEITHER,), load=False)

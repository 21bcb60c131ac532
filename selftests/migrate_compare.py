#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The same requests to both handlers: same answers, SAs and notifications.

The requests come from a fixed seed. They stay clear of the defects of the
in-tree handler, which have tests of their own; where a defect shows in every
request, what it spoils is left out of the comparison.
"""

import contextlib
import errno
import random
import struct
from dataclasses import replace

from lib import handler, ktap, xfrm
from lib.ktap import equal
from lib.netlink import parse_attrs
from lib.netns import Netns
from lib.xfrm import SA, Selector, host, mark, migrate, u32

ROUNDS = 150
V4, V6 = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")
OTHERS = (V4, V6, ("192.0.2.3", "192.0.2.4"), ("2001:db8::3", "2001:db8::4"))
OCCUPIED = {"192.0.2.9", "2001:db8::9"}
HMAC = dict([xfrm.auth()])
CBC = dict([xfrm.crypt(), xfrm.auth()])
OUT, IN = {"SA_DIR": b"\2"}, {"SA_DIR": b"\1"}
NATTED = {"ENCAP": xfrm.encap(4500, 4501, origin="192.0.2.66")}
LAYERS = {"Only tunnel modes can accommodate a change of family"}     # defect 21


def sas(ends):
    """Kinds of SAs between these ends."""
    base = SA(*ends, 0x100, reqid=7, seq=3)
    direct = base.but(sel=host(base.dst, base.src, proto=6, dport=80, dmask=0xffff))
    esn = {"REPLAY_ESN_VAL": xfrm.esn(64, 2)}
    yield from (base, base.but(OUT), base.but(IN, window=32), direct,
                direct.but(OUT, mode=xfrm.TUNNEL), direct.but(IN, mode=xfrm.BEET),
                base.but({**IN, **esn}, flags=xfrm.FLAG_ESN),
                base.but({**OUT, **NATTED, "NAT_KEEPALIVE_INTERVAL": u32(9)}),
                base.but({**IN, **NATTED, "MTIMER_THRESH": u32(9)}, mode=xfrm.TUNNEL),
                base.but({"MARK": mark(5, 0xff), "SET_MARK": u32(6), "SET_MARK_MASK": u32(7)}),
                base.but(attrs={**OUT, **CBC}, mode=xfrm.TUNNEL, flags=3 & ~2),
                base.but(attrs=HMAC, proto=xfrm.AH),
                base.but(attrs=dict([xfrm.comp()]), proto=xfrm.COMP, spi=0x77),
                base.but({**OUT, "TFCPAD": u32(9), "IF_ID": u32(8)}, mode=xfrm.TUNNEL),
                base.but({**OUT, "IPTFS_PKT_SIZE": u32(999)}, mode=xfrm.IPTFS))


def some_request(rng, sa):
    """Each thing that can be asked for, sometimes wrongly."""
    tame = [e for e in OTHERS if xfrm.family(e[1]) == sa.family]
    src, dst = rng.choice(rng.choice((OTHERS, tame, tame)))
    if rng.random() < 0.1:
        dst = rng.choice(sorted(d for d in OCCUPIED if xfrm.family(d) == xfrm.family(src)))
    tunnel = Selector("198.51.100.0", "", rng.choice((0, 24, 32, 33)), 8, 1, 2, 3, 4, 2, 17)
    sel = rng.choice((sa.sel, sa.sel, sa.sel, host(dst, src), host(dst, src), tunnel,
                      Selector(family=10, plen_d=rng.choice((0, 128, 129))),
                      Selector(family=rng.choice((2, 7, 10)))))
    request = migrate(sa, dst=dst, src=src, sel=sel, reqid=rng.choice((0, 7, 1 << 31)),
                      flags=rng.choice((0,) * 6 + (1, 1, 2, 3, 4)))
    add = {}
    if rng.random() < 0.3:
        add["ENCAP"] = xfrm.encap(rng.randrange(1, 65536), rng.randrange(1, 65536),
                                  rng.choice((0, 2, 2, 2, 3)))
    encap = struct.unpack("=H", add.get("ENCAP", sa.attrs.get("ENCAP", b"\0\0"))[:2])[0]
    if rng.random() < 0.2 and dst not in OCCUPIED:
        add["MARK"] = mark(rng.randrange(1, 256), 0xff)
    if rng.random() < 0.2:
        add["SET_MARK"] = u32(rng.randrange(1 << 32))
        add["SET_MARK_MASK"] = u32(rng.choice((0, 0xff, 0xffffffff)))
    if rng.random() < 0.1:
        add["MTIMER_THRESH"] = u32(rng.randrange(0 if encap else 1, 99))
    if rng.random() < 0.1:
        add["NAT_KEEPALIVE_INTERVAL"] = u32(rng.randrange(99))
    if rng.random() < 0.1 and not request.flags & xfrm.CLEAR_OFFLOAD:
        add["OFFLOAD_DEV"] = xfrm.offload(1, rng.choice((0, 2, 8)))
    if rng.random() < 0.05:
        add["IF_ID"] = u32(1)
    shuffled = rng.sample(sorted(add.items()), len(add))
    return replace(request, attrs=tuple(shuffled))


def outcome(sa, request):
    """What one handler makes of it, without what the defects spoil."""
    with Netns() as ns:
        ns.xfrm.new(sa)
        ns.xfrm.set_ae(sa, [("LTIME_VAL", xfrm.lifetime(9, 8, 1000000000, 1000000001))])
        # The occupants have an address and SPI in common with nobody else.
        for dst in OCCUPIED:
            with contextlib.suppress(OSError):
                ns.xfrm.new(SA(dst, dst, sa.spi, proto=sa.proto, attrs={
                    k: v for k, v in sa.attrs.items() if k.startswith("ALG_")},
                    lft=sa.lft, mode=xfrm.TRANSPORT))
        hear = ns.listen(*range(1, xfrm.GROUP_MAX + 1))
        reply = ns.xfrm.migrate(request, port=ns.xfrm.port)
        code = errno.EPROTONOSUPPORT if reply.text in LAYERS else reply.errno
        told = [(m.kind, m.flags, m.body[:132],
                 [(k, v) for k, v in parse_attrs(m.body[132:])
                  if not spoiled(xfrm.ATTRS[k], v, request)]) for m in hear.pending()]
        dump = [{k: v for k, v in found.items() if k != "cur.add_time" or
                 found["spi"] == sa.spi and v == 1000000000} for found in ns.xfrm.all()]
        return (code, reply.text, reply.offset), told, sorted(map(repr, dump))


def spoiled(name, value, request):
    """Attributes of a notification that the in-tree handler gets wrong (13)."""
    asked = dict(request.attrs)
    return (name == "MARK" and name not in asked or name == "OFFLOAD_DEV"
            or name == "ENCAP" and value[:2] == b"\0\0")


def compare(ends):
    rng = random.Random(1)
    kinds = list(sas(ends))
    done = refused = 0
    for _ in range(ROUNDS):
        sa = rng.choice(kinds)
        request = some_request(rng, sa)
        handler.use(handler.C)
        right = outcome(sa, request)
        handler.use(handler.RUST)
        got = outcome(sa, request)
        for what, ours, theirs in zip(("answer", "notifications", "SAs"), got, right):
            equal(ours, theirs, f"{what} to {request}\n  for {sa}")
        done += right[0][0] == 0
        refused += right[0][0] not in (0, errno.ERANGE)
    print(f"# {done} done, {refused} refused")
    # Else the requests are too wild, or too tame, to show anything.
    ktap.true(min(done, refused) > ROUNDS // 10, f"{done} done, {refused} refused")


def requests_about_ipv4():
    compare(V4)


def requests_about_ipv6():
    compare(V6)


def damaged_requests_do_no_harm():
    """Bytes changed and cut off: an answer comes, and one SA is there."""
    rng = random.Random(2)
    for sa in sas(V4):
        with Netns() as ns:
            ns.xfrm.new(sa)
            before = ns.xfrm.all()
            for _ in range(ROUNDS // 5):
                body = bytearray(some_request(rng, sa).pack())
                for _ in range(rng.randrange(1, 4)):
                    body[rng.randrange(24, len(body))] = rng.randrange(256)
                del body[len(body) - rng.choice((0, 0, 0, 1, 5)):]
                code = ns.xfrm.request(xfrm.MIGRATE_STATE, bytes(body)).errno
                if code:
                    equal(ns.xfrm.all(), before, f"SAs after {errno.errorcode[code]}")
                    continue
                equal(len(ns.xfrm.all()), 1, "SAs after a success")
                ns.xfrm.flush()
                ns.xfrm.new(sa)
                before = ns.xfrm.all()


if __name__ == "__main__":
    ktap.main([requests_about_ipv4, requests_about_ipv6, damaged_requests_do_no_harm],
              handlers=(handler.RUST,))

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What listeners of XFRMNLGRP_MIGRATE hear, byte by byte."""

import dataclasses

from lib import ktap, xfrm
from lib.ktap import equal
from lib.netlink import attrs, parse_attrs
from lib.netns import Netns
from lib.xfrm import A, SA, Selector, host, mark, migrate, u32

SOFT = SA("192.0.2.1", "192.0.2.2", 0x100, reqid=7, sel=Selector(proto=6, family=2))
OUT = SOFT.but({"SA_DIR": bytes([xfrm.DIR_OUT])})
IN = SOFT.but({"SA_DIR": bytes([xfrm.DIR_IN])})
ENCAP = xfrm.encap(4500, 4501, origin="192.0.2.77")
OTHER = xfrm.encap(1, 2)
GROUPS = range(1, xfrm.GROUP_MAX + 1)


def told(sa, want, real=None, **request):
    """Every group together hears one message: this header, these attributes.

    The port id is the sender's, which in these tests also writes it into its
    request.
    """
    with Netns() as ns:
        ns.xfrm.new(sa)
        hear = ns.listen(*GROUPS)
        asked = migrate(sa, **request)
        equal(ns.xfrm.migrate(asked, port=ns.xfrm.port)[:2], (0, None), "answer")
        messages = hear.pending()
        equal([m.kind for m in messages], [xfrm.MIGRATE_STATE], "message types")
        message = messages[0]
        equal((message.flags, message.seq, message.port), (0, ns.xfrm.seq, ns.xfrm.port),
              "flags, sequence number, port id")
        body = asked.header(real.pack() if real else None)
        equal(message.body[:len(body)], body, "header")
        equal([(xfrm.ATTRS[k], v) for k, v in parse_attrs(message.body[len(body):])],
              want, "attributes")
        equal(message.body[len(body):], attrs((A[k], v) for k, v in want), "padding")


def header_repeats_the_request():
    told(SOFT, [], dst="192.0.2.8", src="192.0.2.9", reqid=12,
         sel=Selector("198.51.100.0", "", 24, 0, 80, 0xffff, 7, 9, 2, 17, 1, 3))


def flags_are_echoed():
    direct = SOFT.but(sel=host(SOFT.dst, SOFT.src, proto=6, dport=80, dmask=0xffff))
    told(SOFT, [], flags=xfrm.CLEAR_OFFLOAD)
    told(direct, [], flags=xfrm.UPDATE_H2H_SEL | xfrm.CLEAR_OFFLOAD, real=direct.sel)


def selector_is_the_real_one():
    """With UPDATE_H2H_SEL not the one of the request."""
    direct = SOFT.but(sel=host(SOFT.dst, SOFT.src, proto=6, dport=80, dmask=0xffff),
                      mode=xfrm.TUNNEL)
    for src, dst in (("192.0.2.9", "192.0.2.8"), ("2001:db8::9", "2001:db8::8")):
        real = host(dst, src, proto=6, dport=80, dmask=0xffff)
        with Netns() as ns:
            ns.xfrm.new(direct)
            hear = ns.listen(xfrm.GROUP_MIGRATE)
            asked = migrate(direct, dst=dst, src=src, flags=xfrm.UPDATE_H2H_SEL)
            asked = dataclasses.replace(asked, sel=b"\xaa" * 56)
            equal(ns.xfrm.migrate(asked).errno, 0, "answer")
            message, = hear.pending()
            equal(message.body, asked.header(real.pack()), "message")


def direction():
    told(OUT, [("SA_DIR", b"\2")], reqid=1)
    told(IN, [("SA_DIR", b"\1")], reqid=1)


def mark_that_was_set():
    new = ("MARK", mark(6, 0xff))
    told(SOFT, [new], add=[new])
    told(SOFT.but({"MARK": mark(5, 0xff)}), [new], add=[new])


def output_mark_inherited_set_and_cleared():
    marked = SOFT.but({"SET_MARK": u32(5), "SET_MARK_MASK": u32(0xff)})
    inherited = [("SET_MARK", u32(5)), ("SET_MARK_MASK", u32(0xff))]
    six, mask = ("SET_MARK", u32(6)), ("SET_MARK_MASK", u32(0xf))
    told(marked, inherited, reqid=1)
    told(marked, [six, ("SET_MARK_MASK", u32(0xffffffff))], add=[six])
    told(SOFT, [six, mask], add=[six, mask])
    told(marked, [], add=[("SET_MARK", u32(0)), ("SET_MARK_MASK", u32(0))])


def encapsulation_inherited_and_set():
    natted = SOFT.but({"ENCAP": ENCAP})
    told(natted, [("ENCAP", ENCAP)], reqid=1)
    told(natted, [("ENCAP", OTHER)], add=[("ENCAP", OTHER)])
    told(SOFT, [("ENCAP", OTHER)], add=[("ENCAP", OTHER)])


def threshold_and_interval():
    timed = IN.but({"ENCAP": ENCAP, "MTIMER_THRESH": u32(30)})
    lively = OUT.but({"ENCAP": ENCAP, "NAT_KEEPALIVE_INTERVAL": u32(40)})
    for sa, name, side in ((timed, "MTIMER_THRESH", b"\1"),
                           (lively, "NAT_KEEPALIVE_INTERVAL", b"\2")):
        told(sa, [("ENCAP", ENCAP), (name, sa.attrs[name]), ("SA_DIR", side)], reqid=1)
        told(sa, [("ENCAP", ENCAP), (name, u32(5)), ("SA_DIR", side)], add=[(name, u32(5))])
        told(sa, [("ENCAP", ENCAP), ("SA_DIR", side)], add=[(name, u32(0))])


def order_of_attributes():
    """That of the document, whatever the order of the request."""
    want = [("ENCAP", OTHER), ("MARK", mark(1, 1)), ("SET_MARK", u32(2)),
            ("SET_MARK_MASK", u32(3)), ("MTIMER_THRESH", u32(4)), ("SA_DIR", b"\1")]
    told(IN, want, add=want[-2::-1])


def other_listeners_hear_nothing():
    """No NEWSA, DELSA or EXPIRE: only the migration is told, to its group."""
    with Netns() as ns:
        ns.xfrm.new(OUT)
        others = ns.listen(*(g for g in GROUPS if g != xfrm.GROUP_MIGRATE))
        hear = ns.listen(xfrm.GROUP_MIGRATE)
        equal(ns.xfrm.migrate(migrate(OUT, dst="192.0.2.8")).errno, 0, "answer")
        equal((len(hear.pending()), len(others.pending())), (1, 0), "messages")


def the_sender_hears_it_too():
    """Its notification comes before its answer."""
    with Netns() as ns:
        sender = ns.listen(xfrm.GROUP_MIGRATE)
        sender.new(OUT)
        reply = sender.migrate(migrate(OUT, reqid=1))
        equal([m.kind for m in reply.messages], [xfrm.MIGRATE_STATE], "heard before the answer")


if __name__ == "__main__":
    ktap.main([
        header_repeats_the_request, flags_are_echoed, selector_is_the_real_one, direction,
        mark_that_was_set, output_mark_inherited_set_and_cleared,
        encapsulation_inherited_and_set, threshold_and_interval, order_of_attributes,
        other_listeners_hear_nothing, the_sender_hears_it_too])

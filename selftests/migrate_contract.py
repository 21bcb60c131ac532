#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What XFRM_MSG_MIGRATE_STATE refuses: errno, text, offset and order."""

import ctypes
import errno
import itertools
import os
import struct
from dataclasses import replace

from lib import handler, ktap, netlink, xfrm
from lib.ktap import equal
from lib.netns import CLONE_NEWNET, Netns
from lib.xfrm import SA, A, Selector, host, migrate, u32

INVAL = errno.EINVAL
HEADER = 16 + 132       # where the first attribute starts
SOFT = SA("192.0.2.1", "192.0.2.2", 0x100, reqid=7)
OUT = SOFT.but({"SA_DIR": bytes([xfrm.DIR_OUT])}, spi=0x101)
IN = SOFT.but({"SA_DIR": bytes([xfrm.DIR_IN])}, spi=0x102)
ENCAP = {"ENCAP": xfrm.encap(4500, 4500)}


def refused(ns, sa, request, code, text, offset=None):
    """The answer is exactly this, nobody is told, and the SA is as before."""
    before, hear = ns.xfrm.get(sa), ns.listen(*range(1, xfrm.GROUP_MAX + 1))
    reply = ns.xfrm.migrate(request)
    equal(reply[:3], (code, text, offset), f"answer to {request}")
    equal(ns.xfrm.get(sa), before, "the SA after a refusal")
    equal(hear.pending(), [], "notifications of a refusal")
    hear.close()


def each(sa, rows):
    """Sends each (request, errno, text[, offset]) to a namespace with that SA."""
    with Netns() as ns:
        ns.xfrm.new(sa)
        for row in rows:
            refused(ns, sa, *row)


def probe_of_unknown_spi_is_esrch():
    with Netns() as ns:
        body = bytes(16) + struct.pack(">I", 1) + bytes(108) + struct.pack("=HH", 2, 0)
        reply = ns.xfrm.request(xfrm.MIGRATE_STATE, body)
        equal(reply[:3], (errno.ESRCH, "Can not find state", None), "probe")


def probes_of_other_programs_are_esrch():
    """Which take that for yes: ze asks with family 0, openpacketcore-sdk with the last SPI."""
    with Netns() as ns:
        for family, spi in ((0, 1), (2, 0xffffffff)):
            body = (bytes(16) + struct.pack(">I", spi) + struct.pack("=HBx", family, xfrm.ESP)
                    + bytes(104) + struct.pack("=HH", 2, 0))
            reply = ns.xfrm.request(xfrm.MIGRATE_STATE, body)
            equal(reply[:3], (errno.ESRCH, "Can not find state", None), f"probe of SPI {spi:#x}")


def capability_is_required():
    """Without CAP_NET_ADMIN at the time of the request there is no text."""
    with Netns() as ns:
        ns.xfrm.new(SOFT)
        head, CAP_NET_ADMIN = struct.pack("=Ii", 0x20080522, 0), 12
        caps = ctypes.create_string_buffer(24)
        handler.libc.capget(head, caps)
        low, *rest = struct.unpack("=6I", caps.raw)
        handler.libc.capset(head, struct.pack("=6I", low & ~(1 << CAP_NET_ADMIN), *rest))
        try:
            reply = ns.xfrm.migrate(migrate(SOFT, reqid=9))
        finally:
            handler.libc.capset(head, caps.raw)
        equal(reply[:3], (errno.EPERM, None, None), "request without CAP_NET_ADMIN")
        equal(ns.xfrm.get(SOFT)["reqid"], 7, "reqid")


def user_namespace_serves_its_own_network_only():
    """Root of a user namespace may in a netns it owns, not in ours."""
    with Netns() as ns:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                with ns.inside():
                    if handler.libc.unshare(0x10000000):    # CLONE_NEWUSER
                        os.write(write, b"unsupported")
                        return
                    ours = xfrm.Xfrm()
                    handler.libc.unshare(CLONE_NEWNET)
                    own = xfrm.Xfrm()
                    answers = [s.migrate(migrate(SOFT))[:2] for s in (ours, own)]
                    os.write(write, repr(answers).encode())
            finally:
                os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as f:
            said = f.read()
        if said == "unsupported":
            raise ktap.Skip("no user namespaces")
        equal(said, repr([(errno.EPERM, None), (errno.ESRCH, "Can not find state")]),
              "answers in the parent's netns and in its own")


def short_header():
    with Netns() as ns:
        for size in (0, 1, 56, 131):
            reply = ns.xfrm.request(xfrm.MIGRATE_STATE, migrate(SOFT).pack()[:size])
            equal(reply.verdict, (INVAL, "Invalid header length"), f"body of {size}")


def short_attributes():
    sizes = {"ENCAP": 24, "MARK": 8, "OFFLOAD_DEV": 8, "SET_MARK": 4,
             "SET_MARK_MASK": 4, "MTIMER_THRESH": 4}
    policy = "Attribute failed policy validation"
    first = ("MARK", xfrm.mark(0, 0))      # moves the bad one by 12 bytes
    request = migrate(SOFT)
    each(SOFT, [(request.but([(k, bytes(n - 1))]), errno.ERANGE, policy, HEADER)
                for k, n in sizes.items()]
         + [(request.but([first, (k, b"")]), errno.ERANGE, policy, HEADER + 12)
            for k in sizes])


def attributes_from_sa_dir_on_are_parsed_strictly():
    """NAT_KEEPALIVE_INTERVAL is the only one of those that is allowed."""
    keepalive, request = A["NAT_KEEPALIVE_INTERVAL"], migrate(SOFT)
    length, nested = "invalid attribute length", "NLA_F_NESTED not expected"
    each(SOFT, [
        (request.but([(keepalive, bytes(3))]), INVAL, length, HEADER),
        (request.but([(keepalive, bytes(5))]), INVAL, length, HEADER),
        (request.but([(keepalive | 0x8000, bytes(4))]), INVAL, nested, HEADER),
        (request.but([("SA_DIR", bytes(2))]), INVAL, length, HEADER),
        (request.but([("SA_DIR", b"\3")]), errno.ERANGE, "integer out of range", HEADER),
    ])


def long_attributes_below_sa_dir_are_cut():
    """Older attributes may be longer, or flagged as nested."""
    with Netns() as ns:
        ns.xfrm.new(SOFT)
        for add in (("SET_MARK", u32(5) + bytes(8)), (A["SET_MARK"] | 0x8000, u32(5)),
                    ("MARK", bytes(12))):
            equal(ns.xfrm.migrate(migrate(SOFT, add=[add])).errno, 0, f"attribute {add}")
        equal(ns.xfrm.get(SOFT)["SET_MARK"], u32(5), "SET_MARK")


def unknown_attribute_types_are_ignored():
    with Netns() as ns:
        ns.xfrm.new(SOFT)
        for kind in (0, 42, 200, 0x3fff):
            reply = ns.xfrm.migrate(migrate(SOFT, add=[(kind, b"x" * 7)]))
            equal(reply.errno, 0, f"attribute type {kind}")


def foreign_attributes():
    """All known attributes but the seven; the offset is the lowest one's."""
    text = "Unsupported attribute in XFRM_MSG_MIGRATE_STATE"
    allowed = {"ENCAP", "MARK", "OFFLOAD_DEV", "SET_MARK", "SET_MARK_MASK",
               "MTIMER_THRESH", "NAT_KEEPALIVE_INTERVAL"}
    sizes = {"PROTO": 1, "IPTFS_DONT_FRAG": 0, "IPTFS_REORDER_WINDOW": 2}
    sizes |= dict.fromkeys(("REPLAY_THRESH", "ETIMER_THRESH", "TFCPAD", "SA_EXTRA_FLAGS",
                            "IF_ID", "IPTFS_DROP_TIME", "IPTFS_INIT_DELAY",
                            "IPTFS_MAX_QSIZE", "IPTFS_PKT_SIZE"), 4)
    bad = [k for k in A if k not in allowed | {"UNSPEC", "SA_DIR", "SA_PCPU"}]
    request = migrate(SOFT)
    rows = [(request.but([(k, bytes(sizes.get(k, 300)))]), INVAL, text, HEADER)
            for k in bad]
    rows += [(request.but([("SA_DIR", b"\1")]), INVAL, "Invalid attribute SA_DIR"),
             (request.but([("SA_PCPU", u32(0))]), INVAL, "Invalid attribute SA_PCPU"),
             (request.but([("IF_ID", u32(1)), ("MARK", bytes(8)), ("TFCPAD", u32(1))]),
              INVAL, text, HEADER + 8 + 12)]
    each(SOFT, rows)


def header_values():
    request = migrate(SOFT)
    no_spi = replace(request, ident=request.ident[:16] + bytes(4) + request.ident[20:])
    rows = [(no_spi, INVAL, "Invalid SPI 0x0"),
            (replace(request, reserved=0x8000), INVAL, "Reserved field must be zero")]
    rows += [(replace(request, flags=f), INVAL, f"Unknown flags: {f & ~3:#x}")
             for f in (4, 7, 0x80000000, 0xffffffff)]
    rows += [(replace(request, family=f), INVAL, "Invalid address family")
             for f in (0, 1, 9, 11, 0xffff)]
    each(SOFT, rows)


def selector():
    v4 = "Invalid prefix length in selector (must be <= 32 for IPv4)"
    v6 = "Invalid prefix length in selector (must be <= 128 for IPv6)"
    rows = [(f, d, s, text) for f, text, top in ((2, v4, 32), (10, v6, 128))
            for d, s in ((top + 1, 0), (0, top + 1), (255, 255))]
    rows += [(f, 0, 0, "Invalid address family in selector") for f in (1, 9, 0xffff)]
    each(SOFT, [(migrate(SOFT, sel=Selector(family=f, plen_d=d, plen_s=s)), INVAL, text)
                for f, d, s, text in rows])


def lookup():
    """Each part of the key counts."""
    request, text = migrate(SOFT), "Can not find state"
    others = (SOFT.but(dst="192.0.2.3"), SOFT.but(spi=0x200), SOFT.but(proto=xfrm.AH),
              SOFT.but(dst="2001:db8::2"))
    marked = SOFT.but({"MARK": xfrm.mark(5, 0xff)})
    each(SOFT, [(replace(request, ident=o.ident()), errno.ESRCH, text) for o in others])
    each(marked, [(replace(request, old_mark=m), errno.ESRCH, text)
                  for m in ((0, 0), (6, 0xff), (0x105, 0))])


def h2h_mismatch():
    text = "SA selector is not a single-host match for SA addresses"
    wrong4 = [Selector(), replace(host(SOFT.dst, SOFT.src), plen_s=31),
              host(SOFT.src, SOFT.dst), host(SOFT.dst, "192.0.2.9"),
              host("192.0.2.9", SOFT.src), replace(host(SOFT.dst, SOFT.src), plen_d=24,
                                                   plen_s=24)]
    six = SOFT.but(src="2001:db8::1", dst="2001:db8::2")
    wrong6 = [Selector(), replace(host(six.dst, six.src), plen_d=64, plen_s=64),
              host(six.dst, six.dst), replace(host(six.dst, six.src), plen_d=32, plen_s=32)]
    for base, wrong in ((SOFT, wrong4), (six, wrong6)):
        for sel in wrong:
            sa = base.but(sel=sel, mode=xfrm.TUNNEL)
            each(sa, [(migrate(sa, flags=xfrm.UPDATE_H2H_SEL), INVAL, text)])


def encapsulation_type():
    each(SOFT, [(migrate(SOFT, add=[("ENCAP", xfrm.encap(1, 2, kind))]), INVAL,
                 "Unsupported encapsulation type") for kind in (1, 3, 7, 0xffff)])


def mapping_threshold():
    no_encap = "MTIMER_THRESH requires encapsulation"
    output = "MTIMER_THRESH should not be set on output SA"
    five, none = ("MTIMER_THRESH", u32(5)), ("ENCAP", xfrm.encap(0, 0, 0))
    natted = IN.but(ENCAP)
    out = OUT.but(ENCAP)
    each(SOFT, [(migrate(SOFT, add=[five]), INVAL, no_encap)])
    each(natted, [(migrate(natted, add=[five, none]), INVAL, no_encap)])
    each(out, [(migrate(out, add=[five]), INVAL, output)])
    each(OUT, [(migrate(OUT, add=[five, ("ENCAP", xfrm.encap(1, 2))]), INVAL, output),
               (migrate(OUT, add=[five]), INVAL, no_encap)])


def keepalive_without_encapsulation():
    text, nine = "NAT_KEEPALIVE_INTERVAL requires encapsulation", (
        "NAT_KEEPALIVE_INTERVAL", u32(9))
    out = OUT.but(ENCAP)
    each(OUT, [(migrate(OUT, add=[nine]), INVAL, text)])
    each(out, [(migrate(out, add=[nine, ("ENCAP", xfrm.encap(0, 0, 0))]), INVAL, text)])


def occupied_target():
    """The tuple is destination, SPI, protocol, family; not the source."""
    text = "New SA tuple already occupied"
    with Netns() as ns:
        sa = ns.xfrm.new(SOFT.but(mode=xfrm.TUNNEL))
        for dst in ("192.0.2.3", "2001:db8::3"):
            other = sa.but(dst=dst, src=dst[:-1] + "9", attrs=dict([xfrm.aead(bytes(20))]))
            ns.xfrm.new(other)
            refused(ns, sa, migrate(sa, dst=dst, src=other.src), errno.EEXIST, text)
        for free in (sa.but(dst="192.0.2.4", spi=9), sa.but(dst="192.0.2.4", proto=xfrm.AH,
                                                            attrs=dict([xfrm.auth()]))):
            ns.xfrm.new(free)
        equal(ns.xfrm.migrate(migrate(sa, dst="192.0.2.4")).errno, 0, "free target")


def built_in_vain():
    """The texts of the layers below. Their errno is defect 21 of the C."""
    def rows(*pairs):
        return [(request, INVAL, text) for request, text in pairs]
    ah = IN.but(proto=xfrm.AH, attrs=dict([xfrm.auth()]))
    natted = IN.but(ENCAP)
    each(ah, rows((migrate(ah, add=ENCAP.items()), "AH is not compatible with encapsulation")))
    each(natted, rows((migrate(natted, add=[("NAT_KEEPALIVE_INTERVAL", u32(9))]),
                       "NAT keepalive is only supported for outbound SAs")))
    dev = "OFFLOAD_DEV"
    each(OUT, rows((migrate(OUT, add=[(dev, xfrm.offload(1, 8))]),
                    "Unrecognized flags in offload request"),
                   (migrate(OUT, add=[(dev, xfrm.offload(1, 2))]),
                    "Mismatched SA and offload direction")))
    each(IN, rows((migrate(IN, add=[(dev, xfrm.offload(1))]),
                   "Mismatched SA and offload direction")))
    interface = IN.but({"IF_ID": u32(3)})
    each(interface, rows((migrate(interface, add=[(dev, xfrm.offload(1, 2))]),
                          "XFRM if_id is not supported in RX path")))
    padded = OUT.but({"TFCPAD": u32(64)}, mode=xfrm.TUNNEL)
    each(padded, rows((migrate(padded, add=[(dev, xfrm.offload(1))]),
                       "TFC padding can't be offloaded")))


# One fault for each check, in the order of the checks. The faults of one
# group can't be combined.
FAULTS = [
    ("parse", errno.ERANGE, "Attribute failed policy validation",
     lambda m: m.but([("SET_MARK", b"")])),
    ("dir", INVAL, "Invalid attribute SA_DIR", lambda m: m.but([("SA_DIR", b"\1")])),
    ("pcpu", INVAL, "Invalid attribute SA_PCPU", lambda m: m.but([("SA_PCPU", u32(0))])),
    ("foreign", INVAL, "Unsupported attribute in XFRM_MSG_MIGRATE_STATE",
     lambda m: m.but([("IF_ID", u32(1))])),
    ("ident", INVAL, "Invalid SPI 0x0",
     lambda m: replace(m, ident=m.ident[:16] + bytes(4) + m.ident[20:])),
    ("reserved", INVAL, "Reserved field must be zero", lambda m: replace(m, reserved=1)),
    ("flags", INVAL, "Unknown flags: 0x4", lambda m: replace(m, flags=m.flags | 4)),
    ("family", INVAL, "Invalid address family", lambda m: replace(m, family=3)),
    ("selector", INVAL, "Invalid address family in selector",
     lambda m: replace(m, sel=Selector(family=3).pack())),
    ("ident", errno.ESRCH, "Can not find state",
     lambda m: replace(m, ident=SOFT.but(spi=3).ident())),
    ("selector", INVAL, "SA selector is not a single-host match for SA addresses",
     lambda m: replace(m, flags=m.flags | 2)),
    ("encap", INVAL, "Unsupported encapsulation type",
     lambda m: m.but([("ENCAP", xfrm.encap(1, 1, 3))])),
    ("mtimer", INVAL, "MTIMER_THRESH requires encapsulation",
     lambda m: m.but([("MTIMER_THRESH", u32(1))])),
    ("keepalive", INVAL, "NAT_KEEPALIVE_INTERVAL requires encapsulation",
     lambda m: m.but([("NAT_KEEPALIVE_INTERVAL", u32(1))])),
    ("tuple", errno.EEXIST, "New SA tuple already occupied",
     lambda m: replace(m, dst="192.0.2.3")),
    ("build", INVAL, "Unrecognized flags in offload request",
     lambda m: m.but([("OFFLOAD_DEV", xfrm.offload(1, 8))])),
]


def order_of_checks():
    """Of any two faults in a request, the earlier check speaks."""
    with Netns() as ns:
        ns.xfrm.new(SOFT)
        ns.xfrm.new(SOFT.but(dst="192.0.2.3"))
        for first, second in itertools.combinations(FAULTS, 2):
            if first[0] == second[0]:
                continue
            # Attributes are checked in the order of the message.
            request = second[3](first[3](migrate(SOFT)))
            equal(ns.xfrm.migrate(request).verdict, first[1:3],
                  f"{first[0]} together with {second[0]}")


def burst_in_one_datagram():
    """Each request has its own answer, in order, and sees its predecessors."""
    with Netns() as ns:
        ns.xfrm.new(SOFT)
        moved = SOFT.but(dst="192.0.2.7")
        requests = [migrate(SOFT, dst=moved.dst), migrate(SOFT), migrate(moved, reqid=8),
                    migrate(moved, flags=4), migrate(moved, dst=SOFT.dst, reqid=9)]
        hear = ns.listen(xfrm.GROUP_MIGRATE)
        replies = ns.xfrm.burst([ns.xfrm.message(xfrm.MIGRATE_STATE, r.pack(), netlink.ACK)
                                 for r in requests])
        equal([r.errno for r in replies], [0, errno.ESRCH, 0, INVAL, 0], "answers")
        equal(ns.xfrm.get(SOFT)["reqid"], 9, "reqid at the end")
        equal(len(hear.pending()), 3, "notifications")
        equal(ns.xfrm.count(), 1, "SAs")


def no_answer_unless_asked():
    """Without NLM_F_ACK a success is silent, a failure is not."""
    with Netns() as ns:
        ns.xfrm.new(SOFT)
        good, bad = (ns.xfrm.message(xfrm.MIGRATE_STATE, m.pack())
                     for m in (migrate(SOFT, reqid=9), migrate(SOFT, flags=4)))
        ns.xfrm.send(good.pack() + bad.pack())
        equal([m.seq for m in ns.xfrm.pending()], [bad.seq], "answers")
        equal(ns.xfrm.get(SOFT)["reqid"], 9, "reqid")


def namespaces_are_separate():
    with Netns() as one, Netns() as two:
        for ns in (one, two):
            ns.xfrm.new(SOFT)
        hear = two.listen(xfrm.GROUP_MIGRATE)
        before = two.xfrm.all()
        equal(one.xfrm.migrate(migrate(SOFT, dst="192.0.2.5", reqid=5)).errno, 0, "answer")
        equal(two.xfrm.all(), before, "the other namespace's SAs")
        equal(hear.pending(), [], "the other namespace's notifications")
        equal(one.xfrm.get(SOFT), None, "the old SA")


if __name__ == "__main__":
    ktap.main([
        probe_of_unknown_spi_is_esrch, probes_of_other_programs_are_esrch, capability_is_required,
        user_namespace_serves_its_own_network_only, short_header, short_attributes,
        attributes_from_sa_dir_on_are_parsed_strictly, long_attributes_below_sa_dir_are_cut,
        unknown_attribute_types_are_ignored, foreign_attributes, header_values, selector,
        lookup, h2h_mismatch, encapsulation_type, mapping_threshold,
        keepalive_without_encapsulation, occupied_target, built_in_vain, order_of_checks,
        burst_in_one_datagram, no_answer_unless_asked, namespaces_are_separate])

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What the in-tree handler does wrong in answering a request.

Each test says what is right, and carries the number of the defect. The ones
about offload, lifetimes and traffic have programs of their own.
"""

import errno
import random
import struct
from dataclasses import replace

from lib import ktap, xfrm
from lib.ktap import defect, equal
from lib.netlink import Netlink, parse_attrs
from lib.netns import Netns
from lib.xfrm import SA, Selector, addr, host, mark, migrate, u32

SOFT = SA("192.0.2.1", "192.0.2.2", 0x100, reqid=7)
OUT = SOFT.but({"SA_DIR": bytes([xfrm.DIR_OUT])})
IN = SOFT.but({"SA_DIR": bytes([xfrm.DIR_IN])})
ENCAP = ("ENCAP", xfrm.encap(4500, 4501))
NO_ENCAP = ("ENCAP", xfrm.encap(0, 0, 0))
MARKED = SOFT.but({"MARK": mark(0x12, 0xff)})


def refused(ns, request, code, text):
    """This answer, and every SA is as before."""
    before = ns.xfrm.all()
    equal(ns.xfrm.migrate(request).verdict, (code, text), f"answer to {request}")
    equal(ns.xfrm.all(), before, "SAs after a refusal")


def refuses(sa, request, code, text):
    with Netns() as ns:
        ns.xfrm.new(sa)
        refused(ns, request, code, text)


def attributes_told(sa, request):
    """The attributes of the notification of this migration."""
    with Netns() as ns:
        ns.xfrm.new(sa)
        hear = ns.listen(xfrm.GROUP_MIGRATE)
        equal(ns.xfrm.migrate(request).errno, 0, "answer")
        message, = hear.pending()
        return [(xfrm.ATTRS[k], v) for k, v in parse_attrs(message.body[132:])]


@defect(5)
def kernel_owned_sa_is_refused():
    """An IPComp tunnel brings a hidden SA, that only its owner may replace."""
    comp = SOFT.but(spi=0x77, proto=xfrm.COMP, mode=xfrm.TUNNEL, attrs=dict([xfrm.comp()]))
    with Netns() as ns:
        ns.xfrm.new(comp)
        hidden, = (sa for sa in ns.xfrm.all() if sa["proto"] == xfrm.IPIP)
        target = comp.but(spi=hidden["spi"], proto=xfrm.IPIP)
        for dst in (comp.dst, "192.0.2.8"):
            refused(ns, migrate(target, dst=dst), errno.EINVAL,
                    "Only ESP, AH and IPComp SAs can be migrated")


@defect(8)
def mark_counts_for_the_collision():
    other = SOFT.but({"MARK": mark(2, 0xff)})
    with Netns() as ns:
        for sa in (MARKED, other):
            ns.xfrm.new(sa)
        refused(ns, migrate(MARKED, add=[("MARK", mark(2, 0xff))]), errno.EEXIST,
                "New SA tuple already occupied")


@defect(9)
def unmarked_sa_has_no_mark():
    refuses(SOFT, replace(migrate(SOFT), old_mark=(0x12, 0xff)), errno.ESRCH,
            "Can not find state")


@defect(9)
def mask_of_the_mark_counts():
    refuses(MARKED, replace(migrate(MARKED), old_mark=(0x12, 0xffff)), errno.ESRCH,
            "Can not find state")


@defect(9)
def exact_mark_wins_over_a_newer_wildcard():
    with Netns() as ns:
        for sa in (MARKED, SOFT):
            ns.xfrm.new(sa)
        equal(ns.xfrm.migrate(migrate(MARKED, reqid=9)).errno, 0, "answer")
        equal({(sa.get("MARK"), sa["reqid"]) for sa in ns.xfrm.all()},
              {(None, 7), (mark(0x12, 0xff), 9)}, "marks and reqids")


@defect(10)
def no_listener_is_no_error():
    with Netns() as ns:
        ns.xfrm.new(SOFT)
        equal(ns.xfrm.migrate(migrate(SOFT, reqid=1)).verdict, (0, None), "answer")


@defect(11)
def clear_offload_excludes_a_device():
    refuses(OUT, migrate(OUT, flags=xfrm.CLEAR_OFFLOAD, add=[("OFFLOAD_DEV", xfrm.offload(1))]),
            errno.EINVAL, "OFFLOAD_DEV and the CLEAR_OFFLOAD flag exclude each other")


@defect(13)
def inherited_mark_is_told():
    equal(attributes_told(MARKED, migrate(MARKED, reqid=1)), [("MARK", mark(0x12, 0xff))],
          "attributes")


@defect(13)
def mark_told_is_that_of_the_sa():
    """Which has been cut to its mask."""
    equal(attributes_told(SOFT, migrate(SOFT, add=[("MARK", mark(0x106, 0xff))])),
          [("MARK", mark(6, 0xff))], "attributes")


@defect(13)
def cleared_mark_is_not_told():
    for sa in (SOFT, MARKED):
        equal(attributes_told(sa, migrate(sa, add=[("MARK", bytes(8))])), [], "attributes")


@defect(13)
def device_that_does_not_offload_is_not_told():
    """lo can't: the SA becomes a software one."""
    equal(attributes_told(OUT, migrate(OUT, add=[("OFFLOAD_DEV", xfrm.offload(1))])),
          [("SA_DIR", b"\2")], "attributes")


@defect(13)
def removed_encapsulation_is_not_told():
    natted = SOFT.but(dict([ENCAP]))
    equal(attributes_told(natted, migrate(natted, add=[NO_ENCAP])), [], "attributes")


@defect(14)
def output_mark_zero_clears():
    marked = SOFT.but({"SET_MARK": u32(5), "SET_MARK_MASK": u32(0xff)})
    with Netns() as ns:
        ns.xfrm.new(marked)
        equal(ns.xfrm.migrate(migrate(marked, add=[("SET_MARK", u32(0))])).errno, 0, "answer")
        sa = ns.xfrm.get(marked)
        equal((sa.get("SET_MARK"), sa.get("SET_MARK_MASK")), (None, None), "output mark")


@defect(14)
def output_mask_needs_a_mark():
    refuses(SOFT, migrate(SOFT, add=[("SET_MARK_MASK", u32(0xff))]), errno.EINVAL,
            "SET_MARK_MASK requires SET_MARK")


@defect(15)
def mapping_threshold_zero_needs_no_encapsulation():
    natted, zero = IN.but(dict([ENCAP])), ("MTIMER_THRESH", u32(0))
    for sa, add in ((SOFT, [zero]), (IN, [zero]), (natted, [zero, NO_ENCAP])):
        with Netns() as ns:
            ns.xfrm.new(sa)
            equal(ns.xfrm.migrate(migrate(sa, add=add)).errno, 0, "answer")
            equal(ns.xfrm.get(sa).get("MTIMER_THRESH"), None, "threshold")


@defect(16)
def selector_without_family_takes_that_of_the_sa():
    for sa, ends in ((SOFT, {}), (SOFT.but(mode=xfrm.TUNNEL),
                                  {"src": "2001:db8::1", "dst": "2001:db8::2"})):
        with Netns() as ns:
            ns.xfrm.new(sa)
            request = replace(migrate(sa, **ends), sel=bytes(56))
            equal(ns.xfrm.migrate(request).errno, 0, "answer")
            found = ns.xfrm.get(sa.but(**ends))
            equal(found["sel.family"], found["family"], "family of the selector")


@defect(16)
def prefixes_without_family_are_checked():
    six = SOFT.but(src="2001:db8::1", dst="2001:db8::2")
    for sa, top, name in ((SOFT, 32, "IPv4"), (six, 128, "IPv6")):
        for d, s in ((top + 1, 0), (0, 255)):
            request = replace(migrate(sa), sel=Selector(plen_d=d, plen_s=s).pack())
            refuses(sa, request, errno.EINVAL,
                    f"Invalid prefix length in selector (must be <= {top} for {name})")


def selector_without_family_stays_so_if_the_sa_says_so():
    """The flag AF_UNSPEC is how NEWSA asks for it: no defect, its other side."""
    sa = SOFT.but(flags=xfrm.FLAG_AF_UNSPEC, mode=xfrm.TUNNEL)
    with Netns() as ns:
        ns.xfrm.new(sa)
        equal(ns.xfrm.migrate(replace(migrate(sa, reqid=1), sel=bytes(56))).errno, 0, "answer")
        equal(ns.xfrm.get(sa)["sel.family"], 0, "family of the selector")


@defect(17)
def host_selector_of_the_other_family_is_none():
    """Its first bytes look like the addresses of the SA."""
    alike = replace(host(SOFT.dst, SOFT.src), family=xfrm.AF_INET6)
    sa = SOFT.but(sel=alike, mode=xfrm.TUNNEL)
    refuses(sa, migrate(sa, flags=xfrm.UPDATE_H2H_SEL), errno.EINVAL,
            "SA selector is not a single-host match for SA addresses")


@defect(18)
def larval_sa_is_called_larval():
    for proto, spi in ((xfrm.ESP, 0x100), (xfrm.AH, 0x100), (xfrm.COMP, 0x77)):
        with Netns() as ns:
            sa = ns.xfrm.alloc_spi(SOFT.but(proto=proto, spi=spi))
            refused(ns, migrate(sa), errno.EINVAL, "Can not migrate a larval SA")


@defect(19)
def encapsulation_ports_are_not_zero():
    for ports in ((0, 4500), (4500, 0), (0, 0)):
        refuses(SOFT, migrate(SOFT, add=[("ENCAP", xfrm.encap(*ports))]), errno.EINVAL,
                "Encapsulation ports must not be zero")


def encapsulation_without_ports_stays():
    """Who names just what the SA has changes nothing."""
    sa = SOFT.but({"ENCAP": xfrm.encap(0, 4500)})
    with Netns() as ns:
        ns.xfrm.new(sa)
        equal(ns.xfrm.migrate(migrate(sa, add=[("ENCAP", sa.attrs["ENCAP"])])).errno, 0, "errno")
        equal([s["ENCAP"] for s in ns.xfrm.all()], [sa.attrs["ENCAP"]], "encapsulation")


@defect(20)
def sender_of_the_notification_is_genuine():
    with Netns() as ns:
        ns.xfrm.new(SOFT)
        hear = ns.listen(xfrm.GROUP_MIGRATE)
        equal(ns.xfrm.migrate(migrate(SOFT, reqid=1), port=0xdead).errno, 0, "answer")
        message, = hear.pending()
        equal(message.port, ns.xfrm.port, "port id")


@defect(21)
def unsupported_family_change_has_its_errno():
    for end in ({"src": "2001:db8::1", "dst": "2001:db8::2"}, {"sel": Selector(family=10)}):
        refuses(OUT, migrate(OUT, **end), errno.EPROTONOSUPPORT,
                "Only tunnel modes can accommodate a change of family")


@defect(22)
def unused_address_bytes_are_zero():
    """An IPv4 address fills 4 of its 16 bytes, in the dump and in what is told."""
    junk = b"\xa5" * 12
    with Netns() as ns:
        ns.xfrm.new(SOFT)
        hear = ns.listen(xfrm.GROUP_MIGRATE)
        good = migrate(SOFT, dst="192.0.2.8", src="192.0.2.9")
        body = bytearray(good.pack())
        for at in (0, 24, 40, 64, 80):
            body[at + 4:at + 16] = junk
        equal(ns.xfrm.request(xfrm.MIGRATE_STATE, bytes(body)).errno, 0, "answer")
        sa = ns.xfrm.get(SOFT.but(dst="192.0.2.8"))
        equal((sa["daddr"], sa["saddr"]), (addr("192.0.2.8"), addr("192.0.2.9")), "addresses")
        equal((sa["sel.daddr"], sa["sel.saddr"]), (bytes(16), bytes(16)), "selector")
        message, = hear.pending()
        equal(message.body[:120], good.pack()[:120], "addresses in the notification")


AUDIT_GET, AUDIT_SET, AUDIT_MAC_IPSEC_EVENT, AUDIT_NLGRP_READLOG = 1000, 1001, 1415, 1


class Audit(Netlink):
    """Hears what the kernel audits. Only the first network namespace does."""

    def __init__(self):
        try:
            super().__init__(9, (AUDIT_NLGRP_READLOG,))
        except OSError as why:
            raise ktap.Skip(f"no audit: {why}") from None
        status = self.request(AUDIT_GET, b"").messages or self.receive()
        self.before = struct.unpack_from("=II", status[0].body)[1]
        self.enable(1)

    def enable(self, value):
        body = struct.pack("=II", 1, value).ljust(48, b"\0")
        equal(self.request(AUDIT_SET, body).errno, 0, "AUDIT_SET")

    def __exit__(self, *_):
        self.enable(self.before)
        self.close()


@defect(22)
def migration_is_audited():
    """As the deletion and the addition that it is."""
    # Namespaces of other tests may still be on their way out, which is audited.
    sa = SOFT.but(spi=random.randrange(1 << 16, 1 << 32))
    with Audit() as audit, Netns() as ns:
        ns.xfrm.new(sa)
        seen = []

        def heard(count):
            seen.extend(m.body.decode() for m in audit.pending()
                        if m.kind == AUDIT_MAC_IPSEC_EVENT and b"spi=%d(" % sa.spi in m.body)
            return len(seen) >= count
        ktap.wait(lambda: heard(1), "record of NEWSA")
        del seen[:]
        equal(ns.xfrm.migrate(migrate(sa, dst="192.0.2.8")).errno, 0, "answer")
        # Records come in order: with that of this one all of the migration have come.
        ns.xfrm.delete(sa.but(dst="192.0.2.8"))
        ktap.wait(lambda: heard(1) and "op=SAD-delete" in seen[-1] and "dst=192.0.2.8" in seen[-1],
                  "record of DELSA")
        for op, dst in (("SAD-delete", "192.0.2.2"), ("SAD-add", "192.0.2.8")):
            found = [r for r in seen[:-1] if f"op={op}" in r]
            ktap.true(len(found) == 1 and f"dst={dst}" in found[0] and "res=1" in found[0],
                      f"one record of {op}: {seen}")


if __name__ == "__main__":
    ktap.main([
        kernel_owned_sa_is_refused, mark_counts_for_the_collision, unmarked_sa_has_no_mark,
        mask_of_the_mark_counts, exact_mark_wins_over_a_newer_wildcard,
        no_listener_is_no_error, clear_offload_excludes_a_device, inherited_mark_is_told,
        mark_told_is_that_of_the_sa,
        cleared_mark_is_not_told, device_that_does_not_offload_is_not_told,
        removed_encapsulation_is_not_told, output_mark_zero_clears, output_mask_needs_a_mark,
        mapping_threshold_zero_needs_no_encapsulation,
        selector_without_family_takes_that_of_the_sa, prefixes_without_family_are_checked,
        selector_without_family_stays_so_if_the_sa_says_so,
        host_selector_of_the_other_family_is_none, larval_sa_is_called_larval,
        encapsulation_ports_are_not_zero, encapsulation_without_ports_stays, sender_of_the_notification_is_genuine,
        unsupported_family_change_has_its_errno, unused_address_bytes_are_zero,
        migration_is_audited])

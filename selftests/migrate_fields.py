#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What a migrated SA has: the dump before and after, every field of it."""

import struct

from lib import ktap, xfrm
from lib.ktap import equal
from lib.netns import Netns
from lib.xfrm import SA, Selector, addr, changes, host, mark, migrate, u32

SOFT = SA("192.0.2.1", "192.0.2.2", 0x100, reqid=7, seq=77,
          sel=Selector("198.51.100.0", "203.0.113.0", 24, 25, 80, 0xffff, 1024, 0xfc00, 2,
                       6, 0, 1000))
OUT = SOFT.but({"SA_DIR": bytes([xfrm.DIR_OUT])})
IN = SOFT.but({"SA_DIR": bytes([xfrm.DIR_IN])})
LIMITS = (1 << 40, 1 << 41, 1 << 42, 1 << 43, 100000, 200000, 300000, 400000)
ENCAP = xfrm.encap(4500, 4501, origin="192.0.2.77")


def moved(sa, want, dst=None, prepare=None, **request):
    """Migrates a new SA; all but what is named in `want` must stay."""
    with Netns() as ns:
        if "IF_ID" in sa.attrs:
            ns.dummy("d")
        ns.xfrm.new(sa)
        if prepare:
            prepare(ns.xfrm)
        marked = dict(request.get("add", ())).get("MARK")
        new = sa.but({"MARK": marked} if marked else None, dst=dst or sa.dst,
                     drop=("MARK",) if marked == bytes(8) else ())
        before, steady = ns.xfrm.get(sa), ns.xfrm.thresholds(sa)
        count = ns.xfrm.count()     # IPComp tunnels have a second, hidden one
        reply = ns.xfrm.migrate(migrate(sa, dst=dst, **request))
        equal(reply.errno, 0, f"answer ({reply.text})")
        after = ns.xfrm.get(new)
        ktap.true(after, "the new SA is not there")
        equal(changes(before, after), want, "changes")
        equal(ns.xfrm.thresholds(new), steady, "replay_maxdiff and replay_maxage")
        ktap.wait(lambda: ns.xfrm.count() == count, "the number of SAs is the same again")


def nothing_asked_nothing_changed():
    for sa in (SOFT, OUT, IN, SOFT.but(mode=xfrm.TUNNEL, flags=1)):
        moved(sa, {})


def addresses_and_reqid():
    moved(SOFT, {"saddr": addr("192.0.2.9")}, src="192.0.2.9")
    moved(SOFT, {"daddr": addr("192.0.2.8")}, dst="192.0.2.8")
    moved(SOFT, {"reqid": 0}, reqid=0)
    moved(OUT, {"saddr": addr("192.0.2.2"), "daddr": addr("192.0.2.1"), "reqid": 1 << 31},
          dst="192.0.2.1", src="192.0.2.2", reqid=1 << 31)


def addresses_of_ipv6():
    six = SOFT.but(src="2001:db8::1", dst="2001:db8::2", sel=host("2001:db8::2", "2001:db8::1"))
    moved(six, {"saddr": addr("2001:db8::9"), "daddr": addr("2001:db8::8")},
          dst="2001:db8::8", src="2001:db8::9")


def family_of_a_tunnel():
    """The outer family changes either way, the selector stays as given."""
    six = {"src": "2001:db8::1", "dst": "2001:db8::2"}
    for old, new in ((OUT, six), (IN.but(**six), {"src": "192.0.2.1", "dst": "192.0.2.2"})):
        for mode in (xfrm.TUNNEL, xfrm.BEET):
            moved(old.but(mode=mode), {
                "saddr": addr(new["src"]), "daddr": addr(new["dst"]),
                "family": xfrm.family(new["dst"])}, **new)


def selector_is_taken_as_given():
    given = Selector("198.51.100.7", "203.0.113.9", 32, 31, 443, 0xff00, 99, 0xffff, 2, 17,
                     0, 5)
    moved(SOFT, {"sel.daddr": addr(given.dst), "sel.saddr": addr(given.src),
                 "sel.prefixlen_d": 32, "sel.prefixlen_s": 31, "sel.dport": 443,
                 "sel.dport_mask": 0xff00, "sel.sport": 99, "sel.sport_mask": 0xffff,
                 "sel.proto": 17, "sel.user": 5}, sel=given)
    other = Selector("2001:db8:1::", "2001:db8:2::", 48, 48, family=10, ifindex=3)
    moved(SOFT.but(mode=xfrm.TUNNEL), {
        "sel.daddr": addr(other.dst), "sel.saddr": addr(other.src), "sel.prefixlen_d": 48,
        "sel.prefixlen_s": 48, "sel.dport": 0, "sel.dport_mask": 0, "sel.sport": 0,
        "sel.sport_mask": 0, "sel.family": 10, "sel.proto": 0, "sel.ifindex": 3,
        "sel.user": 0}, sel=other)


def host_to_host_selector():
    """Addresses, prefixes and family follow, the rest stays; new_sel is not read."""
    pairs = (("192.0.2.1", "192.0.2.2"), ("192.0.2.8", "192.0.2.9"),
             ("2001:db8::1", "2001:db8::2"), ("2001:db8::8", "2001:db8::9"))
    extra = {"dport": 80, "dmask": 0xffff, "sport": 7, "smask": 0xff, "proto": 6,
             "ifindex": 1, "user": 9}
    for src, dst in pairs:
        for new_src, new_dst in pairs:
            sa = OUT.but(src=src, dst=dst, mode=xfrm.TUNNEL, sel=host(dst, src, **extra))
            want = {}
            if (src, dst) != (new_src, new_dst):
                want = {"saddr": addr(new_src), "daddr": addr(new_dst),
                        "sel.saddr": addr(new_src), "sel.daddr": addr(new_dst)}
            if xfrm.family(dst) != xfrm.family(new_dst):
                bits = 128 if ":" in new_dst else 32
                want |= {"family": xfrm.family(new_dst), "sel.prefixlen_d": bits,
                         "sel.family": xfrm.family(new_dst), "sel.prefixlen_s": bits}
            moved(sa, want, dst=new_dst, src=new_src, flags=xfrm.UPDATE_H2H_SEL,
                  sel=Selector(family=99, plen_d=255))


def mark_of_the_lookup():
    """Set, kept, changed, and cleared with {0, 0}."""
    marked, new = SOFT.but({"MARK": mark(5, 0xff)}), mark(0x600, 0xff00)
    moved(SOFT, {"MARK": new}, add=[("MARK", new)])
    moved(marked, {})
    moved(marked, {"MARK": new}, add=[("MARK", new)])
    moved(marked, {"MARK": None}, add=[("MARK", bytes(8))])
    moved(marked, {"MARK": new, "daddr": addr("192.0.2.8")}, dst="192.0.2.8",
          add=[("MARK", new)])


def mark_is_cut_to_its_mask():
    """Else neither packets nor requests would find the SA."""
    wide = mark(0x106, 0xff)
    for sa in (SOFT, SOFT.but({"MARK": mark(5, 0xff)})):
        moved(sa, {"MARK": mark(6, 0xff)}, add=[("MARK", wide)])


def mark_of_the_output():
    """The mask is all ones unless it is given."""
    marked = SOFT.but({"SET_MARK": u32(5), "SET_MARK_MASK": u32(0xff)})
    moved(marked, {})
    for sa in (SOFT, marked):
        moved(sa, {"SET_MARK": u32(6), "SET_MARK_MASK": u32(0xffffffff)},
              add=[("SET_MARK", u32(6))])
    moved(marked, {"SET_MARK": u32(9), "SET_MARK_MASK": u32(0xf)},
          add=[("SET_MARK", u32(9)), ("SET_MARK_MASK", u32(0xf))])
    moved(marked, {"SET_MARK": u32(0), "SET_MARK_MASK": u32(0xf)},
          add=[("SET_MARK", u32(0)), ("SET_MARK_MASK", u32(0xf))])
    moved(marked, {"SET_MARK": None, "SET_MARK_MASK": None},
          add=[("SET_MARK", u32(0)), ("SET_MARK_MASK", u32(0))])


def encapsulation():
    """Kept, added, changed, removed."""
    natted, other = SOFT.but({"ENCAP": ENCAP}), xfrm.encap(1, 65535, origin="2001:db8::5")
    moved(natted, {})
    moved(SOFT, {"ENCAP": ENCAP}, add=[("ENCAP", ENCAP)])
    moved(natted, {"ENCAP": other}, add=[("ENCAP", other)])
    moved(natted, {"ENCAP": None}, add=[("ENCAP", xfrm.encap(1, 2, 0))])
    moved(SOFT, {}, add=[("ENCAP", xfrm.encap(0, 0, 0))])
    six = natted.but(src="2001:db8::1", dst="2001:db8::2", mode=xfrm.TUNNEL)
    moved(six, {"saddr": addr("192.0.2.1"), "daddr": addr("192.0.2.2"), "family": 2},
          src="192.0.2.1", dst="192.0.2.2")


def mapping_threshold():
    """Goes with the encapsulation."""
    for base in (IN, SOFT):
        natted = base.but({"ENCAP": ENCAP})
        timed = natted.but({"MTIMER_THRESH": u32(30)})
        moved(timed, {})
        moved(natted, {"MTIMER_THRESH": u32(5)}, add=[("MTIMER_THRESH", u32(5))])
        moved(timed, {"MTIMER_THRESH": u32(5)}, add=[("MTIMER_THRESH", u32(5))])
        moved(timed, {"MTIMER_THRESH": None}, add=[("MTIMER_THRESH", u32(0))])
        moved(timed, {"MTIMER_THRESH": None, "ENCAP": None},
              add=[("ENCAP", xfrm.encap(0, 0, 0))])
        moved(base, {"MTIMER_THRESH": u32(5), "ENCAP": ENCAP},
              add=[("MTIMER_THRESH", u32(5)), ("ENCAP", ENCAP)])


def keepalive_interval():
    """Goes with the encapsulation; zero is no interval."""
    keep, natted = "NAT_KEEPALIVE_INTERVAL", OUT.but({"ENCAP": ENCAP})
    lively = natted.but({keep: u32(30)})
    moved(lively, {})
    moved(natted, {keep: u32(5)}, add=[(keep, u32(5))])
    moved(lively, {keep: u32(5)}, add=[(keep, u32(5))])
    moved(lively, {keep: None}, add=[(keep, u32(0))])
    moved(lively, {keep: None, "ENCAP": None}, add=[("ENCAP", xfrm.encap(0, 0, 0))])
    moved(OUT, {}, add=[(keep, u32(0))])
    moved(OUT, {keep: u32(5), "ENCAP": ENCAP}, add=[(keep, u32(5)), ("ENCAP", ENCAP)])


def algorithms():
    """Names, keys and lengths of each kind."""
    authenticated = [xfrm.crypt(), xfrm.auth()]
    kinds = ((xfrm.ESP, [xfrm.aead(bytes(range(36)), icv=96)]),
             (xfrm.ESP, [xfrm.aead(bytes(range(36)), "rfc7539esp(chacha20,poly1305)")]),
             (xfrm.ESP, authenticated),
             (xfrm.ESP, [xfrm.crypt(bytes(range(20)), "rfc3686(ctr(aes))"),
                         xfrm.auth(bytes(64), "hmac(sha512)", 256)]),
             (xfrm.ESP, [xfrm.crypt(b"", "ecb(cipher_null)"), xfrm.auth()]),
             (xfrm.AH, [xfrm.auth(trunc=96)]), (xfrm.COMP, [xfrm.comp()]))
    for proto, algs in kinds:
        for mode in (xfrm.TRANSPORT, xfrm.TUNNEL):
            moved(SOFT.but(proto=proto, mode=mode, attrs=dict(algs)),
                  {"daddr": addr("192.0.2.8")}, dst="192.0.2.8")


def limits_and_counters():
    """Limits, what has been used of them, and since when."""
    def used(nl):
        nl.set_ae(SOFT, [("LTIME_VAL", xfrm.lifetime(1 << 33, 1 << 34, 1000000000, 1100000000)),
                         ("REPLAY_THRESH", u32(17)), ("ETIMER_THRESH", u32(23))])
    idle = SOFT.but(lft=LIMITS)
    far = SOFT.but(lft=LIMITS[:4] + (1 << 40,) * 4)
    moved(idle, {})
    moved(far, {"daddr": addr("192.0.2.8")}, dst="192.0.2.8", prepare=used)


def other_inherited_fields():
    output = {"SA_EXTRA_FLAGS": u32(3), "IF_ID": u32(4), "TFCPAD": u32(100),
              "SA_PCPU": u32(0), "COADDR": addr("192.0.2.66")}
    moved(OUT.but(output, mode=xfrm.TUNNEL, flags=1 | 4 | 32 | 64), {"reqid": 2}, reqid=2)
    moved(IN.but({"IF_ID": u32(1 << 31)}, flags=1 | 2 | 8 | 16 | 64, window=32),
          {"reqid": 2}, reqid=2)
    moved(SOFT.but(window=17), {"reqid": 2}, reqid=2)


def plain_replay_state():
    for sa, state in ((SOFT.but(window=32), xfrm.replay(7, 0x12345, 0xdeadbeef)),
                      (OUT, xfrm.replay(0xfffffff0, 0, 0))):
        moved(sa, {"daddr": addr("192.0.2.8")}, dst="192.0.2.8",
              prepare=lambda nl: nl.set_ae(sa, [("REPLAY_VAL", state)]))


def extended_replay_state():
    """The whole bitmap, up to the longest, with and without extended numbers."""
    for words in (1, 4, 128):
        bitmap = [0x01010101 * n & 0xffffffff for n in range(1, words + 1)]
        state = xfrm.esn(32 * words, words, 0, 0x87654321, 0, 0x42, bitmap)
        start = {"REPLAY_ESN_VAL": xfrm.esn(32 * words, words)}
        for proto, algs in ((xfrm.ESP, dict([xfrm.aead()])), (xfrm.AH, dict([xfrm.auth()]))):
            sa = IN.but(attrs={"SA_DIR": bytes([xfrm.DIR_IN]), **algs, **start}, proto=proto,
                        flags=xfrm.FLAG_ESN)
            moved(sa, {"daddr": addr("192.0.2.8")}, dst="192.0.2.8",
                  prepare=lambda nl: nl.set_ae(sa, [("REPLAY_ESN_VAL", state)]))
        flat = IN.but(start)
        state = xfrm.esn(32 * words, words, 0, 0x87654321, 0, 0, bitmap)
        moved(flat, {"reqid": 3}, reqid=3,
              prepare=lambda nl: nl.set_ae(flat, [("REPLAY_ESN_VAL", state)]))
    out = OUT.but({"REPLAY_ESN_VAL": xfrm.esn(0, 0, 0xfffffff0, 0, 0x17)},
                  flags=xfrm.FLAG_ESN)
    moved(out, {"reqid": 3}, reqid=3)


def iptfs_settings():
    half = struct.pack("=H", 5)
    moved(IN.but({"IPTFS_DROP_TIME": u32(12345), "IPTFS_REORDER_WINDOW": half},
                 mode=xfrm.IPTFS), {"reqid": 3, "daddr": addr("192.0.2.8")}, dst="192.0.2.8",
          reqid=3)
    moved(OUT.but({"IPTFS_DONT_FRAG": b"", "IPTFS_INIT_DELAY": u32(4321),
                   "IPTFS_MAX_QSIZE": u32(70000), "IPTFS_PKT_SIZE": u32(1200)},
                  mode=xfrm.IPTFS), {"daddr": addr("2001:db8::8"), "family": 10,
                                     "saddr": addr("2001:db8::9")},
          dst="2001:db8::8", src="2001:db8::9")


def many_migrations_in_a_row():
    """Nothing wears off, and nobody is left behind."""
    with Netns() as ns:
        sa = ns.xfrm.new(OUT.but({"ENCAP": ENCAP, "NAT_KEEPALIVE_INTERVAL": u32(30),
                                  "MARK": mark(5, 0xff)}, lft=LIMITS, mode=xfrm.TUNNEL))
        ns.xfrm.set_ae(sa, [("REPLAY_VAL", xfrm.replay(1000, 0, 0))])
        first = ns.xfrm.get(sa)
        ends = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2"), (
            "192.0.2.3", "192.0.2.4")
        for n in range(30):
            src, dst = ends[(n + 1) % 3]
            reply = ns.xfrm.migrate(migrate(sa, dst=dst, src=src))
            equal(reply.errno, 0, f"answer {n} ({reply.text})")
            sa = sa.but(src=src, dst=dst)
        equal(changes(first, ns.xfrm.get(sa)), {}, "changes after a round trip")
        equal(ns.xfrm.count(), 1, "SAs")
        equal(ns.xfrm.delete(sa).errno, 0, "deletion")
        equal(ns.xfrm.count(), 0, "SAs after deletion")


if __name__ == "__main__":
    ktap.main([
        nothing_asked_nothing_changed, addresses_and_reqid, addresses_of_ipv6,
        family_of_a_tunnel, selector_is_taken_as_given, host_to_host_selector,
        mark_of_the_lookup, mark_is_cut_to_its_mask, mark_of_the_output,
        encapsulation, mapping_threshold,
        keepalive_interval, algorithms, limits_and_counters, other_inherited_fields,
        plain_replay_state, extended_replay_state, iptfs_settings, many_migrations_in_a_row])

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""An IKE daemon that knows nothing of the module has a tunnel, and keeps it."""

import contextlib
import subprocess

from lib import ike, ktap, netlink, spi, xfrm
from lib.handler import RUST
from lib.hosts import V4, V4_MOVED
from lib.ike import PATIENCE, Daemon, Traffic
from lib.ktap import equal, true
from lib.netlink import attrs, parse_attrs
from lib.xfrm import A, SA, addr

GETPOLICY, POLICY_SIZE = 0x15, 168
ELSEWHERE = "203.0.113.9"


def esp(ns):
    """The daemon's SAs."""
    return [sa for sa in ike.esp(ns) if sa["daddr"] != addr(ELSEWHERE)]


def to(ns, address):
    return [sa["spi"] for sa in esp(ns) if sa["daddr"] == addr(address)]


@contextlib.contextmanager
def daemons(more="", scope=None, **ways):
    """Hosts with a daemon each; more is for A's, ways for ike.connected()."""
    ike.need(ike.PLAIN)
    with ike.connected(**ways) as two:
        if scope is not None:
            for ns in (two.a, two.b):
                spi.scope(ns, scope)
        with Daemon(two.a, 0, ike.PLAIN, more) as a, Daemon(two.b, 1, ike.PLAIN) as b:
            yield two, a, b


# --- SPIs ------------------------------------------------------------------

FIRST, COUNT = 0xc0000001, 4
RANGE = f"spi_min = {FIRST}\n    spi_max = {FIRST + COUNT - 1}"


def occupy(ns, numbers, **more):
    """SAs that lead elsewhere, with SPIs that the peer there has chosen."""
    for n in numbers:
        ns.xfrm.new(SA(V4[0], ELSEWHERE, FIRST + n).but(more))


def scope_destination():
    with daemons(RANGE, 0) as (two, a, _):
        occupy(two.a, range(COUNT))
        a.initiate()
        equal(len(to(two.a, V4[0])), 1, "inbound SAs, when others have all SPIs")


def scope_direction():
    with daemons(RANGE, 1) as (two, a, _):
        occupy(two.a, range(COUNT), SA_DIR=b"\2")
        a.initiate()
        equal(len(to(two.a, V4[0])), 1, "inbound SAs, when outbound ones have all SPIs")
        told = [sa for sa in esp(two.a) if "SA_DIR" in sa]
        print(f"# of {len(esp(two.a))} SAs of the daemon {len(told)} say their direction")


def scope_all():
    with daemons(RANGE, 2) as (two, a, _):
        occupy(two.a, (0, 1, 3))
        a.initiate()
        equal(to(two.a, V4[0]), [FIRST + 2], "the SPI that was left")
        a("--terminate", "--child", "tunnel")
        occupy(two.a, (2,))
        a.initiate(fails=True)
        true("allocating SPI failed: No SPI available in the requested range" in a.log(),
             "the daemon says that there is no SPI:\n" + a.log()[-2000:])


# --- The life of a tunnel --------------------------------------------------

def rekey():
    """The new SAs are there before the old ones go; one of these may go under a packet."""
    with daemons() as (two, a, b):
        a.initiate()
        counters = two.a.counters()
        with Traffic(two) as traffic:
            traffic.flows("before")
            for daemon in (a, b):
                before = {sa["spi"] for sa in esp(two.a)}
                daemon("--rekey", "--child", "tunnel")
                ktap.wait(lambda: before.isdisjoint({sa["spi"] for sa in esp(two.a)})
                          and len(esp(two.a)) == 2, "the old SAs are gone", PATIENCE)
                traffic.flows("after")
        changes = xfrm.changes(counters, two.a.counters())
        equal(traffic.lost("two rekeyings"), changes.get("XfrmOutStateInvalid", 0),
              f"datagrams lost, with {changes}")


def mobike():
    with daemons() as (two, a, b):
        a.initiate()
        with Traffic(two) as traffic:
            traffic.flows("before")
            ike.address(two.a, "delete", V4[0])
            for ns in (two.a, two.b):
                ktap.wait(lambda ns=ns: to(ns, V4_MOVED[0]) and not to(ns, V4[0]),
                          "the SAs have the other address", PATIENCE)
            traffic.flows("after")
        traffic.lost("an address that goes")


def retarget(ns, moves):
    """The policies name the addresses that their SAs have now."""
    for message in ns.xfrm.must(GETPOLICY, b"", netlink.DUMP):
        body, found = message.body[:POLICY_SIZE], list(parse_attrs(message.body[POLICY_SIZE:]))
        changed = []
        for kind, data in found:
            if kind == A["TMPL"]:
                for old, new in moves.items():
                    data = data.replace(addr(old), addr(new))
            changed.append((kind, data))
        if changed != found:
            ns.xfrm.must(xfrm.UPDPOLICY, body + attrs(changed))


def command(sa, moves):
    """The words of the CLI that move this SA."""
    src, dst = (moves[name] for name in (text(sa["saddr"]), text(sa["daddr"])))
    return ("state", "migrate", "dst", text(sa["daddr"]), "proto", "esp", "spi", hex(sa["spi"]),
            "new-dst", dst, "new-src", src, "new-reqid", str(sa["reqid"]))


def text(address):
    return ".".join(map(str, address[:4]))


def move_by_hand():
    moves = dict(zip(V4, V4_MOVED))
    with daemons(by_hand=True) as (two, a, b):
        a.initiate()
        with Traffic(two) as traffic:
            traffic.flows("before")
            for ns in (two.a, two.b):
                for sa in esp(ns):
                    with ns.inside():
                        subprocess.run(["xfrm-next", *command(sa, moves)], check=True)
                retarget(ns, moves)
            for ns in (two.a, two.b):
                equal([len(to(ns, end)) for end in V4 + V4_MOVED], [0, 0, 1, 1], "SAs by their ends")
            traffic.flows("after the move")
            old = {sa["spi"] for sa in esp(two.a)}
            a("--rekey", "--child", "tunnel")
            ktap.wait(lambda: len({sa["spi"] for sa in esp(two.a)} - old) == 2
                      and len({sa["spi"] for sa in esp(two.b)} - old) == 2, "new SAs", PATIENCE)
            traffic.flows("after the daemon's next rekeying")
            left = {sa["spi"] for sa in esp(two.a)} & old
            print(f"# {len(left)} of the {len(old)} SAs that were moved are left")
        traffic.lost("a move by hand and a rekeying")


if __name__ == "__main__":
    ktap.main([scope_destination, scope_direction, scope_all, rekey, mobike, move_by_hand], (RUST,))

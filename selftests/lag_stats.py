#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What is counted of SAs that are on all slaves of a bond.

Software counts packets and bytes, drivers what software doesn't see: here packets that have failed
the integrity check. And each slave tells what it has sent.
"""

import contextlib
import json
import shutil
import subprocess

from lib import ktap, xfrm
from lib.bond import MARKER, Bonded, in_, needs_esn, out, sas
from lib.handler import RUST
from lib.ktap import equal, true
from lib.xfrm import Xfrm, migrate
from lag_members import traffic

LENGTH = len(MARKER) + 100 + 8      # what Bonded.send() sends, with UDP: what software counts
# As it is sent: Ethernet, IPv4, ESP with its IV, padding with two bytes more, and the ICV.
FRAME = 14 + 20 + 16 + (LENGTH + 2 + 3) // 4 * 4 + 16


@contextlib.contextmanager
def ready(**more):
    with Bonded(**more) as lag:
        needs_esn(lag)
        yield lag


def shown(lag):
    """xfrm-next lag show: the bond."""
    if not shutil.which("xfrm-next"):
        raise ktap.Skip("no xfrm-next in PATH")
    with lag.a.inside():
        done = subprocess.run(["xfrm-next", "-j", "lag", "show"], check=True,
                              capture_output=True, text=True)
    bond, = json.loads(done.stdout)["bonds"]
    return bond


def counts_agree(lag):
    """What is shown of each slave is what that has counted; the sum of packets."""
    bond = shown(lag)
    by_slave = {port.name: port.dev.counted() for port in lag.ports}
    for sa in bond["sas"]:
        for on in sa["handles"]:
            equal((on["packets"], on["bytes"]), by_slave[on["slave"]][sa["spi"]],
                  f"SA {sa['spi']:#x} on {on['slave']}")
    equal({t["slave"]: (t["sas"], t["packets"]) for t in bond["totals"]},
          {name: (len(c), sum(packets for packets, _ in c.values()))
           for name, c in by_slave.items()}, "totals")
    return sum(total["packets"] for total in bond["totals"])


def packets(lag):
    """As software has counted them, of all SAs that send."""
    with lag.a.inside(), Xfrm() as nl:
        return sum(sa["cur.packets"] for sa in nl.all() if sa["SA_DIR"] == b"\2")


def counted_once():
    """By software; and by the slave that has sent, which lag show tells."""
    with ready() as lag:
        lag.add()
        lag.wire(*((sa, 5) for sa in sas()[::2]))
        for _ in range(3):
            for sa in sas()[::2]:
                got = lag.nl.get(sa)
                equal((got["cur.packets"], got["cur.bytes"]), (5, 5 * LENGTH), "packets, bytes")
            equal(counts_agree(lag), 20, "packets")
        for total in shown(lag)["totals"]:
            equal((total["packets"], total["bytes"]), (10, 10 * FRAME), "packets, bytes")


def comings_and_goings():
    """Slaves join, leave, fail, and are unplugged, and SAs are migrated, while all ask."""
    with ready(slaves=3) as lag:
        lag.add()
        ports = list(lag.ports)
        gone = 0
        with traffic(lag) as done:
            for n in range(3):
                lag.release(ports[0])
                packets(lag)
                lag.join(ports[0])
                lag.a.up(ports[1].name, bool(n % 2))
                for sa in sas():
                    reply = lag.nl.migrate(migrate(sa, reqid=sa.reqid if n % 2 else 77))
                    equal(reply.verdict, (0, None), "answer")
                packets(lag)
                shown(lag)
            for sa in sas():
                lag.nl.migrate(migrate(sa))
            gone = ports[2].sent()
            ports[2].close()
            lag.ports.remove(ports[2])
            before = done[0]
            ktap.wait(lambda: done[0] > before + 20, "packets")
        equal(lag.held(), [8, 8], "SAs in each slave")
        counted = packets(lag)
        true(gone and counted <= done[0], f"{counted} counted of {done[0]}")
        # While policies asked for another one there was no SA for some.
        equal(counts_agree(lag) <= counted, True, "what slaves tell is a part of it")
        # From now on, all of it is told by the slaves that are there.
        told = counts_agree(lag)
        lag.a.up(ports[1].name, True)
        lag.links()
        lag.wire(*((sa, 5) for sa in sas()[::2]))
        equal((packets(lag) - counted, counts_agree(lag) - told), (20, 20), "packets")


def failures_are_summed_up():
    """Of packets that only the slaves know of, none is lost or counted twice."""
    with ready(slaves=3) as lag:
        sa = lag.new(in_(0))
        first, second, third = lag.ports

        def failed():
            return lag.nl.get(sa)["stats.integrity_failed"]
        first.dev.fail(3)
        second.dev.fail(4)
        for _ in range(3):
            equal(failed(), 7, "failures")
        first.dev.fail(10)
        lag.release(first)
        equal(failed(), 17, "failures, after a slave has left")
        lag.join(first)
        first.dev.fail(100)
        lag.a.up(second.peer.name, False)
        second.dev.fail(200)
        equal(failed(), 317, "failures, with one that has come back and one that has no link")
        second.dev.fail(1000)
        equal(lag.nl.migrate(migrate(sa, reqid=99)).verdict, (0, None), "answer")
        equal(failed(), 1317, "failures, after a migration")
        third.dev.fail(10000)
        third.close()
        lag.ports.remove(third)
        equal(failed(), 11317, "failures, after a slave has been unplugged")
        first.dev.fail(100000)
        shown(lag)
        for _ in range(3):
            equal(failed(), 111317, "failures, after somebody else has asked")


def limits_come_on_time():
    """In packets and bytes, however often slaves are asked and whichever has sent."""
    for name, value in (("hard_packets", 30), ("hard_bytes", 30 * LENGTH)):
        with ready() as lag:
            lag.new(out(0, lft=xfrm.limits(**{name: value})))
            for n in range(10):
                lag.wire((out(0), 2))
                lag.policy(n % 2)
                counts_agree(lag)
            lag.join(lag.port())
            lag.links()
            equal((packets(lag), lag.held()), (20, [1, 1, 1]), "packets, SAs in each slave")
            ports = list(lag.ports)
            # What there is no SA for any more isn't sent.
            lag.send(out(0), 40)
            ktap.wait(lambda: not lag.nl.count(), "its end")
            equal((sum(port.sent() for port in ports), lag.held()), (30, [0, 0, 0]), name)


def soft_limits_come_on_time():
    """The message is sent with the packet that reaches the limit, once."""
    with ready() as lag:
        events = lag.a.listen(xfrm.GROUP_EXPIRE)
        lag.new(out(0, lft=xfrm.limits(soft_packets=10)))
        for n in range(1, 21):
            lag.send(out(0))
            counts_agree(lag)
            # It is looked for before a packet is counted.
            heard = [m for m in events.pending() if m.kind == xfrm.EXPIRE]
            equal(len(heard), int(n == 11), f"messages, packet {n}")
        equal(lag.held(), [1, 1], "SAs in each slave")


if __name__ == "__main__":
    ktap.main([counted_once, comings_and_goings, failures_are_summed_up, limits_come_on_time,
               soft_limits_come_on_time], handlers=(RUST,))

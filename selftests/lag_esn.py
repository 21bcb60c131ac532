#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""SAs with extended sequence numbers on all slaves of a bond, over the edge of 2^32.

A slave that hasn't been told of the upper half that a packet needs drops it (netdevsim, as
hardware would encrypt it with a wrong one) and complains, which ktap hears.
"""

import contextlib
import errno
import itertools
import subprocess
import time

from lib import ktap, nsim, xfrm
from lib.bond import (BOND, HERE, LAYER2, LAYER34, NET, PORT, Bonded, esn_in, esn_out, in_,
                      last_number, needs_esn, out, shown)
from lib.handler import BRIEF, RUST
from lib.ktap import equal, true
from lib.xfrm import SA, migrate
from lag_members import traffic

EDGE = 1 << 32


def sent(ports):
    return sum(port.sent() for port in ports)


def upper_halves(lag):
    """What each slave was told last of each SA."""
    return [sorted(port.dev.upper_halves().values()) for port in lag.ports]


@contextlib.contextmanager
def esn_bond(number, pairs=4, **more):
    """A bond with so many SAs that send, of which this was the last number."""
    with Bonded(**more) as lag:
        needs_esn(lag)
        for n in range(pairs):
            lag.new(esn_out(n, number))
        yield lag


def numbers(lag, start):
    """How many have been used, of all SAs."""
    return sum(last_number(sa) - start for sa in lag.nl.all())


def on_all_slaves():
    """With the upper half that they have."""
    with esn_bond(5 * EDGE + 7) as lag:
        lag.new(esn_in(0, 6 * EDGE + 7))
        equal(lag.held(), [5, 5], "SAs in each slave")
        equal(upper_halves(lag), [[5, 5, 5, 5, 6]] * 2, "upper halves")
        plain, cipher = lag.wire(*((esn_out(n), 2) for n in range(4)))
        equal((plain, cipher), ([4, 4], [0, 0]), "encrypted by hardware, by software")
        lag.nl.flush()
        equal(lag.held(), [0, 0], "SAs in each slave")


def over_the_edge():
    """Under traffic, while the hash moves SAs from slave to slave."""
    start = EDGE - 60
    with esn_bond(start) as lag:
        equal(upper_halves(lag), [[0] * 4] * 2, "upper halves")
        hashes = itertools.cycle((LAYER2, LAYER34))
        with lag.watched() as counts, traffic(lag) as done:
            while any(last_number(sa) < EDGE + 60 for sa in lag.nl.all()):
                lag.policy(next(hashes))
                time.sleep(0.02)
        equal(upper_halves(lag), [[1] * 4] * 2, "upper halves")
        equal((sent(lag.ports), counts[1]), (done[0], 0), "by hardware, by software")
        equal(numbers(lag, start), done[0], "numbers used")


def joins(start, want):
    """A slave that takes over all traffic across, or beyond the edge."""
    with esn_bond(start) as lag:
        with traffic(lag) as done:
            ktap.wait(lambda: all(last_number(sa) > start + 10 and (
                last_number(sa) >> 32 == want or start < EDGE - 1000)
                for sa in lag.nl.all()), "packets")
            first = list(lag.ports)
            lag.join(lag.port())
            equal(lag.ports[2].dev.upper_halves(), {esn_out(n).spi: want for n in range(4)},
                  "upper halves in the slave that has joined")
            lag.links()
            for port in first:
                lag.release(port)
            before = lag.ports[0].sent()
            if not want:
                # Just before: the numbers are moved there. None is used twice: they grow.
                for n in range(4):
                    numbers_ = xfrm.esn(0, 0, oseq=EDGE - 20, oseq_hi=0)
                    lag.nl.set_ae(esn_out(n), [("REPLAY_ESN_VAL", numbers_)])
            ktap.wait(lambda: all(last_number(sa) > EDGE + 20 for sa in lag.nl.all()), "packets")
            ktap.wait(lambda: lag.ports[0].sent() > before + 100, "packets by the slave")
        equal(upper_halves(lag), [[1] * 4], "upper halves")
        equal(sent([*first, *lag.ports]), done[0], "packets encrypted by hardware")


def joins_before_the_edge():
    joins(EDGE - 1000000, 0)


def joins_after_the_edge():
    joins(EDGE - 20, 1)


def comes_and_goes_at_the_edge():
    """A slave joins and leaves while the numbers pass the edge again and again."""
    with esn_bond(EDGE - 100, pairs=2) as lag:
        guest = lag.port()
        for half in range(1, 3 if BRIEF else 8):
            for n in range(2):
                numbers_ = xfrm.esn(0, 0, oseq=EDGE - 30, oseq_hi=half)
                lag.nl.set_ae(esn_out(n), [("REPLAY_ESN_VAL", numbers_)])
            before = sent([*lag.ports, guest])
            with traffic(lag) as done:
                while any(last_number(sa) < (half + 1) * EDGE + 10 for sa in lag.nl.all()):
                    lag.join(guest)
                    lag.release(guest)
            # What goes to addresses without an SA isn't ESP.
            equal(sent([*lag.ports, guest]) - before, done[0] // 2, "encrypted by hardware")
            equal(upper_halves(lag), [[half + 1] * 2] * 2, "upper halves")


def migrates_over_the_edge():
    """The new SA goes on with the numbers of the old one, on all slaves."""
    way = 50 if BRIEF else 200
    start = EDGE - way
    with esn_bond(start) as lag:
        with lag.watched() as counts, traffic(lag) as done:
            for n in itertools.count():
                for number in range(4):
                    sa = esn_out(number)
                    reply = lag.nl.migrate(migrate(sa, reqid=sa.reqid if n % 2 else 77))
                    equal(reply.verdict, (0, None), "answer")
                if all(last_number(sa) > EDGE + way // 2 for sa in lag.nl.all()):
                    break
            # With the request that policies ask for.
            for number in range(4):
                lag.nl.migrate(migrate(esn_out(number)))
        equal((lag.held(), upper_halves(lag)), ([4, 4], [[1] * 4] * 2), "SAs, upper halves")
        equal(counts[1], 0, "packets encrypted by software")
        # What was under way on the old SA when that was deleted had its number.
        true(sent(lag.ports) <= numbers(lag, start) <= done[0],
             f"{sent(lag.ports)} by hardware, {numbers(lag, start)} numbers, {done[0]} packets")


def received_over_the_edge():
    """Software has decrypted them; the slaves are told."""
    start = EDGE - 10
    with esn_bond(0, pairs=0) as lag:
        lag.new(esn_in(0, start))
        peer = lag.ports[0].peer.name
        lag.b.address(peer, f"{NET}10/24")
        lag.b.neighbours(peer, HERE, lladdr=link_address(lag, BOND))
        there = SA(f"{NET}10", HERE, in_(0).spi, reqid=1, flags=xfrm.FLAG_ESN).but(
            {"REPLAY_ESN_VAL": xfrm.esn(0, 0, oseq=start), "SA_DIR": b"\2"})
        lag.b.xfrm.new(there)
        lag.b.xfrm.policy(xfrm.POLICY_OUT, xfrm.host(HERE, f"{NET}10"), there)
        receiver, sender = lag.a.udp(HERE, PORT), lag.b.udp(f"{NET}10")
        receiver.settimeout(20)
        for n in range(30):
            sender.sendto(bytes([n]), (HERE, PORT))
            equal(receiver.recv(9), bytes([n]), "a datagram")
        equal(upper_halves(lag), [[1]] * 2, "upper halves")
        got, = lag.nl.all()
        equal((last_number(got), got["cur.packets"]), (start + 30, 30), "number, packets")


def link_address(lag, name):
    with lag.a.inside():
        done = subprocess.run(["unshare", "-m", "sh", "-c", "mount -t sysfs none /sys && cat "
                               f"/sys/class/net/{name}/address"],
                              check=True, capture_output=True, text=True)
    return bytes.fromhex(done.stdout.strip().replace(":", ""))


def does_esn(on):
    """Whether the driver of ports to come does, if it is one that can do without."""
    with open("/sys/module/netdevsim/parameters/no_esn", "w") as f:
        f.write(str(int(not on)))


def a_driver_without_is_refused():
    """An SA on a bond with such a slave, and such a slave while there are SAs; both named."""
    with nsim.built_as("netdevsim_no_esn"), Bonded() as lag:
        lag.new(esn_out(0))
        does_esn(False)
        port = lag.port()
        equal(lag.try_join(port.name).verdict,
              (errno.EOPNOTSUPP,
               f"Slave can't join ESP offload: the driver of {port.name} can't do ESN"), "answer")
        equal((port.held(), lag.held()), (0, [1, 1]), "SAs in it, and in the others")
        lag.nl.delete(esn_out(0))
        ktap.wait(lambda: "\nsa " not in shown(), "SAs are freed")
        lag.join(port)
        reply = lag.nl.request(xfrm.NEWSA, lag.offloaded(esn_out(0)).pack(), 0x600)
        equal(reply.verdict,
              (errno.EINVAL, f"Slave {port.name}: its driver can't do ESN offload"), "answer")
        lag.new(out(0))
        equal(lag.held(), [1, 1, 1], "SAs without ESN")


if __name__ == "__main__":
    ktap.main([on_all_slaves, over_the_edge, joins_before_the_edge, joins_after_the_edge,
               comes_and_goes_at_the_edge, migrates_over_the_edge, received_over_the_edge,
               a_driver_without_is_refused], handlers=(RUST,))

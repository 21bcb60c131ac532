#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""SAs of a bond are on all its slaves, and which path packets take."""

import errno
import json
import shutil
import subprocess

from lib import handler, ktap, xfrm
from lib.bond import ACTIVE_BACKUP, BOND, LACP, XOR, Bonded, esn_out, feature, in_, out, sas
from lib.handler import NEITHER
from lib.ktap import equal
from lib.netlink import attrs
from lib.netns import Netns


# What a device can do of ESP; the ciphers are the last to go.
FEATURES = "tx-esp-segmentation", "esp-tx-csum-hw-offload", "esp-hw-offload"


def off_until_asked_for():
    """But for active-backup, which has its own way."""
    for mode, on in ((XOR, False), (LACP, False), (ACTIVE_BACKUP, True)):
        with Bonded(mode, slaves=0, esp=False) as lag:
            equal(lag.esp(), on, f"mode {mode}")


def asking_asks_the_slaves():
    with Bonded(slaves=2, esp=False) as lag:
        for port in lag.ports:
            lag.esp(False, port.name)
        lag.esp(True)
        equal(lag.all_esp(), [True] * 3, "ESP of bond and slaves")


def one_that_cannot_is_reason_enough():
    """The bond stays as it was, and so do the others."""
    with Bonded(slaves=2, esp=False) as lag:
        lag.a.dummy("dummy0")
        equal(lag.try_join("dummy0").verdict, (0, None), "a slave that can't, while ESP is off")
        # Of what is left, with the ciphers off, nobody hears.
        for wishes in ("esp-hw-offload",), FEATURES:
            for port in lag.ports:
                for wish in wishes:
                    feature(lag.a, port.name, wish, False)
            lag.esp(True)
            equal(lag.all_esp(), [False] * 3, "ESP of bond and slaves")


def segments_are_made_before():
    """By the bond: its slaves may differ in what they can segment."""
    with Bonded() as lag:
        lag.add()
        equal(feature(lag.a, BOND, "tx-esp-segmentation", True), False, "tx-esp-segmentation")
        equal(lag.all_esp(), [True] * 3, "ESP of bond and slaves")
        both_paths(lag)


def each_slave_holds_each_sa():
    with Bonded() as lag:
        for n, sa in enumerate(sas(), 1):
            lag.new(sa)
            equal(lag.held(), [n, n], "SAs in each slave")
        for n, sa in enumerate(sas(), 1):
            lag.nl.delete(sa)
            equal(lag.held(), [8 - n] * 2, "SAs in each slave after deletion")


def each_slave_has_a_handle_of_its_own():
    """What is on one of them only does not move the others."""
    with Bonded() as lag:
        direct = [in_(n, seq=n) for n in range(10, 13)]
        for sa in direct:
            lag.nl.new(lag.offloaded(sa, lag.ports[0].name))
        lag.add()
        first, second = (port.slots() for port in lag.ports)
        spi = sas()[0].spi
        slots = [next(i for i, s in table.items() if s == spi) for table in (first, second)]
        equal(slots, [3, 0], "slots of the first SA")
        both_paths(lag)
        for sa in direct + sas():
            equal(lag.nl.delete(sa).errno, 0, "deletion")
        equal(lag.held(), [0, 0], "SAs in each slave")


def both_paths(lag):
    """Eight packets, four by each slave, encrypted there."""
    before = [port.sent() for port in lag.ports]
    plain, cipher = lag.wire(*((sa, 2) for sa in sas()[::2]))
    equal((plain, cipher), ([4, 4], [0, 0]), "encrypted by hardware, by software")
    equal([port.sent() - n for port, n in zip(lag.ports, before)], plain, "as the slaves count")


def packets_take_both_slaves():
    with Bonded() as lag:
        lag.add()
        both_paths(lag)


def packets_take_both_slaves_of_802_3ad():
    with Bonded(LACP) as lag:
        lag.add()
        both_paths(lag)


def without_slaves():
    """Nobody has the SAs, so software does: a user can make such a bond, whose SAs would be flushed
    with RTNL held. Slaves that come while others are there get what the bond has."""
    with Bonded(slaves=0, esp=False) as lag:
        lag.esp(True)
        lag.new(in_(9))
        lag.join(lag.port())
        equal(lag.held(), [0], "SAs in the slave")
        lag.nl.flush()
        lag.add()
        lag.join(lag.port())
        equal(lag.held(), [8, 8], "SAs in each slave")


def software(lag):
    """Adding works, and nothing is in hardware."""
    lag.add()
    equal(lag.held(), [0] * len(lag.ports), "SAs in each slave")
    plain, cipher = lag.wire(*((sa, 2) for sa in sas()[::2]))
    equal((sum(plain), sum(cipher)), (0, 8), "encrypted by hardware, by software")


def software_while_off():
    with Bonded(esp=False) as lag:
        software(lag)


def software_once_a_slave_has_stopped():
    """Whichever slave sends."""
    with Bonded() as lag:
        lag.add()
        lag.esp(False, lag.ports[1].name)
        equal(lag.esp(), False, "ESP of the bond")
        plain, cipher = lag.wire(*((sa, 2) for sa in sas()[::2]))
        equal((plain, cipher), ([0, 0], [4, 4]), "encrypted by hardware, by software")
        lag.esp(True)
        both_paths(lag)


def refused(lag, sa, text, code=errno.EINVAL, flags=0):
    reply = lag.nl.request(xfrm.NEWSA, lag.offloaded(sa, flags=flags).pack(), 0x600)
    equal(reply.verdict, (code, text), "answer")
    equal((lag.held(), lag.nl.count()), ([0, 0], 0), "SAs in each slave, in all")


def what_cannot_be_shared_is_refused():
    kind = "is not supported by bonds that use several slaves"
    with Bonded() as lag:
        # With all of patches/ it can: lag_esn. Else the kernel can't, or netdevsim.
        if handler.PATCHES < 5:
            refused(lag, esn_out(0),
                    "This kernel has no ESN offload for bonds that use several slaves")
        elif handler.PATCHES < 7:
            name = lag.ports[0].name
            refused(lag, esn_out(0), f"Slave {name}: its driver can't do ESN offload")
        refused(lag, out(0), f"Packet offload {kind}", flags=4)
        body = xfrm.policy(xfrm.POLICY_OUT, xfrm.host(out(0).dst, out(0).src), out(0))
        body += attrs([(xfrm.A["OFFLOAD_DEV"], xfrm.offload(lag.a.ifindex(BOND), 4))])
        reply = lag.nl.request(xfrm.NEWPOLICY, body, 0x600)
        equal(reply.verdict, (errno.EINVAL, "Policy offload is not supported"), "policy")
        lag.esp(False)
        refused(lag, out(0), "The bond does not offload: esp-hw-offload of the bond is off",
                errno.EOPNOTSUPP, flags=4)


def a_full_slave_refuses_for_all():
    """What the others had got is undone."""
    with Bonded() as lag:
        fill(lag, lag.ports[1], 33)
        refused_by_table(lag, out(0))
        equal(lag.held(), [0, 33], "SAs in each slave")


def fill(lag, port, slots):
    for n in range(slots):
        lag.nl.new(lag.offloaded(in_(n % 10).but(spi=0x1000 + n), port.name))


def refused_by_table(lag, sa):
    reply = lag.nl.request(xfrm.NEWSA, lag.offloaded(sa).pack(), 0x600)
    equal(reply.verdict, (errno.ENOSPC, "netdevsim: No space for SA in Rx table!"), "answer")


def once_each():
    """The same SA again, updated, and with an end."""
    with Bonded() as lag:
        lag.add()
        reply = lag.nl.request(xfrm.NEWSA, lag.offloaded(out(0)).pack(), 0x600)
        equal(reply.errno, errno.EEXIST, "the same again")
        equal(lag.held(), [8, 8], "SAs in each slave")
        lag.nl.update(lag.offloaded(out(0)))
        ktap.wait(lambda: lag.held() == [8, 8], "SAs in each slave after an update")
        both_paths(lag)
        lag.nl.flush()
        equal(lag.held(), [0, 0], "SAs in each slave after a flush")
        lag.new(out(0, lft=xfrm.limits(hard_add=3)))
        equal(lag.held(), [1, 1], "SAs in each slave")
        ktap.wait(lambda: lag.held() == [0, 0] and not lag.nl.count(), "its time is over")


def direct_ones_beside():
    """What a slave has by itself is its own affair."""
    with Bonded() as lag:
        name = lag.ports[0].name
        lag.nl.new(lag.offloaded(out(9), name))
        lag.add()
        lag.nl.flush()
        equal(lag.held(), [0, 0], "SAs in each slave")


def shown():
    """xfrm-next lag show"""
    if not shutil.which("xfrm-next"):
        raise ktap.Skip("no xfrm-next in PATH")

    def show(ns, words=""):
        with ns.inside():
            done = subprocess.run(["xfrm-next", "-j", "lag", "show", *words.split()],
                                  capture_output=True, text=True)
        return json.loads(done.stdout)["bonds"] if not done.returncode else done.returncode

    with Bonded() as lag, Netns() as other:
        lag.new(out(0))
        lag.new(in_(1))
        names = sorted(port.name for port in lag.ports)
        sa, = (s for s in show(lag.a)[0].pop("sas") if s["dir"] == "out")
        equal({k: v for k, v in sa.items() if k != "handles"},
              {"dst": out(0).dst, "proto": "esp", "spi": 0x100, "dir": "out"}, "SA")
        equal({h["slave"]: h["handle"] & 0xff for h in sa["handles"]},
              {p.name: next(i for i, spi in p.slots().items() if spi == 0x100)
               for p in lag.ports}, "handles")
        found, = show(lag.a, f"dev {BOND}")
        equal((found["offload"], sorted(found["slaves"]), len(found["sas"])), (True, names, 2),
              "bond")
        lag.esp(False)
        found, = show(lag.a)
        equal((found["offload"], found["reason"]), (False, "esp-hw-offload of the bond is off"),
              "bond")
        equal(show(other), [], "in another namespace")
        equal(show(lag.a, "dev nobond"), 255, "status for what is no bond")


if __name__ == "__main__":
    ktap.main([
        off_until_asked_for, asking_asks_the_slaves, one_that_cannot_is_reason_enough,
        segments_are_made_before,
        each_slave_holds_each_sa, each_slave_has_a_handle_of_its_own, packets_take_both_slaves,
        packets_take_both_slaves_of_802_3ad, without_slaves, software_while_off,
        software_once_a_slave_has_stopped,
        what_cannot_be_shared_is_refused, a_full_slave_refuses_for_all, once_each,
        direct_ones_beside, shown], handlers=(NEITHER,))

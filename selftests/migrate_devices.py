#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""SAs in hardware are migrated without a pause while their device leaves.

Whatever happens: what the device holds are the SAs that there are.
SECONDS=N in the environment: that long each of them.
"""

import contextlib
import errno
import time

from lib import handler, ktap, nsim, race, xfrm
from lib.flood import PORT, Flood
from lib.handler import RUST
from lib.hosts import selector
from lib.ktap import equal, only
from lib.netns import Netns
from lib.race import LOST, SECONDS, add, delete, move
from lib.xfrm import SA, limits

HERE, PEER = "192.0.2.1", "192.0.2.2"
# The device is not there, or not able, any more.
REFUSED = LOST | {errno.EINVAL, errno.ENODEV}


class Card(race.Requesters):
    """A namespace with a device, a flood through it, and one who migrates the SAs
    while another adds those that are missing, or renews all."""

    def __init__(self, renews=False, **sa):
        super().__init__()
        self.ns = self.enter_context(Netns())
        self.dev = nsim.Device(self.ns)
        self.connect()
        card = {"OFFLOAD_DEV": xfrm.offload(self.dev.ifindex)}
        self.sas = [SA(HERE, PEER, 0x100, **sa).but({"SA_DIR": b"\2", **card}),
                    SA(PEER, HERE, 0x101).but({"SA_DIR": b"\1", "OFFLOAD_DEV": xfrm.offload(
                        self.dev.ifindex, 2)})]
        self.ns.xfrm.policy(xfrm.POLICY_OUT, selector(xfrm.AF_INET), self.sas[0], zero=True)
        self.sender = self.run(self.ns, 0, "send", HERE, PEER, PORT)
        self.request("add", self.ns, *(r(sa) for sa in self.sas
                                       for r in [delete, add][not renews:]))
        self.request("move", self.ns, *map(move, self.sas))

    def connect(self):
        """An address, and somebody who seems to be at the other end."""
        self.ns.up(self.dev.name)
        with contextlib.suppress(OSError):
            self.ns.address(self.dev.name, f"{HERE}/24")
        self.ns.neighbours(self.dev.name, PEER)

    def stop(self, allowed=LOST):
        Flood.end(self.sender)
        return super().stop(allowed)

    def held(self):
        """SAs that are offloaded, to the kernel and to the device."""
        return sum("OFFLOAD_DEV" in sa for sa in self.ns.xfrm.all()), self.dev.held()

    def clean(self):
        """The books agree, before and after the SAs are flushed."""
        in_kernel, in_device = self.held()
        equal(in_device, in_kernel, "SAs in hardware")
        race.clean(self.ns)
        equal(self.dev.held(), 0, "SAs in hardware after a flush")


def until(seconds):
    """Again and again for that long, and at least twice."""
    end, times = time.monotonic() + seconds, 0
    while times < 2 or time.monotonic() < end:
        yield
        times += 1
        time.sleep(.05)


@only(RUST)
def device_goes_down():
    """The kernel deletes its SAs then."""
    with Card() as card, card.dev:
        card.go(0)
        for _ in until(SECONDS):
            card.ns.up(card.dev.name, False)
            card.connect()
        card.stop()
        card.clean()


@only(RUST)
def device_is_removed():
    for _ in until(SECONDS):
        with Card() as card:
            with card.dev:
                card.go(.2)
            card.stop(REFUSED)
            equal([sa for sa in card.ns.xfrm.all() if "OFFLOAD_DEV" in sa], [], "SAs of the device")
            race.clean(card.ns)


@only(RUST)
def device_moves_to_another_namespace():
    with Netns() as other, Card(renews=True) as card, card.dev:
        card.go(0)
        for _ in until(SECONDS):
            card.ns.give(card.dev.name, other)
            other.give(card.dev.name, card.ns)
            card.connect()
        card.stop(REFUSED)
        card.clean()


def is_empty(dev):
    try:
        return dev.held() == 0
    except OSError as why:
        if why.errno not in (errno.ENOENT, errno.EIO):      # as long as it moves
            raise
        return False


@only(RUST)
def namespace_ends():
    """Its devices go back to the first one."""
    for _ in until(SECONDS):
        with Card() as card:
            card.go(.2)
            card.stop()
        with card.dev:
            ktap.wait(lambda card=card: is_empty(card.dev), "nothing is left in hardware")


@only(RUST)
def sas_expire():
    """After some packets, in the middle of a request."""
    with Card(lft=limits(soft_packets=3, hard_packets=10)) as card, card.dev:
        card.go()
        card.stop()
        card.clean()


@only(RUST)
def module_comes_and_goes():
    """The kernel's own handler refuses what is offloaded."""
    with Card() as card, card.dev:
        card.go(0)
        for _ in until(SECONDS):
            handler.rmmod(handler.NAME)
            time.sleep(.1)
            handler.insmod(handler.KO)
        card.stop(REFUSED)
        card.clean()
    equal(handler.refcount(), 0, "reference count")


if __name__ == "__main__":
    ktap.main([device_goes_down, device_is_removed, device_moves_to_another_namespace,
               namespace_ends, sas_expire, module_comes_and_goes])

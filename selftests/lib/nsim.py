# SPDX-License-Identifier: GPL-2.0
"""Simulated network devices that take over ESP with AES-GCM-128."""

import contextlib
import ctypes
import itertools
import os
import re
import subprocess

from lib import handler, ktap

BUS = "/sys/bus/netdevsim"
DEBUG = "/sys/kernel/debug"


def mount_debugfs():
    if os.path.isdir(DEBUG) and not os.listdir(DEBUG):
        handler.libc.mount(b"debugfs", DEBUG.encode(), b"debugfs", 0, ctypes.c_void_p())


def prepare():
    """The module and debugfs, or Skip."""
    if not os.path.isdir(BUS):
        subprocess.run(["modprobe", "netdevsim"], check=False, capture_output=True)
    if not os.path.isdir(BUS):
        raise ktap.Skip("no netdevsim")
    mount_debugfs()
    if not os.path.isdir(DEBUG + "/netdevsim"):
        raise ktap.Skip("no debugfs")


@contextlib.contextmanager
def built_as(name):
    """scripts/rfc-netdevsim's module of this name in place of the kernel's, or Skip."""
    module = handler.PROGRAMS / f"{name}.ko"
    if handler.DEBUG or not module.exists():
        raise ktap.Skip(f"no {module.name} for this kernel")
    prepare()
    handler.rmmod("netdevsim")
    handler.insmod(str(module))
    try:
        yield
    finally:
        handler.rmmod("netdevsim")
        prepare()


class Card:
    """A card in a network namespace, gone with the block. To make a port of it costs less
    than to make a card."""

    def __init__(self, ns, ports=0):
        prepare()
        used = {int(d[len("netdevsim"):]) for d in os.listdir(BUS + "/devices")}
        self.number = next(n for n in range(1, 1 << 16) if n not in used)
        self.unused = itertools.count()
        with ns.inside():
            _write("new_device", f"{self.number} {ports}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _write("del_device", str(self.number))

    def change(self, how, port):
        _write(f"devices/netdevsim{self.number}/{how}_port", str(port))


class Device:
    """A port in a network namespace, gone with the block: of that card, or of its own."""

    def __init__(self, ns, card=None):
        before = ns.links()
        self.alone = card is None
        self.card = card or Card(ns, ports=1)
        self.port = next(self.card.unused)
        if card:
            card.change("new", self.port)
        self.name, = ns.links() - before
        ns.up(self.name)
        self.ifindex = ns.ifindex(self.name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.alone:
            self.card.__exit__()
        else:
            self.card.change("del", self.port)

    def _file(self, name):
        return f"{DEBUG}/netdevsim/netdevsim{self.card.number}/ports/{self.port}/{name}"

    def text(self):
        with open(self._file("ipsec")) as f:
            return f.read()

    def state(self):
        """(SAs held, packets sent through one)."""
        return tuple(map(int, re.match(r"SA count=(\d+) tx=(\d+)", self.text()).groups()))

    def slots(self):
        """{index in its table: SPI}."""
        found = re.findall(r"sa\[(\d+)\] +spi=0x([0-9a-f]+)", self.text())
        return {int(index): int(spi, 16) for index, spi in found}

    def held(self):
        return self.state()[0]

    def upper_halves(self):
        """{SPI: upper half that it was told last} of SAs with ESN."""
        found = re.findall(r"sa\[(\d+)\] +esn=0x([0-9a-f]+)", self.text())
        slots = self.slots()
        return {slots[int(index)]: int(half, 16) for index, half in found}

    def does_esn(self):
        """Whether it takes SAs with ESN, and counts: with patches/0007."""
        return os.path.exists(self._file("ipsec_stats"))

    def counted(self):
        """{SPI: (packets, bytes)} that it has sent."""
        with open(self._file("ipsec_stats")) as f:
            found = re.findall(r"sa\[(\d+)\] packets=(\d+) bytes=(\d+)", f.read())
        slots = self.slots()
        return {slots[int(index)]: (int(packets), int(length))
                for index, packets, length in found}

    def fail(self, packets):
        """So many packets of the next received SA that is asked for have failed the check."""
        with open(self._file("ipsec_integrity_failed"), "w") as f:
            f.write(str(packets))


def link(dev, ns, peer, peer_ns):
    """Connects two devices as by a cable."""
    _write("link_device", f"{ns.fd}:{dev.ifindex} {peer_ns.fd}:{peer.ifindex}")


def _write(name, text):
    with open(f"{BUS}/{name}", "w") as f:
        f.write(text)

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Bonds with SAs while the module comes and goes."""

import os
import shutil
import subprocess

from lib import handler, ktap
from lib.bond import ACTIVE_BACKUP, BOND, HERE, XOR, Bonded, out, sas
from lib.handler import BRIEF, NEITHER, SOAK
from lib.ktap import equal, true
from lib.xfrm import SA
from lag_members import traffic


def load():
    if not handler.KO or not os.path.exists(handler.KO):
        raise ktap.Skip("XFRM_NEXT_KO names no module")
    handler.insmod(handler.KO)


def unload():
    handler.rmmod(handler.NAME)


def unloaded_under_traffic():
    """No SA stays in a slave; the bond is of use, and the module comes back."""
    with handler.module(), Bonded() as lag:
        for _ in range(1 if BRIEF else 3):
            lag.add()
            equal(lag.held(), [8, 8], "SAs in each slave")
            with lag.watched(), traffic(lag):
                unload()
            equal((lag.held(), lag.nl.count()), ([0, 0], 0), "SAs in each slave, in all")
            before = [port.sent() for port in lag.ports]
            with lag.watched():
                lag.send(out(0), 2)
            equal([port.sent() for port in lag.ports], before, "packets left to hardware")
            load()
            equal(lag.esp(), True, "ESP of the bond")


def loaded_over_sas_of_the_driver():
    """They stay the driver's, and go as they came."""
    with handler.module(), Bonded() as lag:
        unload()
        lag.nl.new(lag.offloaded(out(0)))
        equal(sum(lag.held()), 1, "SAs in slaves, as the driver does it")
        load()
        lag.new(out(1))
        equal(sum(lag.held()), 3, "SAs in slaves")
        lag.nl.delete(out(0))
        equal(lag.held(), [1, 1], "SAs in each slave")
        unload()
        load()
        lag.nl.flush()


def active_backup():
    """It is the driver's affair, with the module as without."""
    with handler.module(), Bonded(ACTIVE_BACKUP, esp=False) as lag:
        for loaded in (True, False, True):
            for sa in sas():
                lag.new(sa)
            equal(sorted(lag.held()), [0, 8], "SAs in slaves")
            active = lag.held().index(8)
            plain, cipher = lag.wire(*((sa,) for sa in sas()[::2]))
            equal((sum(plain), sum(cipher)), (4, 0), "encrypted by hardware, by software")
            lag.a.up(lag.ports[active].name, False)
            ktap.wait(lambda: lag.held()[1 - active] == 8, "the other one has the SAs")
            equal(lag.held()[active], 0, "SAs in the one that is down")
            lag.a.up(lag.ports[active].name)
            if loaded:
                unload()
            else:
                load()
            lag.nl.flush()
            equal(lag.held(), [0, 0], "SAs in slaves")
        if not handler.loaded():
            load()


def vlan_above():
    """It has no offload of its own, whatever the bond below does, with the module as without."""
    sa = SA(HERE, "192.0.3.2", 0x300, reqid=9).but({"SA_DIR": b"\2"})
    for mode in (XOR,) if BRIEF else (XOR, ACTIVE_BACKUP):
        with handler.module(), Bonded(mode, esp=mode == XOR) as lag:
            lag.a.vlan("vlan0", BOND, 5)
            lag.a.address("vlan0", "192.0.3.1/24")
            lag.a.neighbours("vlan0", sa.dst)
            for again in (True, False):
                lag.new(sa, "vlan0")
                equal(lag.held(), [0, 0], "SAs in each slave")
                plain, cipher = lag.wire((sa, 4))
                equal((sum(plain), sum(cipher)), (0, 4), "encrypted by hardware, by software")
                lag.nl.flush()
                if again:
                    unload()
            load()


def shown_while_it_comes_and_goes():
    """xfrm-next lag show has something to read, or says that there is no list."""
    if not shutil.which("xfrm-next"):
        raise ktap.Skip("no xfrm-next in PATH")
    shows = """while :; do
        xfrm-next lag show 2>&1 || :
        echo .
    done"""
    with handler.module(), Bonded() as lag, lag.a.inside():
        with subprocess.Popen(["bash", "-c", shows], stdout=subprocess.PIPE, text=True) as shell:
            for _ in range(10 if SOAK else 2):
                unload()
                load()
            shell.kill()
            said = shell.stdout.read().split("\n")
        print(f"# shown {said.count('.')} times")
        texts = {line for line in said if line.startswith("Cannot")}
        true(all("No such file" in text for text in texts), f"{texts}")
        true(any(BOND in line for line in said), "the bond was never shown")


if __name__ == "__main__":
    ktap.main([unloaded_under_traffic, loaded_over_sas_of_the_driver,
               shown_while_it_comes_and_goes]
              + [active_backup] * (not BRIEF) + [vlan_above], handlers=(NEITHER,), load=False)

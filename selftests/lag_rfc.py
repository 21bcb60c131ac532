#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What comes of the resolver that the RFC for LAG offload proposed.

For a netdevsim that has been built with it (scripts/rfc-netdevsim).
"""

from lib import handler, ktap, nsim
from lib.bond import ACTIVE_BACKUP, Bonded, sas
from lib.handler import C
from lib.ktap import defect, equal
from lag_members import traffic
from lag_module import load, unload

PARAMETERS = "/sys/module/netdevsim/parameters/"


def failover(lag):
    """The slave that was active forgets all SAs when it goes down."""
    for sa in sas():
        lag.new(sa)
    active = lag.held().index(8)
    lag.a.up(lag.ports[active].name, False)
    ktap.wait(lambda: lag.held()[1 - active] == 8, "the other one has the SAs")
    equal(lag.held()[active], 0, "SAs in the one that is down")


def ours():
    """With the one in patches/."""
    with Bonded(ACTIVE_BACKUP, esp=False, module=False) as lag:
        failover(lag)


@defect(27)
def active_backup_leaks():
    """The resolver finds no handle when bonding deletes an SA."""
    with nsim.built_as("netdevsim_rfc"), Bonded(ACTIVE_BACKUP, esp=False, module=False) as lag:
        failover(lag)


@defect(28)
def null_is_called():
    """Operations change between the two times that the resolver reads them."""
    with nsim.built_as("netdevsim_rfc"), handler.module(), Bonded(ACTIVE_BACKUP, esp=False) as lag:
        lag.add()       # the driver's, so they stay when the module goes
        with open(PARAMETERS + "rfc_pause", "w") as f:
            f.write("50")
        for _ in range(30):     # one of them hits a packet
            with traffic(lag) as sent:
                ktap.wait(lambda: sent[0], "packets")
                unload()
            load()
            with open(PARAMETERS + "rfc_null_calls") as f:
                equal(int(f.read()), 0, f"calls of NULL in {sent[0]} packets")


if __name__ == "__main__":
    ktap.main([ours, active_backup_leaks, null_is_called], handlers=(C,), load=False)

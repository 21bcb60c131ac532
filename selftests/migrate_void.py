#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A device gets a migrated SA while it is void, which it is until it has its window.

What a driver receives by it before is dropped.
"""

from lib import ktap, xfrm
from lib.handler import C, MENDED
from lib.hosts import selector
from lib.ktap import defect, equal, only
from lib.netlink import attrs
from lib.probe import Probe
from migrate_offload import IN, MOVED, OUT, Host

VOID = 0        # XFRM_STATE_VOID


def added():
    """With which km.state netdevsim gets SAs."""
    return Probe("nsim_ipsec_add_sa", state="xs->km.state:u8")


def given(host, probe, sa, what):
    """The device was given it alone, and void; now it is valid."""
    equal(probe.calls(), [{"state": VOID}], f"km.state when the device gets {what}")
    equal(host.held(), [1], "SAs in hardware")
    # The counters of no other can be set.
    host.nl.set_ae(sa, [("LTIME_VAL", xfrm.lifetime())])


@only(*MENDED)
@defect(34)
def device_gets_a_void_sa():
    """The in-tree handler does not get so far, for defect 1."""
    with Host() as host, added() as probe:
        for sa in (OUT, IN):
            sa = host.new(sa)
            given(host, probe, sa, "a new SA")
            for n, dst in enumerate((sa.dst, MOVED, sa.dst)):
                sa, _ = host.migrate(sa, dst=dst, reqid=n)
                given(host, probe, sa, f"the SA of migration {n}")
            host.nl.delete(sa)


@only(*{C}.intersection(MENDED))
@defect(34)
def device_gets_a_void_sa_with_its_policy():
    """By XFRM_MSG_MIGRATE."""
    udp = selector(xfrm.AF_INET)
    with Host() as host, added() as probe:
        host.nl.policy(xfrm.POLICY_OUT, udp, OUT, zero=True)
        sa = host.new(OUT)
        given(host, probe, sa, "a new SA")
        moved = sa.but(dst=MOVED)
        host.nl.must(xfrm.MIGRATE, xfrm.migrate_with_policy(xfrm.POLICY_OUT, udp, sa, moved)
                     + attrs([(xfrm.A["OFFLOAD_DEV"], sa.attrs["OFFLOAD_DEV"])]))
        given(host, probe, moved, "the migrated SA")


if __name__ == "__main__":
    ktap.main([device_gets_a_void_sa, device_gets_a_void_sa_with_its_policy])

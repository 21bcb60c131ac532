#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What ends a search for an SPI, other than that one is free or none."""

import signal
import time

from lib import handler, ktap, netlink, spi, xfrm
from lib.handler import DEBUG, NEITHER
from lib.ktap import equal, true
from lib.netns import Netns
from lib.spi import NO_SPI, larval, scope, verdict
from lib.xfrm import DIR_IN, SA
from migrate_scale import send_all

HERE, PEER = "192.0.2.1", "192.0.2.2"
FULL = 0x1000, 0x13ff if DEBUG else 0x17ff
# The kernel's number for "call me again", which isn't meant for users.
ERESTARTSYS = 512
PATIENCE = 120


def fill(ns):
    """Takes each SPI of a range."""
    every = range(FULL[0], FULL[1] + 1)
    send_all(ns.xfrm, xfrm.NEWSA, SA(HERE, PEER, 0).pack(), {72: 0}, every, netlink.CREATE)
    equal(ns.xfrm.count(), len(every), "SAs")


def until(wanted, ask):
    """Asks until the answer is the wanted one; it's NO_SPI before."""
    end = time.monotonic() + PATIENCE
    while (got := ask()) != wanted:
        equal(got, NO_SPI, f"verdict, waiting for {wanted}")
        true(time.monotonic() < end, f"never {wanted}")


def signals():
    """A signal ends it; without the module, too."""
    def interrupted():
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            return verdict(ns.xfrm, larval(PEER, *FULL, direction=DIR_IN))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    if not handler.KO:
        raise ktap.Skip("XFRM_NEXT_KO names no module")
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        with Netns() as ns:
            spi.patient(ns)
            fill(ns)
            until((ERESTARTSYS, None), interrupted)
            with handler.module():
                for value in 0, 1, 2:
                    scope(ns, value)
                    until((ERESTARTSYS, None), interrupted)
                # It may ask again: it is the same larval SA that gets an SPI.
                there = ns.xfrm.count()
                one = larval(PEER, FULL[1] + 1, direction=DIR_IN)
                equal(verdict(ns.xfrm, one), (0, None), "once more")
                equal(ns.xfrm.count(), there, "SAs")
    finally:
        signal.signal(signal.SIGALRM, before)


def death():
    """An SA that expires while an SPI is looked for gets none."""
    with handler.module(), spi.namespace(0) as ns:
        fill(ns)
        there = ns.xfrm.count()
        ns.sysctl("core/xfrm_acq_expires", 1)
        until((2, "Target ACQUIRE is in DEAD state"),
              lambda: verdict(ns.xfrm, larval(PEER, *FULL)))
        ktap.wait(lambda: ns.xfrm.count() == there, "the larval SA goes")


if __name__ == "__main__":
    ktap.main([signals, death], handlers=(NEITHER,), load=False)

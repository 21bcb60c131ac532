#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Every single allocation of a request for an SPI fails once. For a kernel with FAILSLAB."""

import errno
import os
import struct

from lib import kmsg, ktap, netlink, spi, xfrm
from lib.handler import NEITHER
from lib.ktap import equal, true
from lib.spi import NO_SPI, larval, verdict
from lib.xfrm import DIR_IN, SA
from migrate_faults import NTH, failing

HERE, PEER = "192.0.2.1", "192.0.2.2"
NO_MEMORY = (errno.ENOMEM, None), (errno.ENOENT, "Target ACQUIRE not found")


def fails(nl, wanted, nth):
    """The Reply with the nth allocation failing: None if there are fewer,
    otherwise without an errno if the request or the answer is lost."""
    sa, low, high = wanted
    body = sa.info() + struct.pack("=II", low, high) + netlink.attrs(
        (xfrm.A[k], v) for k, v in sa.attrs.items())
    message = nl.message(xfrm.ALLOCSPI, body, netlink.ACK).pack()
    with open(NTH, "r+b", buffering=0) as f:
        try:
            f.write(b"%d" % nth)
            nl.socket.sendto(message, (0, 0))
        except OSError:
            return netlink.Reply(None, None, None)
        finally:
            left = int(os.pread(f.fileno(), 20, 0))
            os.pwrite(f.fileno(), b"0", 0)
    try:
        acks = [m for m in nl.receive() + nl.pending() if m.kind == netlink.NLMSG_ERROR]
        reply = netlink.parse_ack(acks[0])
    except (OSError, IndexError):       # no memory for the answer
        reply = netlink.Reply(None, None, None)
    return None if left else reply


def each_allocation():
    """No SA is refused for the sake of the index, and no SPI given twice."""
    log = kmsg.Reader()
    with failing(), spi.namespace(2) as ns, ns.inside(), xfrm.Xfrm() as sender:
        given = 0
        for nth in range(1, 200):
            # SAs that the index has to learn, whatever fails.
            for n in range(2):
                ns.xfrm.new(SA(HERE, PEER, 16 * nth + n))
            one = larval("192.0.2.9", 16 * nth, 16 * nth + 2, direction=DIR_IN, reqid=nth)
            reply = fails(sender, one, nth)
            if reply is None:
                break
            true(reply.errno in (None, 0) or reply.verdict in NO_MEMORY, f"{reply} for {nth}")
            given += reply.errno == 0
            spis = [s["spi"] for s in ns.xfrm.all() if s["spi"] >> 4 == nth]
            true(len(spis) == len(set(spis)) <= 3, f"SPIs {spis} after {nth}")
        true(nth > 5, f"only {nth} allocations")
        true(given > 2, f"only {given} served in spite of a failure")
        # And the index knows all that it couldn't learn.
        for n in range(1, nth):
            equal(verdict(ns.xfrm, larval("192.0.2.8", 16 * n, 16 * n + 1)), NO_SPI, f"SAs of {n}")
        equal(sum("no memory for the index of SPIs" in line for line in log.lines()), 1,
              "times that the log tells of it")


if __name__ == "__main__":
    ktap.main([each_allocation], handlers=(NEITHER,))

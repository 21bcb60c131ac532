#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Every single allocation of a migration fails once. For a kernel with FAILSLAB."""

import contextlib
import errno
import os

from lib import flood, handler, hosts, ktap, netlink, nsim, xfrm
from lib.handler import RUST
from lib.hosts import V4, V6, Hosts
from lib.ktap import defect, equal, only, true
from lib.netns import Netns
from lib.xfrm import SA, migrate

ENDS = ("192.0.2.1", "192.0.2.2")
FAILSLAB = nsim.DEBUG + "/failslab/"
NTH = "/proc/thread-self/fail-nth"
KINDS = (
    SA(*ENDS, 0x100).but({"SA_DIR": b"\1", "REPLAY_ESN_VAL": xfrm.esn(64, 2),
                          "ENCAP": xfrm.encap(4500, 4500)}, flags=xfrm.FLAG_ESN),
    SA(*ENDS, 0x101, attrs=dict([xfrm.crypt(bytes(20), "rfc3686(ctr(aes))"), xfrm.auth()])),
    SA(*ENDS, 0x102, proto=xfrm.AH, attrs=dict([xfrm.auth()])),
    SA(*ENDS, 0x103, mode=xfrm.IPTFS).but({"SA_DIR": b"\1"}),
    SA(*ENDS, 0x77, proto=xfrm.COMP, attrs=dict([xfrm.comp()])))


# What packets are sent by, out and in.
UDP_ENCAP = {"ENCAP": xfrm.encap(4500, 4500)}
FLOWS = (
    SA(*V4, 0x200, flags=xfrm.FLAG_ESN),
    SA(*V4, 0x201, mode=xfrm.TUNNEL).but(UDP_ENCAP),
    SA(*V6, 0x202, mode=xfrm.BEET, attrs=dict([xfrm.crypt(), xfrm.auth()])),
    SA(*V4, 0x78, proto=xfrm.COMP, mode=xfrm.TUNNEL, attrs=dict([xfrm.comp()])))


@contextlib.contextmanager
def failing():
    """Makes fail-nth reach the allocations that may sleep."""
    nsim.mount_debugfs()
    if not os.path.isdir(FAILSLAB) or not os.path.exists(NTH):
        raise ktap.Skip("no FAILSLAB")
    before = {}
    for name in ("ignore-gfp-wait", "verbose"):
        with open(FAILSLAB + name) as f:
            before[name] = f.read()
    try:
        for name in before:
            with open(FAILSLAB + name, "w") as f:
                f.write("0")
        yield
    finally:
        for name, value in before.items():
            with open(FAILSLAB + name, "w") as f:
                f.write(value)


LOST = netlink.Reply(0, None, None)


def failed_send(nl, kind, body, flags, nth):
    """The Reply with the nth allocation failing; None if there are fewer.

    A request that does not get to the handler, or an answer that is lost, is
    not the handler's: that counts as a success.
    """
    message = nl.message(kind, body, netlink.ACK | flags).pack()
    with open(NTH, "r+b", buffering=0) as f:
        try:
            f.write(b"%d" % nth)
            nl.socket.sendto(message, (0, 0))
        except OSError:
            return LOST
        finally:
            left = int(os.pread(f.fileno(), 20, 0))
            os.pwrite(f.fileno(), b"0", 0)
    try:
        reply = netlink.parse_ack(nl.receive()[-1])
    except OSError:             # ENOBUFS: no memory for the answer
        return LOST
    return None if left else reply


def failed_sends(nl, kind, body, flags=0):
    """Yields the number and the Reply of each failure there is."""
    for nth in range(1, 1000):
        reply = failed_send(nl, kind, body, flags, nth)
        if reply is None:
            break
        yield nth, reply
    true(nth > 5, f"only {nth} allocations")


def each_failure(sa, judge):
    """Calls judge(reply, what) for each failure; the SA must be there once."""
    dst = "192.0.2.8"
    with failing(), Netns() as ns:
        ns.xfrm.new(sa)
        hear = ns.listen(xfrm.GROUP_MIGRATE)
        equal(ns.xfrm.migrate(migrate(sa)).errno, 0, "answer without a failure")
        before = [s for s in ns.xfrm.all() if s["spi"] == sa.spi]
        with ns.inside(), xfrm.Xfrm() as sender:
            for nth, reply in failed_sends(sender, xfrm.MIGRATE_STATE, migrate(sa, dst=dst).pack()):
                judge(reply, f"failure {nth} for {sa}")
                hear.pending()
                after = [s for s in ns.xfrm.all() if s["spi"] == sa.spi]
                equal(len(after), 1, f"SAs after failure {nth}")
                if after[0]["daddr"] == xfrm.addr(dst):
                    back = sa.but(dst=dst)
                    equal(ns.xfrm.migrate(migrate(back, dst=sa.dst)).errno, 0, "way back")
                else:
                    equal(after, before, f"the SA after failure {nth}")
        ns.xfrm.flush()
        ktap.wait(lambda: ns.xfrm.count() == 0, "nothing is left")


def one_sa_remains():
    """Either the old one as it was, or the new one."""
    for sa in KINDS:
        each_failure(sa, lambda reply, what: None)


@defect(21)
def errno_is_that_of_the_failure():
    def judge(reply, what):
        true(reply.errno in (0, errno.ENOMEM), f"{reply} for {what}")
    for sa in KINDS:
        # ah_init_state() turns ENOMEM into EINVAL itself, for NEWSA as well.
        if sa.proto != xfrm.AH:
            each_failure(sa, judge)


@only(RUST)
def packets_go_on():
    """After each failure, at either end; and after the success that follows."""
    for sa in FLOWS:
        with failing(), Hosts() as two:
            two.sa(sa, sa.family, *(flood.ESN if sa.flags & xfrm.FLAG_ESN else ()))
            two.encap_socket(4500)
            two.send(1)
            for host, moved in (two.a, two.out), (two.b, two.in_):
                before = host.xfrm.count()
                with host.inside(), xfrm.Xfrm() as sender:
                    for nth, _ in failed_sends(sender, xfrm.MIGRATE_STATE, migrate(moved).pack()):
                        equal(host.xfrm.count(), before, f"SAs after failure {nth} for {sa}")
                        two.send(1)
                equal(host.xfrm.migrate(migrate(moved)).verdict, (0, None), "answer at last")
                two.send(1)
    equal(handler.refcount(), 0, "reference count")


@only(RUST)
def hardware_keeps_one_entry():
    """It goes on with it. The in-tree handler does not get so far, for defect 1."""
    with failing(), Netns() as ns, nsim.Device(ns) as dev:
        ns.address(dev.name, f"{ENDS[0]}/24")
        ns.neighbours(dev.name, ENDS[1])
        sa = ns.xfrm.new(SA(*ENDS, 0x104).but({
            "SA_DIR": b"\2", "OFFLOAD_DEV": xfrm.offload(dev.ifindex)}))
        ns.xfrm.policy(xfrm.POLICY_OUT, hosts.selector(xfrm.AF_INET), sa, zero=True)
        udp = ns.udp(ENDS[0])
        with ns.inside(), xfrm.Xfrm() as sender:
            for nth, _ in failed_sends(sender, xfrm.MIGRATE_STATE, migrate(sa).pack()):
                udp.sendto(b"x", (ENDS[1], hosts.PORT))
                ktap.wait(lambda: dev.state() == (1, nth), f"a packet after failure {nth}")
                equal(ns.xfrm.count(), 1, f"SAs after failure {nth}")
        equal(ns.xfrm.migrate(migrate(sa)).verdict, (0, None), "answer at last")
        ns.xfrm.delete(sa)
        equal((dev.held(), ns.xfrm.count()), (0, 0), "entries, SAs after deletion")


if __name__ == "__main__":
    ktap.main([one_sa_remains, errno_is_that_of_the_failure, packets_go_on,
               hardware_keeps_one_entry])

# SPDX-License-Identifier: GPL-2.0
"""How long others wait, while a user in namespaces of their own does something, with the module
and without it."""

import contextlib
import math
import struct
import time

from lib import handler, ktap, xfrm
from lib.child import USER, in_child
from lib.netlink import CREATE, EXCL, attrs
from lib.netns import IFLA_IFNAME, RTM_NEWLINK, Netns
from lib.watch import Watch
from lib.xfrm import SA

IFLA_MTU = 4
# Less than this may be the host's doing, in seconds.
FLOOR = 0.4 if handler.DEBUG else 0.15
TRIES = 3


def rtnl():
    """Takes RTNL, in the namespace that it is called in."""
    ns = Netns()
    ns.dummy("probe")

    def probe(n):
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
        ns.rtnl.request(RTM_NEWLINK, body + attrs([(IFLA_IFNAME, b"probe\0"),
                                                   (IFLA_MTU, struct.pack("=I", 1400 + n % 2))]))
    return probe


def states():
    """Takes xfrm_cfg_mutex and xfrm_state_lock of a namespace."""
    ns = Netns()
    sa = SA("192.0.2.1", "192.0.2.2", 0x100)

    def probe(_n):
        ns.xfrm.request(xfrm.NEWSA, sa.pack(), CREATE | EXCL)
        ns.xfrm.delete(sa)
    return probe


def end():
    """Lets a namespace end, with an SA in it."""
    ns = Netns()

    def probe(_n):
        with Netns() as other:
            ns.veth("probe", other, "probe")
            other.xfrm.new(SA("192.0.2.1", "192.0.2.2", 0x100))
        while "probe" in ns.links():
            time.sleep(0.001)
    return probe


def compared(act, *probes, factor=2, floor=FLOOR, own=None, user=USER):
    """Lets a user do something, without the module and with it, while probes measure. `act` returns
    {what: seconds} of its own. Fails if others wait longer with the module, or that takes longer,
    by this factor and so many seconds (`own` for what `act` returns), in the best of some attempts:
    what the host does in between counts, too."""
    if not handler.KO:
        raise ktap.Skip("XFRM_NEXT_KO names no module")
    if handler.BRIEF:
        # For what the debug kernel says of it; its times are those of its checks.
        with handler.module():
            in_child(act, user)
        return
    best = {False: {}, True: {}}
    for attempt in range(TRIES):
        start = time.monotonic()
        for with_module in best:
            context = handler.module() if with_module else contextlib.nullcontext()
            with context, Watch(*probes) as watched:
                watched.begin()
                took = in_child(act, user)
                floors = dict.fromkeys(took, floor if own is None else own)
                took.update(watched.longest())
            for what, seconds in took.items():
                least = best[with_module].get(what, math.inf)
                best[with_module][what] = min(least, seconds)
        slow = {what: (without, best[True][what]) for what, without in best[False].items()
                if best[True][what] > factor * without + floors.get(what, floor)}
        print(f"# attempt {attempt + 1}: {time.monotonic() - start:.1f} s, slow: {slow}")
        if not slow:
            break
    for what, without in best[False].items():
        print(f"# {what}: {without:.3f} s without the module, {best[True][what]:.3f} s with it")
    ktap.equal(slow, {}, f"more than {factor} times as long with the module, after {attempt + 1}")


def timed(act, *args):
    """How long it takes, in seconds."""
    start = time.monotonic()
    act(*args)
    return time.monotonic() - start

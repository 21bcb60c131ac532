#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The same random requests to both handlers, from equal states.

tools/differ makes and sends them, and compares answers, SAs, notifications and
counters: whatever no row of docs/differences.md explains fails. Needs the
binary in PATH (make cli builds it).

XFRM_NEXT_FUZZ="SEED REQUESTS [CASE]" replaces the seed and the number; the
latter may be "all". With a case, only that one is sent and printed.
"""

import contextlib
import os
import shutil
import subprocess

from lib import handler, ktap, nsim
from lib.handler import DEBUG
from lib.netns import Netns

# The debug kernel is there for what KASAN sees, which needs no large numbers.
WORDS = os.environ.get("XFRM_NEXT_FUZZ", "1 100" if DEBUG else "1 1000").split()
ADDRESSES = [text % n for n in range(1, 10) for text in ("192.0.2.%d/32", "2001:db8::%d/128")]


def namespace(stack, name):
    """One that this handler serves: (file, index of a device that offloads)."""
    handler.use(name)
    ns = stack.enter_context(Netns())
    ns.address("lo", *ADDRESSES)
    device = stack.enter_context(nsim.Device(ns))
    return f"/proc/{os.getpid()}/fd/{ns.fd}", device.ifindex


def random_requests():
    if not shutil.which("differ"):
        raise ktap.Failed("differ is not in PATH: make cli")
    with contextlib.ExitStack() as stack:
        c, device = namespace(stack, handler.C)
        rust, same = namespace(stack, handler.RUST)
        ktap.equal(device, same, "index of the device")
        child = stack.enter_context(subprocess.Popen(
            ["differ", c, rust, str(device), *WORDS], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        for line in child.stdout:
            print("# " + line, end="", flush=True)
        ktap.equal(child.wait(), 0, "status of differ")


if __name__ == "__main__":
    ktap.main([random_requests], handlers=(handler.RUST,))

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The same random requests to both handlers, from equal states.

tools/differ makes and sends them, and compares answers, SAs, notifications and
counters: whatever no row of docs/differences.md explains fails. Needs the
binary in PATH (make cli builds it).

XFRM_NEXT_FUZZ="SEED REQUESTS [CASE | without ROW]" replaces the seed and the
number; the latter may be "all". With a case, only that one is sent and printed.
Without a row of the document, what it explains fails.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess

from lib import handler, ktap, nsim
from lib.handler import BRIEF, DEBUG
from lib.netns import Netns

# The debug kernel is there for what KASAN sees, which needs no large numbers.
WORDS = os.environ.get("XFRM_NEXT_FUZZ", "1 300" if DEBUG else "1 10000").split()
MODPROBE = pathlib.Path("/proc/sys/kernel/modprobe")
ADDRESSES = [text % n for n in range(1, 10) for text in ("192.0.2.%d/32", "2001:db8::%d/128")]


def namespace(stack, name):
    """One that this handler serves: (file, index of a device that offloads)."""
    handler.use(name)
    ns = stack.enter_context(Netns())
    ns.address("lo", *ADDRESSES)
    device = stack.enter_context(nsim.Device(ns))
    return f"/proc/{os.getpid()}/fd/{ns.fd}", device.ifindex


@contextlib.contextmanager
def nothing_is_loaded():
    """No program is run, a second each time, for modules that don't exist."""
    before = MODPROBE.read_text()
    MODPROBE.write_text("\n")
    try:
        yield
    finally:
        MODPROBE.write_text(before)


def differ(*words):
    """Runs differ between two namespaces: (exit status, what it has printed)."""
    if not shutil.which("differ"):
        raise ktap.Failed("differ is not in PATH: make cli")
    with contextlib.ExitStack() as stack:
        c, device = namespace(stack, handler.C)
        rust, same = namespace(stack, handler.RUST)
        ktap.equal(device, same, "index of the device")
        stack.enter_context(nothing_is_loaded())
        child = stack.enter_context(subprocess.Popen(
            ["differ", c, rust, str(device), *words], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        lines = []
        for line in child.stdout:
            print("# " + line, end="", flush=True)
            lines.append(line)
        return child.wait(), "".join(lines)


def random_requests():
    status, _ = differ(*WORDS)
    ktap.equal(status, 0, "status of differ")


def what_no_row_explains_fails():
    """The marks and devices in notifications, told as if both had to tell the same."""
    status, text = differ("1", "100", "without", "13")
    ktap.equal(status, 1, "status of differ")
    for command in ("ip xfrm state add", "xfrm-next state migrate"):
        ktap.true(command in text, f"{command} is printed")


if __name__ == "__main__":
    tests = [random_requests]
    # Somebody who sends others wants to see what comes of these. Of the module this says nothing.
    if "XFRM_NEXT_FUZZ" not in os.environ and not BRIEF:
        tests.append(what_no_row_explains_fails)
    ktap.main(tests, handlers=(handler.RUST,))

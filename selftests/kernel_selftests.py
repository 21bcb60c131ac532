#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The kernel's own selftests of IPsec: they pass, with the module as without.

They come as they are from the source of the running kernel. SOAK=1 in the environment:
those as well that take long, as that of bonds does in a debug kernel, which runs no other.
"""

import os
import re
import subprocess
import time
from pathlib import Path

from lib import handler, ktap
from lib.handler import DEBUG, SOAK
from lib.ktap import equal, true

SOURCE = Path("/lib/modules", os.uname().release, "build/source/tools/testing/selftests")
# The kernel's net/ipsec.c, which scripts/tally.sh compiles.
IPSEC = handler.PROGRAMS / "ipsec"
VERDICT = re.compile(r"\b(PASS|OK|not ok|ok|FAIL|XFAIL|SKIP)\b")
GOOD = {"PASS", "OK", "ok"}
SKIPPED = 4
PATIENCE = 1800 if SOAK else 300


def verdicts(output):
    """The lines that give one, without what differs from run to run.

    Those of parallel tests come in any order, with a number that says so.
    """
    lines = [" ".join(line.split()) for line in output.splitlines()]
    return sorted(re.sub(r"^((not )?ok) \d+", r"\1", line) for line in lines
                  if VERDICT.search(line) and not line.startswith("#"))


def run(*command):
    """Its verdicts, all of them good."""
    # The scripts leave simulated devices behind if they haven't loaded this themselves.
    subprocess.run(["modprobe", "-qr", "netdevsim"], check=False)
    start = time.monotonic()
    result = subprocess.run(command, cwd=SOURCE / "net", stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            errors="replace", timeout=PATIENCE, check=False)
    print(f"# {time.monotonic() - start:.0f} s", flush=True)
    found = verdicts(result.stdout)
    if result.returncode == SKIPPED:
        raise ktap.Skip("; ".join(line for line in found if "SKIP" in line) or "no reason given")
    true(result.returncode == 0 and found
         and GOOD.issuperset(VERDICT.search(line)[0] for line in found),
         f"{' '.join(map(str, command))}: status {result.returncode}\n{result.stdout}")
    return found


def same(*command):
    """Without the module, then with it."""
    if handler.loaded():
        raise ktap.Skip("the module is already loaded")
    for part in command:
        if isinstance(part, Path) and not part.exists():
            raise ktap.Skip(f"no {part}")
    without = run(*command)
    with handler.module():
        handler.use(handler.RUST)
        equal(run(*command), without, "results with the module")


def rtnetlink():
    same(SOURCE / "net/rtnetlink.sh", "-t", "kci_test_ipsec kci_test_ipsec_offload")


def bond_ipsec_offload():
    """It does not mind what netdevsim says of SAs left behind; ktap does."""
    same(SOURCE / "drivers/net/bonding/bond_ipsec_offload.sh")


def xfrm_state():
    same(SOURCE / "net/xfrm_state.sh")


def vrf_xfrm():
    same(SOURCE / "net/vrf-xfrm-tests.sh")


def xfrm_policy():
    same(SOURCE / "net/xfrm_policy.sh")


def ipsec():
    """Every algorithm; 8 processes share them, and would break each other's lines."""
    same("stdbuf", "-oL", IPSEC, "8")


QUICK = [bond_ipsec_offload, rtnetlink]
LONG = [xfrm_state, vrf_xfrm, xfrm_policy, ipsec]
SLOW = [bond_ipsec_offload] * SOAK

if __name__ == "__main__":
    ktap.main(SLOW if DEBUG else QUICK + LONG * SOAK, handlers=(handler.NEITHER,), load=False)

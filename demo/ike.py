#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A laptop changes networks, and comes back, with strongSwan at both ends of its tunnel.

Runs as root in Debian's kernel, with the roots of lib/ike.py: `make demo-ike` does that.
"""

import contextlib
import io
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "selftests")]

from lib import handler, ktap, xfrm                                 # noqa: E402
from lib.hosts import V4, V4_MOVED                                  # noqa: E402
from lib.ike import BEST, MIGRATES, PLAIN, Traffic, address, prefers    # noqa: E402
from strongswan_moves import GCM, Tunnels, leaves                   # noqa: E402

HOME, AWAY, PEER = V4[0], V4_MOVED[0], V4[1]
# What the daemon says of its SAs and addresses.
TELLS = re.compile(r"(old path is not available.*|no route found.*|sending address list update.*"
                   r"|(?:migrating|updating|deleting|adding) SAD entry with SPI \w+.*)")


@dataclass
class Part:
    """One change of networks."""
    text: str
    log: list
    sent: list
    refused: list
    lost: list
    causes: list        # of the laptop and of the peer: {counter: packets}


def picture():
    print(f"""\
  laptop  10.1.0.1                                        10.2.0.1  peer
        +--------+  {HOME:<13}                          +--------+
        |        |-----------------------------------------|        |
        |        |  {AWAY:<13}{PEER:>25} |        |
        +--------+                                         +--------+

  strongSwan on both, a tunnel with AES-GCM, MOBIKE; a datagram each 20 ms both ways.
  1. The address {HOME} goes: the laptop has {AWAY} left.
  2. {HOME} is there again, and is preferred; the other one stays.
""", flush=True)


def change(tunnels, text, act):
    """What a change of networks costs, and what the daemon says of it."""
    ns, start = tunnels.sides, len(tunnels.daemons[0].log())
    before = [side.counters() for side in ns]
    with Traffic(tunnels.two) as there, Traffic(tunnels.two.back()) as back:
        ways = there, back
        for way in ways:
            way.flows("before")
        act()
        for way in ways:
            way.flows("after")
    causes = [{name: now - old[name] for name, now in side.counters().items() if now != old[name]}
              for side, old in zip(ns, before)]
    return Part(text, TELLS.findall(tunnels.daemons[0].log(start)), [w.sent for w in ways],
                [w.refused for w in ways], [w.sent - len(w.got) - w.refused for w in ways], causes)


def comes_home(tunnels):
    def act():
        address(tunnels.two.a, "add", HOME)
        prefers(tunnels.two.a, HOME)
    tunnels.move(act, list(V4))


def play(root, name):
    """Both changes, with the daemon of this root and this handler."""
    handler.use(name)
    # What tests tell beside their results.
    with contextlib.redirect_stdout(io.StringIO()), Tunnels((root, root), [GCM], more=BEST) as tunnels:
        tunnels.talk()
        parts = [change(tunnels, f"{HOME} goes", lambda: leaves(tunnels)),
                 change(tunnels, f"{HOME} is back", lambda: comes_home(tunnels))]
        return tunnels.daemons[0].version(), parts


def show(version, who, parts):
    print(f"=== strongSwan {version}, {who} ===\n")
    for part in parts:
        print(f"{part.text}. The laptop's daemon:")
        print("".join(f"    {line}\n" for line in part.log))
    sys.stdout.flush()


def table(rows):
    print("=== Side by side ===\n")
    print(f"  {'':<36}{'sent':>10}{'not sent':>10}{'lost':>8}   why, by the kernel's counters")
    for version, who, parts in rows:
        print(f"  strongSwan {version}, {who}")
        for part in parts:
            why = ["; ".join(f"{name} {n}" for name, n in of.items() if name.startswith("XfrmIn"))
                   for of in part.causes]
            why = ", ".join(f"{who}: {text}" for who, text in zip(("laptop", "peer"), why) if text)
            print(f"    {part.text:<34}{sum(part.sent):>10}{sum(part.refused):>10}"
                  f"{sum(part.lost):>8}   {why or '-'}")
    print("""
  Not sent: a host has no SA or policy, or nothing to send by, and the sender is told.
  Lost: what the peer sends to an address that is gone nobody counts. Where the old
  address is still up (2), XfrmInNoStates are packets that came there and found no SA: the
  module receives them (net.xfrm_next.migrate_grace). XfrmInNoPols: the daemon had deleted
  its policies for a moment.
""", flush=True)


def main():
    for root in PLAIN, MIGRATES:
        if not root:
            print("There are no root directories with strongSwan: scripts/stock and scripts/forky make them.")
            return 1
    xfrm.Xfrm().close()     # loads xfrm_user, which the module uses
    handler.insmod(handler.KO)
    print(f"\nLinux {platform.release()}\n")
    picture()
    rows = []
    for root, name, who in ((MIGRATES, handler.RUST, "xfrm_next.ko"),
                            (MIGRATES, handler.C, "the kernel's own handler"),
                            (PLAIN, handler.C, "which deletes and adds")):
        try:
            version, parts = play(root, name)
        except (ktap.Failed, ktap.Skip) as why:
            print(f"{who}: {why}")
            return 1
        show(version, who, parts)
        rows.append((version, who, parts))
    table(rows)
    handler.rmmod(handler.NAME)
    late = [sum(of.get("XfrmInNoStates", 0) for of in parts[1].causes[:1]) for *_, parts in rows]
    if late[0]:
        print(f"With the module {late[0]} packets to the old address found no SA.")
    return int(bool(late[0]))


if __name__ == "__main__":
    sys.exit(main())

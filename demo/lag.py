# SPDX-License-Identifier: GPL-2.0
"""The second act: an SA on both slaves of a bond, of which one fails."""

import contextlib
import socket
import subprocess
import time
from collections import Counter

from lib import bond, xfrm
from lib.bond import BOND, HERE, MARKER, PORT
from lib.xfrm import SA

PEER, MOVED = "192.0.2.10", "192.0.2.20"
SPI, REQID = 0x3001, 3
INTERVAL, COUNT = 0.01, 100
KEY = "0x" + "33" * 20
PICTURE = """\
                      +-- {0} ---- wire 1 ----+
  {here}  bond0 --|                       |--  {peer}, later {moved}
                      +-- {1} ---- wire 2 ----+

  The bond is in mode balance-xor, and hashes by layer3+4.
  The ports are netdevsim's: NICs that take over ESP with AES-GCM, but have no
  cipher. So what goes over a wire as plaintext within ESP is what a real NIC
  would have encrypted, and what is encrypted there is the work of software."""


class Act(contextlib.ExitStack):
    """The bond, and what its peers see on the wires."""

    def __init__(self):
        super().__init__()
        self.lag = self.enter_context(bond.Bonded(esp=False))
        self.a, self.ports = self.lag.a, self.lag.ports
        self.taps = [self.lag.tap(port) for port in self.ports]
        self.sent = 0
        self.frames = []        # (number of the wire, destination, plaintext?, sequence number)
        # The peer needs no SA: nobody listens there but the taps.
        for dst in (PEER, MOVED):
            self.lag.protect(SA(HERE, dst, SPI, reqid=REQID))

    def run(self, line):
        """Runs a command in the bond's namespace, shows it and what it says."""
        print(f"  # {line}", flush=True)
        with self.a.inside():
            done = subprocess.run(line.split(), check=True, text=True, capture_output=True)
        print("".join(f"    {text}\n" for text in done.stdout.splitlines()), end="", flush=True)

    def traffic(self, to, meanwhile=lambda: None):
        """A datagram each INTERVAL; `meanwhile` happens when half are sent."""
        first = len(self.frames)
        for n in range(COUNT):
            if n == COUNT // 2:
                meanwhile()
            with contextlib.suppress(OSError):
                self.lag.sender.sendto(MARKER, (to, PORT))
            self.sent += 1
            time.sleep(INTERVAL)
        # All have come when the last one has, or no more do.
        news = time.monotonic()
        while len(self.frames) - first < COUNT and time.monotonic() < news + 1:
            time.sleep(INTERVAL)
            for wire, tap in enumerate(self.taps, 1):
                for frame in bond.frames(tap):
                    if frame[23] == xfrm.ESP:
                        news = time.monotonic()
                        self.frames.append((wire, socket.inet_ntoa(frame[30:34]), MARKER in frame,
                                            int.from_bytes(frame[38:42], "big")))
        seen = self.frames[first:]
        print(f"  {COUNT} datagrams sent; " + "; ".join(
            f"wire {wire}: {number} {'by hardware' if plain else 'BY SOFTWARE'}"
            for (wire, plain), number in sorted(Counter((f[0], f[2]) for f in seen).items()))
            + f"; sequence numbers {min(f[3] for f in seen)} to {max(f[3] for f in seen)}\n", flush=True)
        return seen


def play(title):
    """Plays it; whether all went as it should."""
    title("4. A bond: one SA, a handle in each slave")
    with Act() as act:
        first, second = act.ports
        print(PICTURE.format(first.name, second.name, here=HERE, peer=PEER, moved=MOVED))
        print(f"\nAn SA of {first.name} alone takes the first place there. ESP offload of the bond\n"
              "is off until somebody asks for it (as `ethtool -K bond0 esp-hw-offload on`):\n")
        state = "ip xfrm state add src {} dst {} proto esp spi {:#x} reqid {} mode transport" \
                " aead rfc4106(gcm(aes)) {} 128 offload dev {} dir out"
        act.run(state.format(HERE, "192.0.2.9", 0x9, 9, KEY, first.name))
        act.run(f"xfrm-next lag show dev {BOND}")
        act.lag.esp(True)
        act.run(state.format(HERE, PEER, SPI, REQID, KEY, BOND))
        act.run(f"xfrm-next lag show dev {BOND}")
        print()
        before = act.traffic(PEER)
        used = act.ports[before[0][0] - 1]

        title("5. The slave that sends fails")
        act.run(f"ip link set {used.name} down")
        over = act.traffic(PEER)
        act.run(f"ip link set {used.name} up")
        act.lag.links()
        print(f"Its cable is pulled while packets flow, and {used.name} loses its link:")
        pulled = act.traffic(PEER, lambda: act.lag.b.up(used.peer.name, False))
        act.lag.b.up(used.peer.name)
        act.lag.links()

        title("6. The SA is migrated, on both slaves")
        act.run(f"xfrm-next state migrate dst {PEER} proto esp spi {SPI:#x} new-dst {MOVED}"
                f" new-src {HERE} new-reqid {REQID}")
        act.run(f"xfrm-next lag show dev {BOND}")
        held = act.lag.held()
        print()
        after = act.traffic(MOVED)

        numbers = [frame[3] for frame in act.frames]
        lost = act.sent - len(act.frames)
        print(f"  {act.sent} sent, {lost} lost, all of them while the cable was pulled; "
              f"{len(numbers) - len(set(numbers))} sequence numbers used twice; "
              f"{sum(not frame[2] for frame in act.frames)} packets encrypted by software.")
        return (all(frame[2] for frame in act.frames)
                and len(set(numbers)) == len(numbers)
                and {frame[0] for frame in over} != {frame[0] for frame in before}
                and len({frame[0] for frame in pulled}) == 2
                and lost == COUNT - len(pulled) < COUNT // 2
                and sorted(held) == [1, 2]
                and len(after) == COUNT and {frame[1] for frame in after} == {MOVED}
                and min(f[3] for f in after) > max(f[3] for f in act.frames[:-len(after)]))

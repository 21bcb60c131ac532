#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""An IKE daemon moves SAs that a device encrypts: strongSwan with `hw_offload = crypto`.

By netdevsim, which keeps SAs as a NIC does, but doesn't encrypt: IKE passes, ESP doesn't.
"""

import subprocess

from lib import ktap, nsim
from lib.hosts import Hosts
from lib.ike import MIGRATES, Child
from lib.ktap import defect, equal
from strongswan_moves import Tunnels, esp, leaves, returns

OFFLOADED = Child(esp="aes128gcm16", more="hw_offload = crypto", start=True)


class Cards(Hosts):
    """A and B with a simulated card each, connected by a cable."""

    def connect(self):
        self.cards = [self.enter_context(nsim.Device(ns)) for ns in (self.a, self.b)]
        nsim.link(self.cards[0], self.a, self.cards[1], self.b)
        for ns, card in zip((self.a, self.b), self.cards):
            with ns.inside():
                subprocess.run(["ip", "link", "set", card.name, "name", "v"], check=True)

    def offloaded(self):
        """How many SAs have a device, and how many each card has."""
        return ([sum("OFFLOAD_DEV" in sa for sa in esp(ns)) for ns in (self.a, self.b)],
                [card.held() for card in self.cards])


@defect(1)
def offload_is_kept():
    """There and back, by migration; the daemon falls back to deleting and adding otherwise."""
    with Tunnels((MIGRATES, MIGRATES), [OFFLOADED], hosts=Cards) as t:
        equal(t.two.offloaded(), ([2, 2], [2, 2]), "SAs with a device, and in each")
        for move in leaves, returns:
            move(t)
            equal(t.two.offloaded(), ([2, 2], [2, 2]), f"the same when A {move.__name__}")


if __name__ == "__main__":
    ktap.main([offload_is_kept])

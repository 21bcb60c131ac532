#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What the kernel gets wrong beside its handler, and the module leaves alone."""

from lib import hosts, ktap, xfrm
from lib.handler import C
from lib.hosts import V4, Hosts
from lib.ktap import defect, equal
from lib.xfrm import SA


def first_packet_is_received_once(flags):
    """With a window whose size does not divide 2^32."""
    with Hosts() as two:
        two.sa(SA(*V4, 0x1000, mode=xfrm.TUNNEL, flags=flags),
               more_out={"REPLAY_ESN_VAL": xfrm.esn(0, 0)},
               more_in={"REPLAY_ESN_VAL": xfrm.esn(96, 3)})
        heard, again = two.tap(two.b), two.tap(two.a)
        two.send(1)
        first, = hosts.frames(heard)
        again.send(first)

        def seen():
            sa = two.dumps()[1]
            return (sa["cur.packets"], sa["stats.replay"])
        ktap.wait(lambda: sum(seen()) == 2, "the replayed packet is judged")
        equal(seen(), (1, 1), "packets received, replays refused")


@defect(23)
def first_packet_of_a_bitmap_window():
    first_packet_is_received_once(0)


@defect(23)
def first_packet_of_an_extended_window():
    first_packet_is_received_once(xfrm.FLAG_ESN)


if __name__ == "__main__":
    ktap.main([first_packet_of_a_bitmap_window, first_packet_of_an_extended_window],
              handlers=(C,))

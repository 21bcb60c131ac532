#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The moment in which the new SA takes the old one's place, under flood."""

from lib import flood, ktap
from lib.flood import DEBUG, Flood
from lib.handler import RUST
from lib.ktap import defect, equal, only, true

# A debug kernel is too slow to show what the C gets wrong; there it is about
# what it says of ours.
MOVES = 500 if DEBUG else 10000
both = only(RUST) if DEBUG else (lambda test: test)


def note(what, cost):
    print(f"# {what}: {cost.moves} moves, {cost.lost} of {cost.sent + cost.refused} packets lost, "
          f"{cost.accepted} of {cost.replayed} replays accepted, {cost.acquires} acquires, "
          f"{cost.larval} larval SAs {cost.counters or ''}")
    return cost


def moved(side, how=flood.migrate, moves=MOVES):
    with Flood() as two:
        return note(f"{side}, {how.__name__}", two.run(side, how, moves))


@both
@defect(3)
def nothing_is_received_twice():
    cost = moved("in", moves=min(MOVES, 3000))
    equal((cost.repeated, cost.accepted), (0, 0), "datagrams and replays received twice")


@both
@defect(4)
def input_always_finds_an_sa():
    cost = moved("in")
    equal((cost.lost, cost.counters), (0, {}), "packets lost, counters")


@both
@defect(4)
def output_always_finds_an_sa():
    cost = moved("out")
    equal((cost.acquires, cost.larval), (0, 0), "acquires, larval SAs")
    if DEBUG:
        # A sender may be preempted there for longer than an SA is retired.
        true(cost.lost * 100 <= cost.sent, "more than 1 % of the packets lost")
    else:
        equal((cost.lost, cost.counters), (0, {}), "packets lost, counters")
    equal(cost.accepted, 0, "replays accepted")


@only(RUST)
def deleting_and_adding_is_worse():
    for side in ("in", "out"):
        cost = moved(side, flood.replace, MOVES // 10)
        true(cost.lost, "a replacement loses packets")


if __name__ == "__main__":
    ktap.main([nothing_is_received_twice, input_always_finds_an_sa, output_always_finds_an_sa,
               deleting_and_adding_is_worse])

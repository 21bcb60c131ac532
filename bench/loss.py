#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""How many packets are lost while SAs are moved, in each of four ways.

    scripts/vm -- bench/loss.py MOVES

Two hosts flood each other while one CPU of two moves both SAs of one of them;
then all that went over the wire is sent again (selftests/lib/flood.py).
"""

import contextlib
import json
import sys

import measure
from lib import flood, handler
from lib.flood import Flood

WAYS = (("ours", handler.RUST, flood.migrate), ("C handler", handler.C, flood.migrate),
        ("XFRM_MSG_MIGRATE", handler.C, flood.migrate_policy),
        ("delete and add", handler.C, flood.replace))


def main():
    moves = int(sys.argv[1])
    for name, who, how in WAYS:
        with Flood() as two, handler.module() if who == handler.RUST else contextlib.nullcontext():
            cost = two.run(how, moves)
        print(json.dumps({"bench": "loss", "who": name, "moves": moves, "lost": cost.lost,
                          "sent": sum(way.sent + way.refused for way in cost.ways),
                          "again": cost.again, "reused": sum(w.reused[0] for w in cost.ways)}),
              flush=True)


if __name__ == "__main__":
    main()

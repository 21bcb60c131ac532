# SPDX-License-Identifier: GPL-2.0
"""A queue of netfilter's, in which packets wait for a verdict."""

import struct

from lib import ktap
from lib.netlink import Netlink, attr, attrs, parse_attrs

NETLINK_NETFILTER, SUBSYS_QUEUE = 12, 3
PACKET, VERDICT, CONFIG, VERDICT_BATCH = range(4)
CFG_CMD, CFG_PARAMS, CFG_QUEUE_MAXLEN = 1, 2, 3
PACKET_HDR, VERDICT_HDR = 1, 2
BIND, COPY_META, ACCEPT = 1, 1, 1


class Queue(Netlink):
    """The queue of this number, in the network namespace that it was made in."""

    def __init__(self, number, room):
        super().__init__(NETLINK_NETFILTER)
        self.number = number
        self.waiting = []       # the identifiers of packets
        self._must(CONFIG, attr(CFG_CMD, struct.pack(">BxH", BIND, 0)))
        self._must(CONFIG, attrs([(CFG_PARAMS, struct.pack(">IB", 0, COPY_META)),
                                  (CFG_QUEUE_MAXLEN, struct.pack(">I", room))]))

    def _must(self, kind, add):
        reply = self.request(SUBSYS_QUEUE << 8 | kind, struct.pack(">BBH", 0, 0, self.number) + add)
        ktap.equal(reply.errno, 0, f"errno of the queue's message {kind}")

    def count(self):
        """How many packets have come in since the last verdict."""
        for m in self.pending():
            ktap.equal(m.kind, SUBSYS_QUEUE << 8 | PACKET, "message of the queue")
            self.waiting += struct.unpack_from(">I", dict(parse_attrs(m.body[4:]))[PACKET_HDR])
        return len(self.waiting)

    def accept_all(self):
        """Lets those go that have been counted, by one verdict."""
        self._must(VERDICT_BATCH, attr(VERDICT_HDR, struct.pack(">II", ACCEPT, self.waiting[-1])))
        self.waiting = []

# SPDX-License-Identifier: GPL-2.0
"""What the kernel says meanwhile."""

import os
import re

# What the debug options, the allocator and the network stack print when
# something is wrong. Messages of the tests' own doing are not among them.
SPLAT = re.compile(r"BUG:|WARNING:|KASAN|UBSAN|KCSAN|Oops|general protection"
                   r"|INFO: (task|possible|trying|rcu)|suspicious RCU|refcount_t"
                   r"|unregister_netdevice: waiting|SAs left|Invalid SA for delete|upper half of the ESN"
                   r"|ODEBUG|unreferenced object|scheduling while atomic")


class Reader:
    """The log from now on."""

    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def lines(self):
        while True:
            try:
                record = os.read(self.fd, 8192)
            except BlockingIOError:
                return
            except BrokenPipeError:     # overwritten before we read it
                continue
            yield record.decode(errors="replace").split(";", 1)[1].split("\n")[0]

    def splats(self):
        """The bad lines, each with some that follow; closes the reader."""
        lines = list(self.lines())
        os.close(self.fd)
        bad = [n for n, line in enumerate(lines) if SPLAT.search(line)]
        return lines[bad[0]:bad[0] + 40] if bad else []

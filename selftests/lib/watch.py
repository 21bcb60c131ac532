# SPDX-License-Identifier: GPL-2.0
"""How long a CPU ran nothing but what nobody can interrupt."""

import mmap
import os
import signal
import struct
import time

from lib import handler
from lib.netns import check

# It takes time, too.
STEP = 0.02 if handler.DEBUG else 0.005
PRIORITY = 2
PR_SET_PDEATHSIG = 1


class Watch:
    """A process on each CPU that comes before all others, and notes how late it is."""

    def __init__(self):
        self.cpus = sorted(os.sched_getaffinity(0))
        # Shared with them, and with whoever is forked from here.
        self.worst = mmap.mmap(-1, 8 * len(self.cpus))

    def __enter__(self):
        self.children = []
        for place, cpu in enumerate(self.cpus):
            child = os.fork()
            if not child:
                try:
                    self._watch(place, cpu)
                finally:
                    os._exit(1)
            self.children.append(child)
        return self

    def __exit__(self, *_):
        for child in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _watch(self, place, cpu):
        check(handler.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        os.sched_setaffinity(0, {cpu})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        last = time.monotonic()
        while True:
            time.sleep(STEP)
            now = time.monotonic()
            worst, = struct.unpack_from("d", self.worst, 8 * place)
            struct.pack_into("d", self.worst, 8 * place, max(worst, now - last - STEP))
            last = now

    def begin(self):
        """Forgets what was so far."""
        self.worst[:] = bytes(len(self.worst))

    def longest(self):
        """The longest that one of them has waited since, in seconds."""
        time.sleep(2 * STEP)    # who is late still comes now
        return max(struct.unpack(f"{len(self.cpus)}d", self.worst[:]))

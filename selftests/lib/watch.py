# SPDX-License-Identifier: GPL-2.0
"""How long others have to wait meanwhile."""

import contextlib
import mmap
import os
import signal
import struct
import time

from lib import handler, ktap
from lib.netns import check

# How often a CPU is looked after, which takes time, too; and how long probes pause.
STEP = 0.02 if handler.DEBUG else 0.005
PAUSE = 0.02
PRIORITY = 2
PR_SET_PDEATHSIG = 1
CPU = "a CPU"


def _ahead_of_all_on(cpu):
    """Sleeps; what that takes longer, the CPU ran nothing but what nobody can interrupt."""
    def prepare():
        os.sched_setaffinity(0, {cpu})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        return sleep

    def sleep(_n):
        time.sleep(STEP)
        return STEP
    prepare.__name__ = CPU
    return prepare


class Watch(contextlib.ExitStack):
    """Processes of root's that do something again and again, and note what it takes at most: one
    on each CPU that comes before all others, and one for each of these probes. Such a function
    returns what is to be done, whose argument counts."""

    def __init__(self, *probes):
        super().__init__()
        self.probes = *map(_ahead_of_all_on, sorted(os.sched_getaffinity(0))), *probes
        # The longest, and since when they are at it. Shared with whoever is forked from here.
        self.times = mmap.mmap(-1, 16 * len(self.probes))

    def __enter__(self):
        for place, probe in zip(self._places(), self.probes):
            child = os.fork()
            if not child:
                try:
                    self._repeat(place, probe)
                finally:
                    os._exit(1)
            self.callback(os.waitpid, child, 0)
            self.callback(os.kill, child, signal.SIGKILL)
        ktap.wait(lambda: all(since for _, since in self._read()), "probes")
        return self

    def _places(self):
        return range(0, len(self.times), 16)

    def _read(self):
        return [struct.unpack_from("dd", self.times, place) for place in self._places()]

    def _repeat(self, place, probe):
        check(handler.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        act, n = probe(), 0
        while True:
            start = time.monotonic()
            struct.pack_into("d", self.times, place + 8, start)
            # What it meant to take.
            own = act(n)
            worst, = struct.unpack_from("d", self.times, place)
            took = time.monotonic() - start - (own or 0)
            struct.pack_into("d", self.times, place, max(worst, took))
            if not own:
                time.sleep(PAUSE)
            n += 1

    def begin(self):
        """Forgets what was so far."""
        for place in self._places():
            struct.pack_into("d", self.times, place, 0)

    def longest(self):
        """{what: the longest that one has waited since, in seconds}."""
        time.sleep(2 * STEP)    # who is late for a CPU still comes now
        waits = {}
        for probe, (worst, since) in zip(self.probes, self._read()):
            # Others may still wait.
            waits[probe.__name__] = max(worst, time.monotonic() - since - PAUSE - STEP,
                                        waits.get(probe.__name__, 0))
        return waits

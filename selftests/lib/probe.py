# SPDX-License-Identifier: GPL-2.0
"""What functions of the kernel are called with, by a probe on their entry."""

import ctypes
import os
from pathlib import Path

from lib import handler, ktap

TRACING = Path("/sys/kernel/tracing")
GROUP = "xfrm_next"


class Probe:
    """Records calls of a function; values are named expressions about its arguments,
    such as state="x->km.state:u8", which the kernel reads by its BTF."""

    def __init__(self, function, **values):
        if not (TRACING / "trace").exists():
            handler.libc.mount(b"tracefs", str(TRACING).encode(), b"tracefs", 0, ctypes.c_void_p())
        if not (TRACING / "kprobe_events").exists():
            raise ktap.Skip("no KPROBE_EVENTS")
        self.function, self.values = function, values
        # Of its own, so that it disturbs no other trace and none disturbs it.
        self.trace = TRACING / "instances" / f"{GROUP}_{function}"

    def __enter__(self):
        _change(f"p:{GROUP}/{self.function} {self.function} "
                + " ".join(f"{name}={value}" for name, value in self.values.items()))
        os.mkdir(self.trace)
        self._enable("1")
        return self

    def __exit__(self, *_):
        self._enable("0")
        os.rmdir(self.trace)
        _change(f"-:{GROUP}/{self.function}")

    def _enable(self, on):
        (self.trace / "events" / GROUP / self.function / "enable").write_text(on)

    def calls(self):
        """{name: value} of each call since the last look."""
        trace = self.trace / "trace"
        seen = [line for line in trace.read_text().splitlines() if f" {self.function}: " in line]
        trace.write_text("")
        return [{name: int(value, 0) for name, value in
                 (word.split("=") for word in line.split()[-len(self.values):])} for line in seen]


def _change(event):
    # open("w") would remove the events of others, and open("a") seek, which it doesn't.
    fd = os.open(TRACING / "kprobe_events", os.O_WRONLY)
    try:
        os.write(fd, event.encode())
    finally:
        os.close(fd)

# SPDX-License-Identifier: GPL-2.0
"""What functions of the kernel are called with, by a probe on their entry; and what memory the
module asks for."""

import ctypes
import os
import re
from pathlib import Path

from lib import handler, ktap

TRACING = Path("/sys/kernel/tracing")
GROUP = handler.NAME


class Probe:
    """Records calls of a function; values are named expressions about its arguments,
    such as state="x->km.state:u8", which the kernel reads by its BTF."""

    def __init__(self, function, **values):
        _mount()
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


class Allocations:
    """The memory that the module asks for meanwhile, itself, while it serves this process.
    `flags` are those of each, in the end."""

    def __enter__(self):
        _mount()
        self.trace = TRACING / "instances" / f"{GROUP}_kmalloc"
        self.event = self.trace / "events/kmem/kmalloc"
        os.mkdir(self.trace)
        (self.trace / "options/stacktrace").write_text("1")
        (self.event / "filter").write_text(f"common_pid == {os.getpid()}")
        (self.event / "enable").write_text("1")
        return self

    def __exit__(self, *_):
        (self.event / "enable").write_text("0")
        calls = re.split(r"^.*: kmalloc: ", (self.trace / "trace").read_text(), flags=re.M)[1:]
        os.rmdir(self.trace)
        self.flags = [re.search(r"gfp_flags=(\S+)", call)[1] for call in calls if _is_ours(call)]


def _is_ours(call):
    """Whether it is the module that asks the allocator."""
    # It may be the module's copy of a generic function that allocates.
    frames = (frame for frame in re.findall(r"^ => (\S+)", call, re.M)
              if "alloc" not in frame or handler.NAME in frame)
    return handler.NAME in next(frames, "")


def _mount():
    if not (TRACING / "trace").exists():
        handler.libc.mount(b"tracefs", str(TRACING).encode(), b"tracefs", 0, ctypes.c_void_p())


def _change(event):
    # open("w") would remove the events of others, and open("a") seek, which it doesn't.
    fd = os.open(TRACING / "kprobe_events", os.O_WRONLY)
    try:
        os.write(fd, event.encode())
    finally:
        os.close(fd)

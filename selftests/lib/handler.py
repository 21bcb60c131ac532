# SPDX-License-Identifier: GPL-2.0
"""The two implementations of XFRM_MSG_MIGRATE_STATE, and how to choose.

The module serves a network namespace unless its sysctl says 0; without the
module the kernel's own handler serves.
"""

import contextlib
import ctypes
import errno
import os
import pathlib

C, RUST = "c", "rust"
NEITHER = "module"      # tests that load the module and throw the switch themselves
# A debug kernel is slow, and there for what it says of ours.
DEBUG = os.path.exists("/sys/kernel/debug/kmemleak")
# Set by make soak, which has the time for all of it.
SOAK = bool(os.environ.get("SOAK"))
# Of what says the same of ours again and again, once is enough there.
BRIEF = DEBUG and not SOAK
# How many of patches/ the kernel has: set by scripts/series, else it has all.
PATCHES = int(os.environ.get("KERNEL_PATCHES") or 99)
# A kernel with patches/upstream, there for what it says of the other one.
FIXED = os.uname().release.endswith("-fixed")
BOTH = (RUST,) if DEBUG else (C,) if FIXED else (C, RUST)
# For what the kernel's own handler may not survive without its fixes.
MENDED = (C,) if FIXED else (RUST,)
NAME = "xfrm_next"
SWITCH = "/proc/sys/net/xfrm_next/migrate_state"
# Where what is compiled for the tests is.
PROGRAMS = pathlib.Path(os.environ.get("XFRM_NEXT_PROGRAMS") or pathlib.Path(__file__).parents[1])
KO = os.environ.get("XFRM_NEXT_KO")
SHARED = "XFRM_NEXT_SHARED"

SYS_DELETE_MODULE, SYS_FINIT_MODULE = {"x86_64": (176, 313), "aarch64": (106, 273)}[os.uname().machine]
libc = ctypes.CDLL(None, use_errno=True)
_current = C


def _syscall(*args):
    if libc.syscall(*args) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def insmod(path, parameters=b""):
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        finit(fd, parameters)
    finally:
        os.close(fd)


def finit(fd, parameters=b""):
    _syscall(SYS_FINIT_MODULE, fd, parameters, 0)


def rmmod(name):
    _syscall(SYS_DELETE_MODULE, name.encode(), os.O_NONBLOCK)


def loaded():
    return os.path.isdir(f"/sys/module/{NAME}")


def refcount():
    with open(f"/sys/module/{NAME}/refcnt") as f:
        return int(f.read())


def switch(value=None):
    """Reads the sysctl of the network namespace we are in, or writes it."""
    if value is None:
        with open(SWITCH) as f:
            return f.read().strip()
    with open(SWITCH, "w") as f:
        f.write(f"{value}\n")


def load():
    """Loads the module, if we know it and it isn't; whether that was needed."""
    if not KO or not os.path.exists(KO) or loaded():
        return False
    try:
        insmod(KO)
    except OSError as why:
        if why.errno != errno.EEXIST:
            raise
    return True


@contextlib.contextmanager
def module():
    """The module loaded, if we know it, and afterwards as it was."""
    ours = load()
    try:
        yield
    finally:
        if ours and loaded():
            rmmod(NAME)


@contextlib.contextmanager
def shared():
    """While many programs run: each leaves the module to the next, if nobody had loaded it."""
    if loaded():
        yield
        return
    os.environ[SHARED] = "1"
    try:
        yield
    finally:
        if loaded():
            rmmod(NAME)


@contextlib.contextmanager
def wanted(needed):
    """The module while a program runs that needs it, or has it to itself."""
    if SHARED in os.environ:
        if needed:
            load()
        elif loaded():
            rmmod(NAME)
        yield
    else:
        with module() if needed else contextlib.nullcontext():
            yield


def use(name):
    """Chooses the handler for the namespaces made from now on."""
    from lib.ktap import Skip
    global _current
    if name == RUST and not loaded():
        raise Skip("XFRM_NEXT_KO names no module")
    _current = name


def chosen():
    """The handler for the namespaces made from now on."""
    return _current


def mended():
    """Whether the chosen handler has no known defects."""
    return _current in MENDED


def apply():
    """Sets the chosen handler in the network namespace we are in."""
    if loaded() and _current in (C, RUST):
        switch(int(_current == RUST))

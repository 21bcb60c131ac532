# SPDX-License-Identifier: GPL-2.0
"""Processes that may become another user, in namespaces of their own."""

import os
import pickle
import resource
import sys
import traceback
from pathlib import Path

from lib import handler, ktap
from lib.netns import CLONE_NEWNET, CLONE_NEWUSER, check

USER = 1000
PR_SET_DUMPABLE = 4


def become(user):
    """Goes on as this user, who is root of a new user namespace and a new network namespace."""
    # It may keep a CPU to itself for a moment.
    resource.setrlimit(resource.RLIMIT_RTPRIO, (1, 1))
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    # Else what is below /proc/self would be root's.
    check(handler.libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))
    check(handler.libc.unshare(CLONE_NEWUSER | CLONE_NEWNET))
    Path("/proc/self/setgroups").write_text("deny")
    for ids in "gid_map", "uid_map":
        Path("/proc/self", ids).write_text(f"0 {user} 1")


def in_child(function, user=None):
    """What the function returns or raises in a process of its own, as this user if there is one."""
    sys.stdout.flush()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            if user is not None:
                become(user)
            result = function()
        except ktap.Skip as why:
            result = why
        except BaseException:
            result = ktap.Failed(traceback.format_exc())
        sys.stdout.flush()
        with os.fdopen(write, "wb") as f:
            pickle.dump(result, f)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as f:
        result = pickle.load(f)
    os.waitpid(child, 0)
    if isinstance(result, Exception):
        raise result
    return result

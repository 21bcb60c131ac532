# SPDX-License-Identifier: GPL-2.0
"""Runs test functions, each against every handler, and reports in KTAP."""

import errno
import os
import sys
import time
import traceback
from pathlib import Path

from lib import handler, kmsg, xfrm

PASS, FAIL, SKIP = 0, 1, 4
FINDINGS = Path(__file__).resolve().parents[2] / "docs/upstream-findings.md"


class Failed(AssertionError):
    """The kernel did not do what the test asks of it."""


class Late(Failed):
    """Something that a test prepares did not come about: that shows no defect."""


class Skip(Exception):
    """The kernel lacks what the test needs."""


def equal(got, want, what):
    if got != want:
        raise Failed(f"{what}\n  got  {got!r}\n  want {want!r}")


def true(condition, what):
    if not condition:
        raise Failed(what)


def wait(condition, what, seconds=60, failure=Late):
    """Polls until condition() holds, and returns its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise failure(f"still waiting after {seconds} s: {what}")
        time.sleep(0.01)
    return value


def defect(number):
    """Marks a test that the in-tree handler fails, for this known defect."""
    def mark(test):
        test.defect = number
        return test
    return mark


def only(*handlers):
    """Restricts a test to some of the handlers."""
    def mark(test):
        test.handlers = handlers
        return test
    return mark


def _mended(number):
    """Whether this kernel has a fix for the defect: its finding names the patch."""
    if not handler.FIXED:
        return False
    sections = FINDINGS.read_text().split("\n### ")
    return any(s.startswith(f"{number}. ") and "patches/upstream/" in s for s in sections)


def _judge(name, test):
    """Runs one test: (ok, directive, diagnostics)."""
    known = name == handler.C and getattr(test, "defect", None)
    if known and _mended(known):
        known = None
    log = kmsg.Reader()
    try:
        handler.use(name)
        test()
        splat = log.splats()
        if splat:
            raise Failed("the kernel complains:\n" + "\n".join(splat))
    except Skip as why:
        return True, f" # SKIP {why}", ""
    except Failed as why:
        if known and not isinstance(why, Late):
            return True, f" # XFAIL defect {known}", str(why)
        where = traceback.format_list(traceback.extract_tb(why.__traceback__)[1:-1])
        return False, "", str(why) + "\n" + "".join(where)
    except Exception:
        # A test that crashes is broken, whatever the handler.
        return False, "", traceback.format_exc()
    if known:
        return False, "", f"kernel mended defect {known}: move it"
    return True, "", ""


def _missing():
    """Why nothing can be tested here, or None. Asks the kernel's own handler."""
    try:
        with xfrm.Xfrm() as nl:
            reply = nl.migrate(xfrm.migrate(xfrm.SA("192.0.2.1", "192.0.2.2", 1)))
    except OSError as why:
        return f"no NETLINK_XFRM: {why.strerror}"
    if reply.errno == errno.ESRCH or handler.loaded():
        return None
    return f"no XFRM_MSG_MIGRATE_STATE: {os.strerror(reply.errno)}"


def main(tests, handlers=handler.BOTH, load=True):
    """Runs the tests named on the command line, else all; exits.

    The status is that of kselftest: 1 if one failed, else 4 if one was
    skipped, else 0.
    """
    cases = [(f"{name}.{test.__name__}", name, test)
             for name in handlers for test in tests
             if name in getattr(test, "handlers", handlers)]
    wanted = sys.argv[1:]
    if wanted:
        cases = [c for c in cases if any(w in c[0] for w in wanted)]
    print("KTAP version 1")
    if why := _missing():
        print(f"1..0 # SKIP {why}", flush=True)
        sys.exit(SKIP)
    print(f"1..{len(cases)}", flush=True)
    failed = skipped = 0
    with handler.wanted(load):
        for number, (title, name, test) in enumerate(cases, 1):
            start = time.monotonic()
            ok, directive, notes = _judge(name, test)
            for line in notes.splitlines():
                print("# " + line)
            print(f"# {time.monotonic() - start:.2f} s")
            print(f"{'ok' if ok else 'not ok'} {number} {title}{directive}",
                  flush=True)
            failed += not ok
            skipped += "SKIP" in directive
    print(f"# Totals: fail:{failed} skip:{skipped} of {len(cases)}", flush=True)
    sys.stdout.flush()
    os._exit(FAIL if failed else SKIP if skipped or not cases else PASS)

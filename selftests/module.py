#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Loading, switching, unloading: who serves, and that nothing is left over.

LOADS=N in the environment: how often the module comes and goes under load.
"""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
from pathlib import Path

from lib import handler, kmsg, ktap, nsim, xfrm
from lib.ktap import equal, true
from lib.netns import Netns
from lib.xfrm import SA, migrate

OUT = SA("192.0.2.1", "192.0.2.2", 0x100, reqid=7).but({"SA_DIR": bytes([xfrm.DIR_OUT])})
LOADS = int(os.environ.get("LOADS", 2))
# The in-tree handler accepts this (defect 11), ours does not.
TELLTALE = migrate(OUT, flags=xfrm.CLEAR_OFFLOAD, add=[("OFFLOAD_DEV", xfrm.offload(1))])


@contextlib.contextmanager
def loaded():
    if not handler.KO or not os.path.exists(handler.KO):
        raise ktap.Skip("XFRM_NEXT_KO names no module")
    if handler.loaded():
        raise ktap.Skip("the module is already loaded")
    handler.insmod(handler.KO)
    try:
        yield
        equal(handler.refcount(), 0, "reference count")
    finally:
        handler.rmmod(handler.NAME)


def server(ns):
    """Who answers in this namespace."""
    if not ns.xfrm.get(OUT):
        ns.xfrm.new(OUT)
    code = ns.xfrm.migrate(TELLTALE).errno
    return {0: handler.C, errno.EINVAL: handler.RUST}.get(code, code)


def switch(ns, value=None):
    with ns.inside():
        return handler.switch(value)


def serves_while_loaded():
    """Namespaces older than the module, and younger ones."""
    with Netns() as old:
        equal(server(old), handler.C, "handler before insmod")
        with loaded(), Netns() as new:
            for ns in old, new:
                equal((server(ns), switch(ns)), (handler.RUST, "1"), "handler, switch")
            equal(handler.switch(), "1", "switch of the first namespace")
        equal(server(old), handler.C, "handler after rmmod")
        with old.inside():
            true(not os.path.exists(handler.SWITCH), "the sysctl outlives the module")


def tells_what_the_kernel_lacks():
    log = kmsg.Reader()
    with loaded():
        has_lag = os.path.exists(nsim.DEBUG + "/xfrm_next/lag")
        told = sum("bonds are left alone" in line for line in log.lines())
        equal(told, int(not has_lag), "times that the log says it")


def unit_tests_pass():
    """Those in the module itself; scripts/vm doesn't let them run whenever it is loaded."""
    with loaded():
        suites = list(Path("/sys/kernel/debug/kunit").glob("xfrm_next*"))
        if not suites:
            raise ktap.Skip("no CONFIG_KUNIT, or no debugfs")
        for suite in suites:
            (suite / "run").write_text("now")
            results = (suite / "results").read_text()
            true("not ok" not in results and "\nok " in results, results)


def switch_is_per_namespace():
    with loaded(), Netns() as one, Netns() as two:
        switch(one, 0)
        equal((server(one), server(two)), (handler.C, handler.RUST), "handlers")
        equal((switch(one), switch(two), handler.switch()), ("0", "1", "1"), "switches")
        switch(one, 1)
        switch(two, 0)
        equal((server(one), server(two)), (handler.RUST, handler.C), "handlers")


def switch_refuses_other_values():
    with loaded(), Netns() as ns:
        for before in (0, 1):
            switch(ns, before)
            for bad in ("2", "-1", "256", "4294967296", "4294967297", "yes", "0x"):
                try:
                    switch(ns, bad)
                    raise ktap.Failed(f"accepted: {bad}")
                except OSError as why:
                    equal(why.errno, errno.EINVAL, f"errno for {bad}")
                equal(switch(ns), str(before), f"value after {bad}")


def switch_starts_over_with_the_module():
    with Netns() as ns:
        for _ in range(2):
            with loaded():
                equal(switch(ns), "1", "switch")
                switch(ns, 0)


def command_tells_who_serves():
    """xfrm-next probe, by asking."""
    if not shutil.which("xfrm-next"):
        raise ktap.Skip("no xfrm-next in PATH")

    def probe(ns):
        with ns.inside():
            return subprocess.run(["xfrm-next", "probe"], capture_output=True, text=True).stdout.split("\n")[0]
    with Netns() as ns:
        equal(probe(ns), "migrate-state: yes (kernel)", "without the module")
        with loaded():
            with open(f"/sys/module/{handler.NAME}/version") as f:
                title = f"module {handler.NAME} {f.read().strip()}"
            equal(probe(ns), f"migrate-state: yes ({title})", "with it")
            switch(ns, 0)
            equal(probe(ns), f"migrate-state: yes (kernel; {title} does not serve this namespace)", "switched off")


def second_insmod_is_refused():
    with loaded():
        try:
            handler.insmod(handler.KO)
            raise ktap.Failed("loaded twice")
        except OSError as why:
            equal(why.errno, errno.EEXIST, "errno")
        with Netns() as ns:
            equal(server(ns), handler.RUST, "handler")


def sas_outlive_the_module():
    """What it has built is an SA like any other."""
    with Netns() as ns:
        ns.xfrm.new(OUT)
        with loaded():
            equal(ns.xfrm.migrate(migrate(OUT, dst="192.0.2.8")).errno, 0, "answer of ours")
            moved = OUT.but(dst="192.0.2.8")
            before = ns.xfrm.get(moved)
        equal(ns.xfrm.get(moved), before, "SA after rmmod")
        equal(ns.xfrm.migrate(migrate(moved, dst=OUT.dst)).errno, 0, "answer of the kernel's")
        equal(ns.xfrm.delete(OUT).errno, 0, "deletion")
        equal(ns.xfrm.count(), 0, "SAs")


def open_files_do_not_hold_the_module():
    with Netns() as ns, contextlib.ExitStack() as stack:
        with loaded():
            with ns.inside():
                files = {name: stack.enter_context(open(name)) for name in (
                    handler.SWITCH, "/proc/thread-self/net/xfrm_next_stat",
                    "/proc/thread-self/net/xfrm_next_moved")}
            for f in files.values():
                f.read()
        for name, f in files.items():
            try:
                f.seek(0)
                raise ktap.Failed(f"{name}: reads {f.read()!r} after rmmod")
            except OSError as why:
                true(why.errno in (errno.ENOENT, errno.EINVAL, errno.EIO), f"{name} after rmmod: {why}")


def _client(ns):
    """Migrates until it is told to stop, and says what went wrong."""
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    sa, count = OUT, 0
    while not stop:
        dst = "192.0.2.8" if sa.dst == OUT.dst else OUT.dst
        reply = ns.xfrm.migrate(migrate(sa, dst=dst))
        if reply.errno:
            return f"request {count}: {reply}"
        sa, count = sa.but(dst=dst), count + 1
    return "" if count > 10 else f"only {count} requests"


def comes_and_goes_under_load():
    """Some times, while another process migrates without a pause."""
    with loaded():
        pass        # or Skip, before there is a child
    with Netns() as ns:
        ns.xfrm.new(OUT)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(write, _client(ns).encode())
            finally:
                os._exit(0)
        os.close(write)
        try:
            for _ in range(LOADS):
                with loaded(), Netns() as other:
                    equal(server(other), handler.RUST, "handler")
        finally:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
        with os.fdopen(read) as f:
            equal(f.read(), "", "what the client complains of")
        equal(ns.xfrm.count(), 1, "SAs")
        ns.xfrm.flush()
        equal(ns.xfrm.count(), 0, "SAs after a flush")


if __name__ == "__main__":
    ktap.main([
        serves_while_loaded, tells_what_the_kernel_lacks, unit_tests_pass,
        switch_is_per_namespace, switch_refuses_other_values,
        switch_starts_over_with_the_module, command_tells_who_serves, second_insmod_is_refused, sas_outlive_the_module,
        open_files_do_not_hold_the_module, comes_and_goes_under_load],
              handlers=(handler.NEITHER,), load=False)

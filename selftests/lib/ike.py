# SPDX-License-Identifier: GPL-2.0
"""strongSwan in the two hosts of lib/hosts.py, and datagrams through its tunnels.

In the environment XFRM_NEXT_ROOT names a root directory with one that knows nothing
of XFRM_MSG_MIGRATE_STATE (scripts/stock makes it), XFRM_NEXT_FORKY one with one that
uses it (scripts/forky).
"""

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading
from dataclasses import dataclass

from lib import ktap, spi, xfrm
from lib.hosts import V4, V4_MOVED, V6_MOVED, Hosts
from lib.ktap import true

PLAIN = os.environ.get("XFRM_NEXT_ROOT", "")
MIGRATES = os.environ.get("XFRM_NEXT_FORKY", "")
CHARON = "/usr/lib/ipsec/charon"
PATIENCE = 120          # seconds; an emulated machine is slow

DAEMON = """
charon {{
    load = random nonce openssl kdf socket-default kernel-netlink vici
    filelog {{
        log {{
            path = /run/log
            flush_line = yes
            knl = 2
        }}
    }}
    {more}
}}
"""

# Moves to another address though the one that it has is still there.
BEST = "prefer_best_path = yes"

CONNECTION = """
connections {{
    tunnel {{
        version = 2
        proposals = aes128gcm16-prfsha256-x25519
        local_addrs = {local}
        remote_addrs = {remote}
        rekey_time = 0
        {more}
        local {{
            auth = psk
            id = {me}.example
        }}
        remote {{
            auth = psk
            id = {peer}.example
        }}
        children {{
            {children}
        }}
    }}
}}
secrets {{
    ike {{
        secret = "not a secret"
    }}
}}
"""

CHILD = """
            {name} {{
                local_ts = {local}
                remote_ts = {remote}
                esp_proposals = {esp}
                rekey_time = 0
                {more}
            }}
"""


@dataclass(frozen=True)
class Child:
    """A CHILD_SA between the hosts' inner addresses of that number, or between the
    hosts themselves (0), for datagrams from PORT to PORT."""
    name: str = "tunnel"
    number: int = 1
    esp: str = "aes128gcm16-x25519"
    more: str = ""
    mark: int = 0           # of its datagrams
    if_id: int = 0          # of the device that leads to it
    start: bool = False     # A begins it at once

    PORT = 7778

    def end(self, side):
        return f"10.{side + 1}.0.{self.number}"

    def text(self, side):
        ends = [f"{self.end(s)}/32" if self.number else f"dynamic[17/{self.PORT}]"
                for s in (side, 1 - side)]
        more = self.more + f"\nif_id_in = {self.if_id}\nif_id_out = {self.if_id}" * bool(self.if_id)
        more += ("\nstart_action = start" if self.start and not side else "")
        return CHILD.format(name=self.name, local=ends[0], remote=ends[1], esp=self.esp, more=more)


    def sas(self):
        """How many a host has."""
        return 4 if "ipcomp" in self.more else 2


TUNNEL = Child()


class Daemon(contextlib.ExitStack):
    """One of the two. more is for its strongswan.conf, connection for its connection."""

    def __init__(self, ns, side, root, more="", connection="", children=(TUNNEL,)):
        super().__init__()
        self.ns, self.side, self.root = ns, side, root
        self.run = self.enter_context(tempfile.TemporaryDirectory())
        self._write("strongswan.conf", DAEMON.format(more=more))
        self._write("swanctl.conf", CONNECTION.format(
            local=V4[side], remote=V4[1 - side], me="ab"[side], peer="ba"[side],
            more=connection, children="".join(c.text(side) for c in children)))
        self.process = None
        self.start()

    def start(self):
        for left in "charon.vici", "charon.pid":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.run}/{left}")
        with self.ns.inside():
            self.process = subprocess.Popen(self._inside(CHARON), stdout=subprocess.DEVNULL,
                                            stderr=subprocess.DEVNULL)
        self.callback(self.kill)
        ktap.wait(self._answers, "charon answers", PATIENCE)
        self("--load-all", "--file", "/run/swanctl.conf")

    def _answers(self):
        with socket.socket(socket.AF_UNIX) as s:
            return not s.connect_ex(self.run + "/charon.vici")

    def _write(self, name, text):
        with open(f"{self.run}/{name}", "w") as f:
            f.write(text)

    def _inside(self, *command):
        """The command line that runs this one in that root, with a /run of our own."""
        links = [w for d in ("bin", "sbin", "lib", "lib64") for w in ("--symlink", f"usr/{d}", f"/{d}")]
        return ["bwrap", "--die-with-parent", "--ro-bind", f"{self.root}/usr", "/usr",
                "--ro-bind", f"{self.root}/etc", "/etc", *links, "--dev", "/dev", "--proc", "/proc", "--bind", self.run, "/run",
                "--symlink", "/run", "/var/run", "--cap-add", "ALL",
                "--setenv", "STRONGSWAN_CONF", "/run/strongswan.conf", "--", *command]

    def kill(self):
        """Without a chance to clean up; what surrounds it ends then."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(self.run + "/charon.pid") as f:
            os.kill(int(f.read()), signal.SIGKILL)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:   # it hadn't got that far
            self.process.kill()
            self.process.wait()

    def __call__(self, *words, fails=False):
        """Runs swanctl, which is to succeed; what it says."""
        with self.ns.inside():
            ran = subprocess.run(self._inside("swanctl", *words), text=True, check=False,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        true((ran.returncode != 0) == fails,
             f"swanctl {' '.join(words)}: status {ran.returncode}\n{ran.stdout}{self.log()[-4000:]}")
        return ran.stdout

    def log(self, start=0):
        with open(self.run + "/log") as f:
            return f.read()[start:]

    def version(self):
        return re.search(r"strongSwan ([\d.]+)", self.log())[1]

    def initiate(self, **more):
        self("--initiate", "--child", "tunnel", "--timeout", str(PATIENCE // 2), **more)


def esp(ns):
    """The SAs with keys or a compression; the kernel has others, while it waits for one."""
    return [sa for sa in ns.xfrm.all() if {"ALG_AEAD", "ALG_CRYPT", "ALG_COMP"} & set(sa)]


class Traffic:
    """Datagrams from A to B every 20 ms, during the block."""

    def __init__(self, two):
        source, sink = two.ends[xfrm.AF_INET]
        self.receiver = two.b.udp(sink)
        self.sender = two.a.udp(source)
        self.sender.connect(self.receiver.getsockname())
        self.sent, self.refused, self.got = 0, 0, set()
        self.over, self.late = threading.Event(), threading.Event()
        self.threads = [threading.Thread(target=t) for t in (self._send, self._receive)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        sender, receiver = self.threads
        self.over.set()
        sender.join()
        receiver.join(2)        # those that are under way
        self.late.set()
        receiver.join()
        self.sender.close()
        self.receiver.close()

    def _send(self):
        while not self.over.wait(0.02):
            try:
                self.sender.send(struct.pack("!Q", self.sent))
            except OSError:      # no SA
                self.refused += 1
            self.sent += 1

    def _receive(self):
        self.receiver.settimeout(0.1)
        sender = self.threads[0]
        while not self.late.is_set() and (sender.is_alive()
                                          or len(self.got) + self.refused < self.sent):
            with contextlib.suppress(TimeoutError):
                self.got.add(struct.unpack("!Q", self.receiver.recv(64))[0])

    def flows(self, what):
        """Waits until ten that are sent from now on have arrived."""
        start = self.sent
        ktap.wait(lambda: sum(n >= start for n in self.got.copy()) >= 10,
                  "ten datagrams " + what, PATIENCE)

    def lost(self, what):
        """How many, which it also tells."""
        lost = self.sent - len(self.got)
        print(f"# {what}: {lost} of {self.sent} datagrams lost, {self.refused} of them not sent")
        return lost


def address(ns, verb, text):
    """Adds an address of v's, or deletes it."""
    with ns.inside():
        subprocess.run(["ip", "address", verb, f"{text}/{120 if ':' in text else 24}", "dev", "v"]
                       + ["nodad"] * (":" in text and verb == "add"), check=True)


def prefers(ns, text):
    """A's route to B names this one of its addresses: a daemon with BEST moves there."""
    with ns.inside():
        subprocess.run(["ip", "route", "replace", f"{V4[1]}/32", "dev", "v", "src", text], check=True)


@contextlib.contextmanager
def connected(ipv6=False, by_hand=False, hosts=Hosts):
    """The two. When its address goes A has one way left: a daemon tries all that there
    are, and takes the one where it is answered first. by_hand: B has its other address."""
    with hosts() as two:
        for side, ns in enumerate((two.a, two.b)):
            spi.patient(ns)
            ns.sysctl("ipv4/conf/all/promote_secondaries", 1)
            if ipv6:
                address(ns, "delete", V6_MOVED[side])
            else:
                ns.sysctl("ipv6/conf/v/disable_ipv6", 1)
        if not by_hand:
            address(two.b, "delete", V4_MOVED[1])
        yield two


def need(root):
    """Skips the test without that root."""
    if not root or not os.path.exists(root + CHARON):
        raise ktap.Skip("XFRM_NEXT_FORKY names no root directory with strongSwan: scripts/forky makes one"
                        if root == MIGRATES and PLAIN else
                        "XFRM_NEXT_ROOT names no root directory with strongSwan")

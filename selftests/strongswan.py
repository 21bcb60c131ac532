#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""An IKE daemon that knows nothing of the module has a tunnel, and keeps it.

strongSwan in the two hosts of lib/hosts.py. XFRM_NEXT_ROOT in the environment
names a root directory that has it (scripts/stock makes one).
"""

import contextlib
import os
import struct
import subprocess
import tempfile
import threading

from lib import ktap, netlink, spi, xfrm
from lib.handler import RUST
from lib.hosts import INNER, V4, V4_MOVED, Hosts
from lib.ktap import equal, true
from lib.netlink import attrs, parse_attrs
from lib.xfrm import A, SA, addr

ROOT = os.environ.get("XFRM_NEXT_ROOT", "")
CHARON = "/usr/lib/ipsec/charon"
PATIENCE = 120          # seconds; an emulated machine is slow
GETPOLICY, POLICY_SIZE = 0x15, 168
ELSEWHERE = "203.0.113.9"

DAEMON = """
charon {{
    load = random nonce openssl kdf socket-default kernel-netlink vici
    filelog {{
        log {{
            path = /run/log
            flush_line = yes
        }}
    }}
    {more}
}}
"""

TUNNEL = """
connections {{
    tunnel {{
        version = 2
        proposals = aes128gcm16-prfsha256-x25519
        local_addrs = {local}
        remote_addrs = {remote}
        rekey_time = 0
        local {{
            auth = psk
            id = {me}.example
        }}
        remote {{
            auth = psk
            id = {peer}.example
        }}
        children {{
            tunnel {{
                local_ts = {inside}/32
                remote_ts = {other_inside}/32
                esp_proposals = aes128gcm16-x25519
                rekey_time = 0
            }}
        }}
    }}
}}
secrets {{
    ike {{
        secret = "not a secret"
    }}
}}
"""


class Daemon(contextlib.ExitStack):
    """strongSwan in one of the hosts; more is for its strongswan.conf."""

    def __init__(self, ns, side, more=""):
        super().__init__()
        self.ns, self.side = ns, side
        self.run = self.enter_context(tempfile.TemporaryDirectory())
        local, remote = V4[side], V4[1 - side]
        ends = INNER[xfrm.AF_INET]
        self._write("strongswan.conf", DAEMON.format(more=more))
        self._write("swanctl.conf", TUNNEL.format(
            local=local, remote=remote, me="ab"[side], peer="ba"[side],
            inside=ends[side], other_inside=ends[1 - side]))
        with ns.inside():
            child = subprocess.Popen(self._inside(CHARON), stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
        self.callback(self._end, child)
        ktap.wait(lambda: os.path.exists(self.run + "/charon.vici"), "charon answers", PATIENCE)
        self("--load-all", "--file", "/run/swanctl.conf")

    def _write(self, name, text):
        with open(f"{self.run}/{name}", "w") as f:
            f.write(text)

    def _inside(self, *command):
        """The command line that runs this one in that root, with a /run of our own."""
        links = [w for d in ("bin", "sbin", "lib", "lib64") for w in ("--symlink", f"usr/{d}", f"/{d}")]
        return ["bwrap", "--ro-bind", f"{ROOT}/usr", "/usr", "--ro-bind", f"{ROOT}/etc", "/etc", *links,
                "--dev", "/dev", "--proc", "/proc", "--bind", self.run, "/run", "--symlink", "/run", "/var/run",
                "--cap-add", "ALL", "--setenv", "STRONGSWAN_CONF", "/run/strongswan.conf", "--", *command]

    @staticmethod
    def _end(child):
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def __call__(self, *words, fails=False):
        """Runs swanctl, which is to succeed; what it says."""
        with self.ns.inside():
            ran = subprocess.run(self._inside("swanctl", *words), text=True, check=False,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        true((ran.returncode != 0) == fails,
             f"swanctl {' '.join(words)}: status {ran.returncode}\n{ran.stdout}{self.log()}")
        return ran.stdout

    def log(self):
        with open(self.run + "/log") as f:
            return f.read()

    def initiate(self, **more):
        self("--initiate", "--child", "tunnel", "--timeout", str(PATIENCE // 2), **more)


def esp(ns):
    """The daemon's SAs; the kernel has others, without keys, while it waits for one."""
    return [sa for sa in ns.xfrm.all() if "ALG_AEAD" in sa and sa["daddr"] != addr(ELSEWHERE)]


def to(ns, address):
    return [sa["spi"] for sa in esp(ns) if sa["daddr"] == addr(address)]


class Traffic:
    """Datagrams from A to B every 20 ms, during the block."""

    def __init__(self, two):
        source, sink = INNER[xfrm.AF_INET]
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


@contextlib.contextmanager
def daemons(more="", scope=None):
    """Hosts with a daemon each; more is for A's."""
    if not os.path.exists(ROOT + CHARON):
        raise ktap.Skip("XFRM_NEXT_ROOT names no root directory with strongSwan")
    with Hosts() as two:
        for ns in (two.a, two.b):
            spi.patient(ns)
            ns.sysctl("ipv4/conf/all/promote_secondaries", 1)
            if scope is not None:
                spi.scope(ns, scope)
        with Daemon(two.a, 0, more) as a, Daemon(two.b, 1) as b:
            yield two, a, b


# --- SPIs ------------------------------------------------------------------

FIRST, COUNT = 0xc0000001, 4
RANGE = f"spi_min = {FIRST}\n    spi_max = {FIRST + COUNT - 1}"


def occupy(ns, numbers, **more):
    """SAs that lead elsewhere, with SPIs that the peer there has chosen."""
    for n in numbers:
        ns.xfrm.new(SA(V4[0], ELSEWHERE, FIRST + n).but(more))


def scope_destination():
    with daemons(RANGE, 0) as (two, a, _):
        occupy(two.a, range(COUNT))
        a.initiate()
        equal(len(to(two.a, V4[0])), 1, "inbound SAs, when others have all SPIs")


def scope_direction():
    with daemons(RANGE, 1) as (two, a, _):
        occupy(two.a, range(COUNT), SA_DIR=b"\2")
        a.initiate()
        equal(len(to(two.a, V4[0])), 1, "inbound SAs, when outbound ones have all SPIs")
        told = [sa for sa in esp(two.a) if "SA_DIR" in sa]
        print(f"# of {len(esp(two.a))} SAs of the daemon {len(told)} say their direction")


def scope_all():
    with daemons(RANGE, 2) as (two, a, _):
        occupy(two.a, (0, 1, 3))
        a.initiate()
        equal(to(two.a, V4[0]), [FIRST + 2], "the SPI that was left")
        a("--terminate", "--child", "tunnel")
        occupy(two.a, (2,))
        a.initiate(fails=True)
        true("allocating SPI failed: No SPI available in the requested range" in a.log(),
             "the daemon says that there is no SPI:\n" + a.log()[-2000:])


# --- The life of a tunnel --------------------------------------------------

def rekey():
    """The new SAs are there before the old ones go; one of these may go under a packet."""
    with daemons() as (two, a, b):
        a.initiate()
        counters = two.a.counters()
        with Traffic(two) as traffic:
            traffic.flows("before")
            for daemon in (a, b):
                before = {sa["spi"] for sa in esp(two.a)}
                daemon("--rekey", "--child", "tunnel")
                ktap.wait(lambda: before.isdisjoint({sa["spi"] for sa in esp(two.a)})
                          and len(esp(two.a)) == 2, "the old SAs are gone", PATIENCE)
                traffic.flows("after")
        changes = xfrm.changes(counters, two.a.counters())
        equal(traffic.lost("two rekeyings"), changes.get("XfrmOutStateInvalid", 0),
              f"datagrams lost, with {changes}")


def mobike():
    with daemons() as (two, a, b):
        a.initiate()
        with Traffic(two) as traffic:
            traffic.flows("before")
            with two.a.inside():
                subprocess.run(["ip", "address", "delete", V4[0] + "/24", "dev", "v"], check=True)
            for ns in (two.a, two.b):
                ktap.wait(lambda ns=ns: to(ns, V4_MOVED[0]) and not to(ns, V4[0]),
                          "the SAs have the other address", PATIENCE)
            traffic.flows("after")
        traffic.lost("an address that goes")


def retarget(ns, moves):
    """The policies name the addresses that their SAs have now."""
    for message in ns.xfrm.must(GETPOLICY, b"", netlink.DUMP):
        body, found = message.body[:POLICY_SIZE], list(parse_attrs(message.body[POLICY_SIZE:]))
        changed = []
        for kind, data in found:
            if kind == A["TMPL"]:
                for old, new in moves.items():
                    data = data.replace(addr(old), addr(new))
            changed.append((kind, data))
        if changed != found:
            ns.xfrm.must(xfrm.UPDPOLICY, body + attrs(changed))


def command(sa, moves):
    """The words of the CLI that move this SA."""
    src, dst = (moves[name] for name in (text(sa["saddr"]), text(sa["daddr"])))
    return ("state", "migrate", "dst", text(sa["daddr"]), "proto", "esp", "spi", hex(sa["spi"]),
            "new-dst", dst, "new-src", src, "new-reqid", str(sa["reqid"]))


def text(address):
    return ".".join(map(str, address[:4]))


def move_by_hand():
    moves = dict(zip(V4, V4_MOVED))
    with daemons() as (two, a, b):
        a.initiate()
        with Traffic(two) as traffic:
            traffic.flows("before")
            for ns in (two.a, two.b):
                for sa in esp(ns):
                    with ns.inside():
                        subprocess.run(["xfrm-next", *command(sa, moves)], check=True)
                retarget(ns, moves)
            for ns in (two.a, two.b):
                equal([len(to(ns, end)) for end in V4 + V4_MOVED], [0, 0, 1, 1], "SAs by their ends")
            traffic.flows("after the move")
            old = {sa["spi"] for sa in esp(two.a)}
            a("--rekey", "--child", "tunnel")
            ktap.wait(lambda: len({sa["spi"] for sa in esp(two.a)} - old) == 2
                      and len({sa["spi"] for sa in esp(two.b)} - old) == 2, "new SAs", PATIENCE)
            traffic.flows("after the daemon's next rekeying")
            left = {sa["spi"] for sa in esp(two.a)} & old
            print(f"# {len(left)} of the {len(old)} SAs that were moved are left")
        traffic.lost("a move by hand and a rekeying")


if __name__ == "__main__":
    ktap.main([scope_destination, scope_direction, scope_all, rekey, mobike, move_by_hand], (RUST,))

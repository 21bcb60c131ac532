# SPDX-License-Identifier: GPL-2.0
"""A bond of simulated ports, with peers that see what goes over each wire.

      namespace a                              namespace b
    bond0 192.0.2.1   slaves[0]  ------------  peers[0]
                      slaves[1]  ------------  peers[1]  ...

A packet that a port encrypts goes over the simulated wire as it is, since the
simulation has no cipher: a marker that can be read there proves the hardware
path, ESP without the marker the software path.
"""

import array
import contextlib
import errno
import fcntl
import os
import re
import socket
import struct
import subprocess
import time

from lib import ktap, nsim, xfrm
from lib.hosts import selector
from lib.netlink import CREATE, EXCL, attr, attrs
from lib.netns import (IFF_UP, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, Netns,
                       RTM_NEWLINK)
from lib.xfrm import SA

HERE, NET = "192.0.2.1", "192.0.2."
PORT, MARKER = 7777, b"this is plaintext"
BOND = "bond0"
ETH_P_IP = 0x800
XOR, ACTIVE_BACKUP, ROUND_ROBIN, LACP = 2, 1, 0, 4
LAYER2, LAYER34 = 0, 1
RTM_DELLINK, RTM_GETLINK, IFLA_MASTER = 17, 18, 10
IFLA_XDP, IFLA_XDP_FD, IFLA_XDP_FLAGS, XDP_FLAGS_DRV_MODE = 43 | 0x8000, 1, 3, 4
BOND_MODE, BOND_MIIMON, BOND_HASH, BOND_LACP_RATE, BOND_AD_PRIO = 1, 3, 14, 21, 24
SIOCETHTOOL, GLINK, GSTRINGS, GFEATURES, SFEATURES = 0x8946, 0xa, 0x1b, 0x3a, 0x3b


def link(ns, name, *pairs, up=None, flags=0, kind=RTM_NEWLINK):
    """Makes or changes a device: the Reply."""
    change = 0 if up is None else IFF_UP
    body = struct.pack("=BxHiII", 0, 0, 0, IFF_UP if up else 0, change)
    return ns.rtnl.request(kind, body + attrs([(IFLA_IFNAME, name.encode() + b"\0"), *pairs]),
                           flags)


def must(ns, name, *pairs, **more):
    reply = link(ns, name, *pairs, **more)
    if reply.errno:
        raise OSError(reply.errno, f"{name}: {reply.text}")


def options(**more):
    """What tells a bond how to be."""
    forms = {"mode": (BOND_MODE, "=B"), "miimon": (BOND_MIIMON, "=I"), "policy": (BOND_HASH, "=B"),
             "lacp_rate": (BOND_LACP_RATE, "=B"), "ad_prio": (BOND_AD_PRIO, "=H")}
    data = b"".join(attr(forms[k][0], struct.pack(forms[k][1], v)) for k, v in more.items())
    return IFLA_LINKINFO, attr(IFLA_INFO_KIND, b"bond") + attr(IFLA_INFO_DATA, data)


def master(ns, name=None):
    return IFLA_MASTER, struct.pack("=I", ns.ifindex(name) if name else 0)


def _ethtool(s, name, data):
    buffer = array.array("B", data)
    fcntl.ioctl(s, SIOCETHTOOL, struct.pack("16sP8x", name.encode(), buffer.buffer_info()[0]))
    return bytes(buffer)


def feature(ns, name, feature_, wish=None):
    """Whether a device has a feature; or asks for that first."""
    with ns.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        names = _ethtool(s, name, struct.pack("=III", GSTRINGS, 4, 0) + bytes(32 * 128))
        bit = [n.rstrip(b"\0").decode() for n, in struct.iter_unpack("32s", names[12:])].index(
            feature_)
        if wish is not None:
            words = [0] * 4
            words[bit // 32 * 2] = 1 << bit % 32
            words[bit // 32 * 2 + 1] = wish << bit % 32
            _ethtool(s, name, struct.pack("=II4I", SFEATURES, 2, *words))
        got = _ethtool(s, name, struct.pack("=II", GFEATURES, 2) + bytes(32))
        active = struct.unpack_from("=I", got, 8 + bit // 32 * 16 + 8)[0]
        return bool(active >> bit % 32 & 1)


class Port(contextlib.ExitStack):
    """A simulated device in namespace a, linked with one in namespace b; of these cards."""

    def __init__(self, a, b, cards):
        super().__init__()
        self.dev, self.peer = (self.enter_context(nsim.Device(*ends))
                               for ends in zip((a, b), cards))
        self.name = self.dev.name
        nsim.link(self.dev, a, self.peer, b)

    def held(self):
        return self.dev.held()

    def sent(self):
        return self.dev.state()[1]

    def slots(self):
        """{handle: SPI} of what it holds."""
        return self.dev.slots()


def out(n, **more):
    """The n-th SA that sends, to an address of its own; the hash parts them evenly."""
    return SA(HERE, f"{NET}{10 + n}", 0x100 + 2 * n, reqid=n + 1, **more).but({"SA_DIR": b"\2"})


def in_(n, **more):
    return SA(f"{NET}{10 + n}", HERE, 0x200 + 2 * n, reqid=n + 1, **more).but({"SA_DIR": b"\1"})


def esn_out(n, number=0, **more):
    """As out(), with extended sequence numbers, of which this was the last."""
    numbers = xfrm.esn(0, 0, oseq=number & 0xffffffff, oseq_hi=number >> 32)
    return out(n, flags=xfrm.FLAG_ESN, **more).but({"REPLAY_ESN_VAL": numbers})


def esn_in(n, number=0, **more):
    """As in_(), likewise."""
    numbers = xfrm.esn(32, 1, seq=number & 0xffffffff, seq_hi=number >> 32)
    return in_(n, flags=xfrm.FLAG_ESN, **more).but({"REPLAY_ESN_VAL": numbers})


def last_number(sa):
    """The last extended sequence number that was sent or received with an SA as it was read."""
    _, oseq, seq, oseq_hi, seq_hi, window = struct.unpack_from("=6I", sa["REPLAY_ESN_VAL"])
    return seq_hi << 32 | seq if window else oseq_hi << 32 | oseq


def sas(pairs=4):
    return [sa for n in range(pairs) for sa in (out(n), in_(n))]


class Bonded(contextlib.ExitStack):
    """A bond with slaves and peers."""

    def __init__(self, mode=XOR, policy=LAYER34, slaves=2, esp=True, module=True):
        super().__init__()
        prepare(module)
        self.a, self.b = (self.enter_context(Netns()) for _ in "ab")
        self.cards = [self.enter_context(nsim.Card(ns)) for ns in (self.a, self.b)]
        self.nl = self.a.xfrm
        self.ports = []
        self.create(self.a, BOND, mode, policy)
        for _ in range(slaves):
            self.join(self.port())
        if mode == LACP and slaves:
            self.lacp_peer()
        self.up()
        self.sender = self.a.udp(HERE)
        if esp:
            self.esp(True)

    def create(self, ns, name, mode=XOR, policy=LAYER34):
        more = {"lacp_rate": 1} if mode == LACP else {}
        if mode not in (ACTIVE_BACKUP, ROUND_ROBIN):
            more["policy"] = policy
        must(ns, name, options(mode=mode, miimon=10, **more), flags=CREATE | EXCL)
        self.callback(self.delete, ns, name)

    @staticmethod
    def delete(ns, name=BOND):
        with contextlib.suppress(OSError):
            link(ns, name, kind=RTM_DELLINK)

    def up(self):
        self.a.up(BOND)
        self.a.address(BOND, f"{HERE}/24")
        self.a.neighbours(BOND, *(f"{NET}{n}" for n in range(10, 30)))
        self.links()

    def links(self):
        """Waits until the bond sends by all of its slaves, if it has any, and has told that."""
        ktap.wait(lambda: all(map(self.usable, self.ports)), "links", 60)
        ktap.wait(lambda: self.linked() or not self.ports, "the bond's own link")

    def linked(self):
        """Whether the bond has a link. What a worker would tell of that later, as an event of
        the bond, is told before this returns."""
        with self.a.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            return bool(struct.unpack("=4xI", _ethtool(s, BOND, struct.pack("=I4x", GLINK)))[0])

    def proc(self):
        with self.a.inside(), open(f"/proc/thread-self/net/bonding/{BOND}") as f:
            return f.read()

    def usable(self, port):
        """Whether the bond sends by it."""
        # Who asks lets the kernel see to its queues first, if its link has just come.
        link(self.a, port.name, kind=RTM_GETLINK)
        text = self.proc()
        mine = text.split(f"Slave Interface: {port.name}\n")[1].split("Slave Interface")[0]
        if "MII Status: up" not in mine:
            return False
        actor = re.search(r"details actor lacp pdu:.*?port state: (\d+)", mine, re.S)
        return "802.3ad" not in text or actor and int(actor[1]) & 0x20

    def lacp_peer(self):
        self.create(self.b, BOND, LACP)
        for port in self.ports:
            self.b.up(port.peer.name, False)
            must(self.b, port.peer.name, master(self.b, BOND))
        self.b.up(BOND)

    def port(self, *cards):
        """A new one, of the cards that there are or of these; for None, of a card of its own."""
        return self.enter_context(Port(self.a, self.b, cards or self.cards))

    def tap(self, port):
        s = self.b.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        s.bind((port.peer.name, ETH_P_IP))
        s.setblocking(False)
        return s

    def try_join(self, name, bond=BOND):
        """The Reply to enslaving a device, which has to be down for that."""
        self.a.up(name, False)
        return link(self.a, name, master(self.a, bond))

    def join(self, port):
        reply = self.try_join(port.name)
        if reply.errno:
            raise OSError(reply.errno, reply.text)
        self.ports.append(port)

    def release(self, port):
        must(self.a, port.name, master(self.a))
        self.ports.remove(port)

    def esp(self, wish=None, name=BOND):
        """Whether ESP is offloaded; or asks for that."""
        return feature(self.a, name, "esp-hw-offload", wish)

    def all_esp(self):
        return [self.esp(name=name) for name in (BOND, *(port.name for port in self.ports))]

    def xdp(self, fd):
        """Lets the driver call an XDP program, or none for -1."""
        must(self.a, BOND, (IFLA_XDP, attr(IFLA_XDP_FD, struct.pack("=i", fd))
                            + attr(IFLA_XDP_FLAGS, struct.pack("=I", XDP_FLAGS_DRV_MODE))))

    def policy(self, number):
        must(self.a, BOND, options(policy=number))

    def sysfs(self, option, value):
        """Writes an option of the bond as a shell would."""
        with self.a.inside():
            subprocess.run(["unshare", "-m", "sh", "-c", "mount -t sysfs none /sys && echo "
                            f"{value} >/sys/class/net/{BOND}/bonding/{option}"], check=True)

    def offloaded(self, sa, dev=BOND, flags=0):
        inbound = 2 if sa.attrs["SA_DIR"] == b"\1" else 0
        return sa.but({"OFFLOAD_DEV": xfrm.offload(self.a.ifindex(dev), inbound | flags)})

    def new(self, sa, dev=BOND):
        """The SA, with a policy that uses it if it sends."""
        sa = self.nl.new(self.offloaded(sa, dev))
        if sa.attrs["SA_DIR"] == b"\2":
            self.protect(sa)
        return sa

    def protect(self, sa):
        sel = selector(xfrm.AF_INET)
        sel = xfrm.replace(sel, dst=sa.dst, plen_d=32)
        self.nl.policy(xfrm.POLICY_OUT, sel, sa, update=True, zero=True)

    def add(self, pairs=4):
        return [self.new(sa) for sa in sas(pairs)]

    def held(self):
        """SAs in each slave."""
        return [port.held() for port in self.ports]

    def send(self, sa, count=1):
        """Datagrams for an SA; how many have left."""
        done = 0
        for _ in range(count):
            with contextlib.suppress(OSError):
                self.sender.sendto(MARKER + bytes(100), (sa.dst, PORT))
                done += 1
        return done

    def wire(self, *sending):
        """What comes out of the wires, of what send() is told to send by these arguments:
        ([plain on each], [encrypted on each])."""
        taps = [(self.tap(port), [0, 0]) for port in self.ports]
        time.sleep(0.1)
        for tap, _ in taps:
            seen(tap)           # of what was under way before
        missing = sum(self.send(*words) for words in sending)
        deadline = time.monotonic() + 20
        while True:
            time.sleep(0.1)
            for tap, counts in taps:
                for kind, number in enumerate(seen(tap)):
                    counts[kind] += number
                    missing -= number
            if missing <= 0 or time.monotonic() > deadline:
                return tuple(map(list, zip(*(counts for _, counts in taps))))


    @contextlib.contextmanager
    def watched(self):
        """What goes over a wire as it is meanwhile, hardware has encrypted, as the slave counts.
        Yields [plain, encrypted], the numbers of frames, which are there in the end."""
        slaves = [(port, self.tap(port), port.sent()) for port in self.ports]
        counts = [0, 0]
        yield counts
        for port, tap, before in slaves:
            plain, cipher = seen(tap)
            counts[0] += plain
            counts[1] += cipher
            by_hardware = port.sent() - before
            ktap.true(plain <= by_hardware, f"{port.name}: {plain} frames as they are, "
                      f"{by_hardware} encrypted by hardware")


def frames(tap):
    """The frames that have come in at a tap."""
    while True:
        try:
            frame, origin = tap.recvfrom(65536)
        except BlockingIOError:
            return
        except OSError as why:
            if why.errno != errno.ENETDOWN:     # told once when the device goes down
                raise
            continue
        if origin[2] != socket.PACKET_OUTGOING:
            yield frame


def seen(tap):
    """(plaintext, ciphertext): frames of ESP that have come in at a tap."""
    plain = cipher = 0
    for frame in frames(tap):
        if MARKER in frame:
            plain += 1
        elif frame[23] == xfrm.ESP:
            cipher += 1
    return plain, cipher


def prepare(module=True):
    """What the kernel has to have, or Skip; with the module or not."""
    nsim.prepare()
    if not os.path.isdir("/sys/module/bonding"):
        subprocess.run(["modprobe", "bonding", "max_bonds=0"], check=False, capture_output=True)
    if module:
        needs_lag()


def needs_lag():
    """Skips what the module can't do in a kernel without patches/."""
    if not os.path.exists(nsim.DEBUG + "/xfrm_next/lag"):
        raise ktap.Skip("the module has no LAG offload for this kernel")


def needs_esn(lag):
    """Skips what a kernel with fewer of patches/ can't do."""
    if not lag.ports[0].dev.does_esn():
        raise ktap.Skip("netdevsim has no ESN offload in this kernel: patches/0007")


def shown():
    with open(nsim.DEBUG + "/xfrm_next/lag") as f:
        return f.read()

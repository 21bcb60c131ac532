# SPDX-License-Identifier: GPL-2.0
"""Network namespaces that nobody else sees, and links between them.

They have no names: the kernel drops one with its last descriptor, so nothing
is left behind, however a test ends.
"""

import contextlib
import ctypes
import os
import socket
import struct

from lib import handler, ktap, netlink
from lib.netlink import Netlink, attr, attrs
from lib.xfrm import Xfrm, addr, family

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
RTM_NEWLINK = 16
RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWNEIGH = 20, 24, 28
NUD_PERMANENT = 0x80
IFLA_IFNAME, IFLA_LINK, IFLA_LINKINFO, IFLA_NET_NS_FD = 3, 5, 18, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_VLAN_ID, VETH_INFO_PEER = 1, 2, 1, 1
IFF_UP, IFA_F_NODAD, RTF_LOCAL = 1, 2, 0x80000000


def check(result):
    """Raises what a function of libc has failed with."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _current():
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Netns:
    """One namespace with lo up and the chosen handler."""

    def __init__(self):
        self.cleanup = contextlib.ExitStack()
        home = _current()
        try:
            check(handler.libc.unshare(CLONE_NEWNET))
            self.fd = _current()
            self.cleanup.callback(os.close, self.fd)
            self.rtnl = self.cleanup.enter_context(Netlink(socket.NETLINK_ROUTE))
            self.xfrm = self.cleanup.enter_context(Xfrm())
            handler.apply()
            self.up("lo")
        finally:
            check(handler.libc.setns(home, CLONE_NEWNET))
            os.close(home)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cleanup.close()

    @contextlib.contextmanager
    def inside(self):
        """Runs a block in this namespace: sockets, /proc/sys, new devices."""
        before = _current()
        check(handler.libc.setns(self.fd, CLONE_NEWNET))
        try:
            yield
        finally:
            check(handler.libc.setns(before, CLONE_NEWNET))
            os.close(before)

    def keep(self, context):
        """Closes it together with the namespace."""
        return self.cleanup.enter_context(context)

    def listen(self, *groups):
        """A socket that hears these xfrm groups."""
        with self.inside():
            return self.keep(Xfrm(groups))

    def socket(self, *args):
        with self.inside():
            return self.keep(socket.socket(*args))

    def udp(self, address, port=0):
        """A bound UDP socket with a receive timeout."""
        s = self.socket(family(address), socket.SOCK_DGRAM)
        s.bind((address, port))
        s.settimeout(netlink.PATIENCE / 6)
        return s

    def ifindex(self, name):
        with self.inside():
            return socket.if_nametoindex(name)

    def links(self):
        with self.inside():
            return {name for _, name in socket.if_nameindex()}

    def neighbours(self, name, *addresses, lladdr=b"\2\0\0\0\0\1"):
        """Permanent entries, so that nobody has to answer."""
        ifindex = self.ifindex(name)
        for address in addresses:
            raw = addr(address)[:16 if ":" in address else 4]
            self._rtnl(RTM_NEWNEIGH, struct.pack("=B3xiHBB", family(address), ifindex,
                                                 NUD_PERMANENT, 0, 0)
                       + attrs([(1, raw), (2, lladdr)]), netlink.CREATE | netlink.REPLACE)

    def _rtnl(self, kind, body, flags=0):
        reply = self.rtnl.request(kind, body, flags)
        if reply.errno:
            raise OSError(reply.errno, f"rtnetlink {kind}: {reply.text}")

    def up(self, name, up=True):
        self._rtnl(RTM_NEWLINK, _ifinfo(IFF_UP, up) + attr(IFLA_IFNAME, name.encode() + b"\0"))

    def give(self, name, other):
        """Moves a device into another namespace."""
        self._rtnl(RTM_NEWLINK, _ifinfo() + attrs([(IFLA_IFNAME, name.encode() + b"\0"),
                                                   (IFLA_NET_NS_FD, struct.pack("=i", other.fd))]))

    def veth(self, name, peer, peer_name):
        """A veth pair from here into the namespace peer, both ends up."""
        other = _ifinfo() + attrs([(IFLA_IFNAME, peer_name.encode() + b"\0"),
                                   (IFLA_NET_NS_FD, struct.pack("=i", peer.fd))])
        self._link(name, "veth", attr(VETH_INFO_PEER, other))
        self.up(name)
        peer.up(peer_name)

    def dummy(self, name):
        self._link(name, "dummy")
        self.up(name)

    def vlan(self, name, below, number):
        self._link(name, "vlan", attr(IFLA_VLAN_ID, struct.pack("=H", number)),
                   (IFLA_LINK, struct.pack("=I", self.ifindex(below))))
        self.up(name)

    def _link(self, name, kind, data=b"", *more):
        info = attr(IFLA_INFO_KIND, kind.encode())
        if data:
            info += attr(IFLA_INFO_DATA, data)
        self._rtnl(RTM_NEWLINK, _ifinfo() + attrs([(IFLA_IFNAME, name.encode() + b"\0"),
                                                   (IFLA_LINKINFO, info), *more]),
                   netlink.CREATE | netlink.EXCL)

    def address(self, name, *addresses):
        """Adds addresses such as 192.0.2.1/24, at once usable."""
        for text in addresses:
            address, length = text.split("/")
            size = 16 if ":" in address else 4
            raw = addr(address)[:size]
            self._rtnl(RTM_NEWADDR,
                       struct.pack("=BBBBi", family(address), int(length), IFA_F_NODAD, 0,
                                   self.ifindex(name)) + attrs([(1, raw), (2, raw)]),
                       netlink.CREATE | netlink.EXCL)
            if size == 16:
                # A worker makes the route to it, when the device is ready.
                ktap.wait(lambda: self._is_local(raw), f"{address} becomes local")

    def _is_local(self, raw):
        with self.inside(), open("/proc/thread-self/net/ipv6_route") as f:
            return any(to == raw.hex() and int(flags, 16) & RTF_LOCAL
                       for to, *_, flags, _dev in map(str.split, f))

    def route(self, to, via=None, dev=None):
        address, length = to.split("/")
        size = 16 if ":" in address else 4
        body = struct.pack("=8BI", family(address), int(length), 0, 0, 254, 4, 0, 1, 0)
        body += attr(1, addr(address)[:size])
        if via:
            body += attr(5, addr(via)[:size])
        if dev:
            body += attr(4, struct.pack("=i", self.ifindex(dev)))
        self._rtnl(RTM_NEWROUTE, body, netlink.CREATE | netlink.EXCL)

    def sysctl(self, name, value=None):
        with self.inside():
            path = "/proc/sys/net/" + name
            if value is None:
                with open(path) as f:
                    return f.read().strip()
            with open(path, "w") as f:
                f.write(f"{value}\n")

    def counters(self):
        """{name: count} of /proc/net/xfrm_stat."""
        with self.inside(), open("/proc/thread-self/net/xfrm_stat") as f:
            return {k: int(v) for k, v in map(str.split, f)}


def _ifinfo(flags=0, on=True):
    return struct.pack("=BxHiII", 0, 0, 0, flags if on else 0, flags)

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Who may ask for what: the first table of docs/security.md."""

import contextlib
import errno
import os
import socket
import stat
import struct
import subprocess
from pathlib import Path

from lib import bond, handler, ktap, nsim, spi
from lib.bond import XOR, feature, link, master, must, options
from lib.child import USER, in_child
from lib.handler import NEITHER
from lib.ktap import equal
from lib.netlink import CREATE, EXCL, Netlink, attr, parse_attrs
from lib.netns import CLONE_NEWNET, CLONE_NEWUSER, IFLA_INFO_KIND, IFLA_LINKINFO, Netns, check
from lib.spi import larval
from lib.xfrm import SA, Xfrm, migrate

HERE, PEER, BOND, DUMMY = "192.0.2.1", "192.0.2.2", "b0", "d0"
ONE = SA(HERE, PEER, 0x10)
PERM, ACCES, OK = errno.EPERM, errno.EACCES, 0
PF_KEY, NETLINK_GENERIC = 15, 16
FEATURE = "esp-hw-offload"
# GENL_ID_CTRL, its command and attributes; those of ethtool.
CTRL, GETFAMILY, FAMILY_ID, FAMILY_NAME = 16, 3, 1, 2
FEATURES_SET, HEADER, WANTED, DEV_NAME, BITS, BIT, NAME = 12, 1, 3, 2, 3, 1, 2
NESTED = 0x8000


class Here:
    """The namespace that we are in, as Netns shows one."""

    def __init__(self):
        self.rtnl = Netlink(socket.NETLINK_ROUTE)

    def inside(self):
        return contextlib.nullcontext()

    def ifindex(self, name):
        return socket.if_nametoindex(name)


def nested(kind, *children):
    return attr(kind | NESTED, b"".join(children))


def migration(nl):
    return nl.migrate(migrate(ONE)).errno


def allocation(nl):
    return spi.request(nl, larval(PEER, 0x100)).errno


def by_netlink(ask):
    with Xfrm() as nl:
        return ask(nl)


def by_pfkey():
    socket.socket(PF_KEY, socket.SOCK_RAW, 2).close()
    with spi.PfKey() as key:
        return key.getspi(PEER, 0x200)[0]


def write(name, value):
    with open(f"/proc/sys/net/xfrm_next/{name}", "w") as f:
        f.write(f"{value}\n")


def make_bond(ns):
    dummy = IFLA_LINKINFO, attr(IFLA_INFO_KIND, b"dummy")
    for name, kind in (BOND, options(mode=XOR)), (DUMMY, dummy):
        must(ns, name, kind, flags=CREATE | EXCL)


def enslave():
    return link(Here(), DUMMY, master(Here(), BOND)).errno


def change_feature():
    """As ethtool does, by netlink."""
    with Netlink(NETLINK_GENERIC) as nl:
        names = struct.pack("=BBH", GETFAMILY, 1, 0) + attr(FAMILY_NAME, b"ethtool\0")
        body = nl.request(CTRL, names).messages[0].body
        family, = struct.unpack("=H", dict(parse_attrs(body[4:]))[FAMILY_ID])
        off = nested(BITS, nested(BIT, attr(NAME, FEATURE.encode() + b"\0")))
        return nl.request(family, struct.pack("=BBH", FEATURES_SET, 1, 0)
                          + nested(HEADER, attr(DEV_NAME, BOND.encode() + b"\0"))
                          + nested(WANTED, off)).errno


def become_another():
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)


def as_in_the_table(rows, prepare=lambda _ns: None):
    """rows: {what: (request, its answers)}, to another user in a namespace of root's, to root of
    a user namespace there, and to that one in a network namespace of its own."""
    def tries():
        got = []
        for step in (become_another, lambda: check(handler.libc.unshare(CLONE_NEWUSER)),
                     lambda: check(handler.libc.unshare(CLONE_NEWNET)) or prepare(Here())):
            step()
            got.append([answer(request) for request, *_ in rows.values()])
        return got
    with Netns() as ns, ns.inside():
        prepare(ns)
        got = zip(*in_child(tries))
        equal(dict(zip(rows, got)), {what: tuple(want) for what, (_, *want) in rows.items()},
              "errnos")
        equal((spi.scope(ns), handler.switch()), ("1", "1"), "sysctls")


def answer(request):
    try:
        return request() or OK
    except OSError as why:
        return why.errno


def requests():
    subprocess.run(["modprobe", "-q", "af_key"], check=False)
    with open(handler.KO, "rb") as module:
        as_in_the_table({
            "XFRM_MSG_MIGRATE_STATE": (lambda: by_netlink(migration), PERM, PERM, errno.ESRCH),
            "XFRM_MSG_ALLOCSPI": (lambda: by_netlink(allocation), PERM, PERM, OK),
            "SADB_GETSPI": (by_pfkey, PERM, PERM, OK),
            "spi_scope": (lambda: write("spi_scope", 2), ACCES, ACCES, OK),
            "migrate_state": (lambda: write("migrate_state", 0), ACCES, ACCES, OK),
            "migrate_grace": (lambda: write("migrate_grace", 0), ACCES, ACCES, OK),
            "loading": (lambda: handler.finit(module.fileno()), PERM, PERM, PERM),
            "unloading": (lambda: handler.rmmod(handler.NAME), PERM, PERM, PERM),
        })


def bonds():
    bond.prepare()
    lag = Path(nsim.DEBUG, "xfrm_next/lag")
    equal([(stat.S_IMODE(f.stat().st_mode) & 0o077, f.stat().st_uid) for f in (lag, Path(nsim.DEBUG))],
          [(0, 0)] * 2, "what others may, and who owns it")
    as_in_the_table({
        "enslaving": (enslave, PERM, PERM, OK),
        "ethtool, by netlink": (change_feature, PERM, PERM, OK),
        "ethtool": (lambda: feature(Here(), BOND, FEATURE, False) and None, PERM, PERM, OK),
        "debugfs": (lambda: lag.open().close(), ACCES, ACCES, ACCES),
    }, make_bond)


def opener_and_sender_need_it():
    """Who sends, and whose socket it is: the kernel asks for that one's if it is connected, as
    what writes for others unwittingly has it."""
    def tries():
        by_root = Xfrm()
        os.seteuid(USER)
        by_user = Xfrm()
        got = [ask(by_root) for ask in (migration, allocation)]
        os.seteuid(0)
        by_user.socket.connect((0, 0))
        by_user.send = by_user.socket.send
        return got + [ask(by_user) for ask in (migration, allocation)]
    with Netns() as ns, ns.inside():
        equal(in_child(tries), [PERM] * 4, "errnos of a sender without, and an opener without")
        equal(ns.xfrm.count(), 0, "SAs")


if __name__ == "__main__":
    ktap.main([requests, bonds, opener_and_sender_need_it], handlers=(NEITHER,))

# SPDX-License-Identifier: GPL-2.0
"""Ciphers that finish later: the kernel's templates make them of others."""

import contextlib
import errno
import struct
from pathlib import Path

from lib import ktap, netlink
from lib.netlink import Netlink

NETLINK_CRYPTO = 21
NEWALG, DELALG = 0x10, 0x11
AEAD, TYPES = 3, 15


def known():
    """{driver: {field: value}} of /proc/crypto."""
    blocks = Path("/proc/crypto").read_text().strip().split("\n\n")
    found = (dict(map(str.strip, line.split(":", 1)) for line in block.splitlines())
             for block in blocks)
    return {alg["driver"]: alg for alg in found}


def best(name):
    """The driver that is chosen for the algorithm of this name, or None."""
    drivers = [alg for alg in known().values() if alg["name"] == name]
    return max(drivers, key=lambda alg: int(alg["priority"]))["driver"] if drivers else None


@contextlib.contextmanager
def handled_by(template, name):
    """Lets cryptd or pcrypt handle the AEAD of that name; gives the driver's."""
    try:
        user = Netlink(NETLINK_CRYPTO)
    except OSError as why:
        raise ktap.Skip(f"needs CRYPTO_USER ({why.strerror})") from why

    def ask(kind, driver):
        return user.request(kind, struct.pack("=64s64s64s4I", b"", driver.encode(), b"",
                                              AEAD, TYPES, 0, 0)).errno

    with user:
        # The algorithm itself is there only if it has been used before.
        ktap.equal(ask(NEWALG, name), 0, f"errno for {name}")
        driver = f"{template}({best(name)})"
        code = ask(NEWALG, driver)
        if code == errno.ENOENT:
            raise ktap.Skip(f"no {template}")
        ktap.equal(code, 0, f"errno for {driver}")
        try:
            ktap.equal(best(name), driver, f"driver of {name}")
            yield driver
        finally:
            # The last SA that uses it is freed when its namespace is.
            ktap.wait(lambda: ask(DELALG, driver) != errno.EBUSY, f"{driver} is free",
                      netlink.PATIENCE)

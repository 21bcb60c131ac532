#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Slaves that join and leave, whose links flap, and a bond that changes."""

import contextlib
import ctypes
import errno
import socket
import struct
import threading
import time

from lib import ktap
from lib.bond import (ACTIVE_BACKUP, BOND, LAYER34, ROUND_ROBIN, XOR, Bonded, link, must, options,
                      sas, shown)
from lib.handler import BRIEF, NEITHER, libc
from lib.ktap import equal, true
from lag_offload import fill


SYS_BPF, BPF_PROG_LOAD, BPF_PROG_TYPE_XDP = 321, 5, 6     # x86-64
# By their numbers.
HASHES = "layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"


@contextlib.contextmanager
def traffic(lag):
    """Datagrams for all SAs, all the time; yields a list of their number so far."""
    done, sent = threading.Event(), [0]

    def send():
        while not done.is_set():
            sent[0] += sum(lag.send(sa) for sa in sas()[::2])
            time.sleep(0.001)   # no port gets more than it can pass on
    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        done.set()
        thread.join()


def joins_with_all_sas():
    with Bonded() as lag:
        lag.add()
        with traffic(lag):
            lag.join(lag.port())
            equal(lag.held(), [8, 8, 8], "SAs in each slave")
        lag.links()
        plain, cipher = lag.wire(*((sa, 2) for sa in sas()[::2]))
        equal((sum(plain), sum(cipher)), (8, 0), "encrypted by hardware, by software")


def leaves_without_any():
    """Under traffic, none of which is lost or left as it is."""
    with Bonded(slaves=3) as lag:
        lag.add()
        gone = lag.ports[0]
        with lag.watched(), traffic(lag) as sent:
            ktap.wait(lambda: sum(p.sent() for p in lag.ports) > 100, "packets")
            lag.release(gone)
            equal(gone.held(), 0, "SAs in the slave that has left")
            before = sum(p.sent() for p in lag.ports)
            ktap.wait(lambda: sum(p.sent() for p in lag.ports) > before + 100, "more packets")
        equal(lag.held(), [8, 8], "SAs in the others")
        equal(sum(p.sent() for p in lag.ports) + gone.sent(), sent[0], "packets encrypted")


def comes_and_goes():
    with Bonded() as lag:
        lag.add()
        with traffic(lag):
            for _ in range(5):
                port = lag.ports[0]
                lag.release(port)
                equal(port.held(), 0, "SAs in the slave that has left")
                lag.join(port)
                equal(lag.held(), [8, 8], "SAs in each slave")


def full_one_is_refused():
    """What it had got is taken back."""
    with Bonded() as lag:
        lag.add()
        port = lag.port()
        lag.a.up(port.name, False)
        fill(lag, port, 30)
        equal(lag.try_join(port.name).verdict,
              (errno.ENOSPC, "netdevsim: No space for SA in Rx table!"), "answer")
        # Bonding shuts it down again, which takes its own SAs.
        equal((port.held(), lag.held()), (0, [8, 8]), "SAs in it, and in the others")


def others_are_refused():
    """Devices that can't, with SAs and without."""
    with Bonded() as lag:
        lag.a.dummy("dummy0")
        lag.a.veth("veth0", lag.b, "veth1")
        for make in (lambda: None, lag.add):
            make()
            for name in ("dummy0", "veth0"):
                equal(lag.try_join(name).verdict, (
                    errno.EOPNOTSUPP, "Slave can't join ESP offload: its driver can't share SAs"), name)
            equal(lag.held(), [lag.nl.count()] * 2, "SAs in each slave")
        lag.nl.flush()
        ktap.wait(lambda: "\nsa " not in shown(), "SAs are freed")
        lag.esp(False)
        equal(lag.try_join("dummy0").errno, 0, "with ESP off and no SAs")


def asked_for_when_it_joins():
    """A slave that could, but doesn't, is asked for it."""
    with Bonded() as lag:
        lag.add()
        port = lag.port()
        lag.esp(False, port.name)
        lag.join(port)
        equal((lag.esp(name=port.name), lag.held()), (True, [8, 8, 8]), "ESP, SAs in each slave")


def leaves_as_it_came():
    """What the bond has asked a slave for ends with it, also if that was asked of the bond later."""
    with Bonded(slaves=0, esp=False) as lag:
        ports = [lag.port() for _ in range(3)]
        for port in ports[1:]:
            lag.esp(False, port.name)
        for port in ports[:2]:
            lag.join(port)
        lag.esp(True)
        lag.join(ports[2])
        lag.links()
        equal(lag.all_esp(), [True] * 4, "ESP of bond and slaves")
        lag.add()
        for port in ports:
            lag.release(port)
        equal([lag.esp(name=port.name) for port in ports], [True, False, False], "ESP")
        equal(sum(port.held() for port in ports), 0, "SAs in those that have left")
        lag.nl.flush()


def not_let_in_after_all():
    """Bonding refuses a slave that has been asked for ESP: as this one can't do XDP."""
    with Bonded(slaves=0) as lag:
        lag.xdp(xdp_program())
        port = lag.port()
        lag.esp(False, port.name)
        equal(lag.try_join(port.name).verdict[0], errno.EOPNOTSUPP, "answer")
        equal((lag.esp(name=port.name), port.held()), (False, 0), "ESP of the port, SAs")
        lag.xdp(-1)
        lag.join(port)
        equal(lag.esp(name=port.name), True, "ESP of the slave")


def xdp_program():
    """A program that lets all pass."""
    instructions = ctypes.create_string_buffer(struct.pack("=BBhi", 0xb7, 0, 0, 2)
                                               + struct.pack("=BBhi", 0x95, 0, 0, 0))
    text = ctypes.create_string_buffer(b"GPL")
    words = struct.pack("=IIQQ", BPF_PROG_TYPE_XDP, 2, ctypes.addressof(instructions),
                        ctypes.addressof(text)).ljust(128, b"\0")
    fd = libc.syscall(SYS_BPF, BPF_PROG_LOAD, words, len(words))
    if fd < 0 and ctypes.get_errno() == errno.ENOSYS:
        raise ktap.Skip("no bpf() in this kernel")
    true(fd >= 0, f"bpf(): {errno.errorcode.get(ctypes.get_errno())}")
    return fd


def flaps_are_no_news():
    with Bonded() as lag:
        lag.add()
        port = lag.ports[0]
        for device, ns in ((port.name, lag.a), (port.peer.name, lag.b)):
            for up in (False, True):
                ns.up(device, up)
                equal(lag.held(), [8, 8], "SAs in each slave")
        lag.links()
        plain, cipher = lag.wire(*((sa, 2) for sa in sas()[::2]))
        equal((plain, cipher), ([4, 4], [0, 0]), "encrypted by hardware, by software")


def any_hash():
    """All of it is left to hardware, by the slaves that the hash chooses."""
    spread = {"layer3+4", "encap3+4"}
    with Bonded() as lag:
        lag.add()
        for number, name in enumerate(HASHES):
            lag.policy(number)
            plain, cipher = lag.wire(*((sa, 2) for sa in sas()[::2]))
            equal((sum(plain), sum(cipher)), (8, 0), f"encrypted by hardware, by software; {name}")
            if name in spread:
                true(all(plain), f"{name}: one slave has sent all, {plain}")
            elif "3" not in name:
                true(not all(plain), f"{name}: both have sent, {plain}")
        equal(lag.held(), [8, 8], "SAs in each slave")


def hash_changes_under_traffic():
    """By netlink, by sysfs, and by a request of which another part fails: no SA is lost, and
    numbers go on."""
    with Bonded() as lag:
        lag.add()
        with lag.watched(), traffic(lag) as sent:
            for number, name in enumerate(HASHES if not BRIEF else HASHES[:2]):
                before = sum(p.sent() for p in lag.ports)
                lag.policy(number)
                lag.sysfs("xmit_hash_policy", name)
                true(link(lag.a, BOND, options(policy=LAYER34, ad_prio=0)).errno, "refused")
                ktap.wait(lambda: sum(p.sent() for p in lag.ports) > before + 20, "packets")
        equal((lag.held(), lag.nl.count()), ([8, 8], 8), "SAs in each slave, in all")
        equal(sum(p.sent() for p in lag.ports), sent[0], "packets encrypted")
        numbers = sum(struct.unpack_from("=I", sa["REPLAY_VAL"])[0] for sa in lag.nl.all())
        equal(numbers, sent[0], "numbers used")


def another_mode():
    """It takes a bond without slaves; the SAs don't come back with them."""
    with Bonded() as lag:
        lag.add()
        ports = list(lag.ports)
        lag.esp(False)
        for port in ports:
            lag.release(port)
        lag.a.up(BOND, False)
        must(lag.a, BOND, options(mode=ACTIVE_BACKUP))
        for port in ports:
            lag.join(port)
        equal((lag.held(), lag.nl.count()), ([0, 0], 0), "SAs in each slave, in all")
        lag.nl.flush()


def from_a_mode_that_does_not_tell():
    with Bonded(ROUND_ROBIN, esp=False, slaves=0) as lag:
        lag.esp(True)
        lag.a.up(BOND, False)
        must(lag.a, BOND, options(mode=XOR, policy=LAYER34))
        for _ in range(2):
            lag.join(lag.port())
        lag.a.up(BOND)
        lag.links()
        if not lag.esp():
            lag.esp(True)
        lag.add()
        equal(lag.held(), [8, 8], "SAs in each slave")
        lag.esp(False, lag.ports[0].name)
        equal(lag.esp(), False, "ESP of the bond")


def port_goes():
    """A slave is unplugged."""
    with Bonded() as lag:
        lag.add()
        with traffic(lag):
            lag.ports[0].close()
        lag.ports.pop(0)
        equal(lag.held(), [8], "SAs in the one that is left")


def bond_goes():
    """Down, then deleted."""
    with Bonded() as lag:
        for end in (lambda: lag.a.up(BOND, False), lambda: lag.delete(lag.a)):
            lag.a.up(BOND)
            lag.add()
            with traffic(lag):
                end()
            equal((lag.held(), lag.nl.count()), ([0, 0], 0), "SAs in each slave, in all")


def namespace_goes():
    """With all that is in it."""
    with Bonded(slaves=0) as lag:
        # A card that moves is made anew, with those ports only that it was made with.
        for _ in range(2):
            lag.join(lag.port(None, None))
        lag.links()
        lag.add()
        equal(lag.held(), [8, 8], "SAs in each slave")
        lag.a.cleanup.close()
        # The ports go on in the namespace that they came from.
        ktap.wait(lambda: {name for _, name in socket.if_nameindex()}.issuperset(
            port.name for port in lag.ports), "the ports are back")
        equal(lag.held(), [0, 0], "SAs in each slave")


if __name__ == "__main__":
    ktap.main([
        joins_with_all_sas, leaves_without_any, comes_and_goes, full_one_is_refused,
        others_are_refused, asked_for_when_it_joins, leaves_as_it_came, not_let_in_after_all, flaps_are_no_news, any_hash,
        hash_changes_under_traffic, another_mode, from_a_mode_that_does_not_tell, port_goes, bond_goes,
        namespace_goes],
        handlers=(NEITHER,))

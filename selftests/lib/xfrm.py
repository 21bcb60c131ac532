# SPDX-License-Identifier: GPL-2.0
"""XFRM over netlink: messages built from Python values, and taken apart."""

import ipaddress
import socket
import struct
from dataclasses import dataclass, field, replace

from lib import netlink
from lib.netlink import Netlink, attrs, parse_attrs

AF_INET, AF_INET6 = socket.AF_INET, socket.AF_INET6
NEWSA, DELSA, GETSA, NEWPOLICY, DELPOLICY = range(0x10, 0x15)
ALLOCSPI, ACQUIRE, EXPIRE, UPDPOLICY, UPDSA = range(0x16, 0x1b)
FLUSHSA, FLUSHPOLICY, NEWAE, GETAE = range(0x1c, 0x20)
MIGRATE, GETSADINFO, MIGRATE_STATE = 0x21, 0x23, 0x29
ESP, AH, COMP, IPIP, UDP = 50, 51, 108, 4, 17
TRANSPORT, TUNNEL, BEET, IPTFS = 0, 1, 4, 5
DIR_IN, DIR_OUT = 1, 2
POLICY_IN, POLICY_OUT = 0, 1
GROUP_ACQUIRE, GROUP_EXPIRE, GROUP_SA, GROUP_AEVENTS, GROUP_MIGRATE, GROUP_MAX = 1, 2, 3, 5, 7, 8
CLEAR_OFFLOAD, UPDATE_H2H_SEL = 1, 2
FLAG_AF_UNSPEC, FLAG_ESN = 32, 128
UDP_ENCAP_ESPINUDP = 2
INF = (1 << 64) - 1
NO_LIMITS = (INF,) * 4 + (0,) * 4

# XFRMA_ names in order of their number.
ATTRS = ("UNSPEC ALG_AUTH ALG_CRYPT ALG_COMP ENCAP TMPL SA POLICY SEC_CTX"
         " LTIME_VAL REPLAY_VAL REPLAY_THRESH ETIMER_THRESH SRCADDR COADDR"
         " LASTUSED POLICY_TYPE MIGRATE ALG_AEAD KMADDRESS ALG_AUTH_TRUNC MARK"
         " TFCPAD REPLAY_ESN_VAL SA_EXTRA_FLAGS PROTO ADDRESS_FILTER PAD"
         " OFFLOAD_DEV SET_MARK SET_MARK_MASK IF_ID MTIMER_THRESH SA_DIR"
         " NAT_KEEPALIVE_INTERVAL SA_PCPU IPTFS_DROP_TIME IPTFS_REORDER_WINDOW"
         " IPTFS_DONT_FRAG IPTFS_INIT_DELAY IPTFS_MAX_QSIZE IPTFS_PKT_SIZE").split()
A = {name: number for number, name in enumerate(ATTRS)}


def family(address):
    return AF_INET6 if ":" in address else AF_INET


def addr(address):
    """xfrm_address_t: 16 bytes, whatever the family."""
    return ipaddress.ip_address(address).packed.ljust(16, b"\0") if address else bytes(16)


def u32(value):
    return struct.pack("=I", value)


def mark(value, mask):
    return struct.pack("=II", value, mask)


def encap(sport, dport, kind=UDP_ENCAP_ESPINUDP, origin=""):
    return struct.pack("=H", kind) + struct.pack(">HHH", sport, dport, 0) + addr(origin)


def offload(ifindex, flags=0):
    return struct.pack("=iB3x", ifindex, flags)


def esn(window, words, oseq=0, seq=0, oseq_hi=0, seq_hi=0, bitmap=()):
    bits = tuple(bitmap) + (0,) * (words - len(bitmap))
    return struct.pack(f"=6I{words}I", words, oseq, seq, oseq_hi, seq_hi, window, *bits)


def limits(**values):
    """The eight limits with these set, others open."""
    names = ("soft_bytes hard_bytes soft_packets hard_packets"
             " soft_add hard_add soft_use hard_use").split()
    return tuple(values.pop(n, d) for n, d in zip(names, NO_LIMITS))


def replay(oseq, seq, bitmap):
    return struct.pack("=III", oseq, seq, bitmap)


def lifetime(bytes_=0, packets=0, added=0, used=0):
    return struct.pack("=4Q", bytes_, packets, added, used)


def aead(key=bytes(range(20)), name="rfc4106(gcm(aes))", icv=128):
    return "ALG_AEAD", struct.pack("=64sII", name.encode(), 8 * len(key), icv) + key


def auth(key=bytes(range(32)), name="hmac(sha256)", trunc=128):
    return "ALG_AUTH_TRUNC", struct.pack("=64sII", name.encode(), 8 * len(key), trunc) + key


def crypt(key=bytes(range(16)), name="cbc(aes)"):
    return "ALG_CRYPT", struct.pack("=64sI", name.encode(), 8 * len(key)) + key


def comp():
    return "ALG_COMP", struct.pack("=64sI", b"deflate", 0)


@dataclass(frozen=True)
class Selector:
    dst: str = ""
    src: str = ""
    plen_d: int = 0
    plen_s: int = 0
    dport: int = 0
    dmask: int = 0
    sport: int = 0
    smask: int = 0
    family: int = 0
    proto: int = 0
    ifindex: int = 0
    user: int = 0

    def pack(self):
        return (addr(self.dst) + addr(self.src)
                + struct.pack(">4H", self.dport, self.dmask, self.sport, self.smask)
                + struct.pack("=HBBB3xiI", self.family, self.plen_d, self.plen_s,
                              self.proto, self.ifindex, self.user))


def host(dst, src, **more):
    """The selector of one pair of hosts."""
    bits = 128 if ":" in dst else 32
    return Selector(dst, src, bits, bits, family=family(dst), **more)


@dataclass(frozen=True)
class SA:
    """What NEWSA wants to know."""
    src: str
    dst: str
    spi: int
    proto: int = ESP
    mode: int = TRANSPORT
    reqid: int = 0
    sel: Selector = Selector()
    lft: tuple = NO_LIMITS
    flags: int = 0
    window: int = 0
    seq: int = 0
    attrs: dict = field(default_factory=lambda: dict([aead()]))

    def but(self, add=None, drop=(), **changes):
        """A copy with changes; add and drop are about attributes."""
        attrs_ = changes.pop("attrs", self.attrs)
        kept = {k: v for k, v in attrs_.items() if k not in drop}
        return replace(self, attrs={**kept, **(add or {})}, **changes)

    @property
    def family(self):
        return family(self.dst)

    @property
    def mark(self):
        return struct.unpack("=II", self.attrs.get("MARK", bytes(8)))

    def ident(self):
        return addr(self.dst) + struct.pack(">I", self.spi) + struct.pack(
            "=HBx", self.family, self.proto)

    def info(self):
        return (self.sel.pack() + addr(self.dst) + struct.pack(">I", self.spi)
                + struct.pack("=B3x", self.proto) + addr(self.src)
                + struct.pack("=8Q", *self.lft) + bytes(44)
                + struct.pack("=IIHBBB7x", self.seq, self.reqid, self.family,
                              self.mode, self.window, self.flags))

    def pack(self):
        return self.info() + attrs((A[k], v) for k, v in self.attrs.items())


# xfrm_usersa_info as a dump shows it: name, offset, format.
INFO = [(f"sel.{n}", o, f) for n, o, f in (
    ("daddr", 0, "16s"), ("saddr", 16, "16s"), ("dport", 32, ">H"),
    ("dport_mask", 34, ">H"), ("sport", 36, ">H"), ("sport_mask", 38, ">H"),
    ("family", 40, "=H"), ("prefixlen_d", 42, "B"), ("prefixlen_s", 43, "B"),
    ("proto", 44, "B"), ("ifindex", 48, "=i"), ("user", 52, "=I"))]
INFO += [("daddr", 56, "16s"), ("spi", 72, ">I"), ("proto", 76, "B"),
         ("saddr", 80, "16s")]
INFO += [(f"lft.{n}", 96 + 8 * i, "=Q") for i, n in enumerate(
    "soft_bytes hard_bytes soft_packets hard_packets"
    " soft_add hard_add soft_use hard_use".split())]
INFO += [(f"cur.{n}", 160 + 8 * i, "=Q") for i, n in enumerate(
    "bytes packets add_time use_time".split())]
INFO += [(f"stats.{n}", 192 + 4 * i, "=I") for i, n in enumerate(
    "replay_window replay integrity_failed".split())]
INFO += [("seq", 204, "=I"), ("reqid", 208, "=I"), ("family", 212, "=H"),
         ("mode", 214, "B"), ("replay_window", 215, "B"), ("flags", 216, "B")]
INFO_SIZE = 224


def parse_sa(body):
    """{name: value} of an SA; attributes by name, their bytes as they are."""
    sa = {name: struct.unpack_from(form, body, offset)[0] for name, offset, form in INFO}
    for kind, data in parse_attrs(body[INFO_SIZE:]):
        sa[ATTRS[kind]] = data
    return sa


def changes(before, after):
    """{name: new value} of all that differs; None where it is gone."""
    return {name: after.get(name) for name in before | after
            if before.get(name) != after.get(name)}


@dataclass(frozen=True)
class Migrate:
    """One XFRM_MSG_MIGRATE_STATE request."""
    ident: bytes = field(repr=False)
    dst: str
    src: str
    old_mark: tuple = (0, 0)
    sel: bytes = field(default=bytes(56), repr=False)
    reqid: int = 0
    flags: int = 0
    family: int = 0
    reserved: int = 0
    attrs: tuple = ()       # (name or number, bytes)

    def header(self, sel=None):
        return (self.ident + addr(self.dst) + addr(self.src) + mark(*self.old_mark)
                + (sel or self.sel) + struct.pack("=IIHH", self.reqid, self.flags,
                                                  self.family, self.reserved))

    def pack(self):
        return self.header() + attrs((A.get(k, k), v) for k, v in self.attrs)

    def but(self, add=(), **changes):
        return replace(self, attrs=self.attrs + tuple(add), **changes)


def migrate(sa, dst=None, src=None, sel=None, add=(), **changes):
    """The request that keeps all of an SA but what it is told to change."""
    dst, src = dst or sa.dst, src or sa.src
    sel = sel or sa.sel
    if not sel.family:
        sel = replace(sel, family=sa.family)
    request = Migrate(sa.ident(), dst, src, sa.mark, sel.pack(), sa.reqid,
                      family=family(dst), attrs=tuple(add))
    return replace(request, **changes)


def migrate_with_policy(direction, sel, sa, to=None):
    """XFRM_MSG_MIGRATE of an SA to the addresses of another, or to where it is,
    and of the policy that asks for it."""
    to = to or sa
    return (sel.pack() + struct.pack("=IB3x", 0, direction)
            + attrs([(A["MIGRATE"], addr(sa.dst) + addr(sa.src) + addr(to.dst) + addr(to.src)
                      + struct.pack("=BBHIHH", sa.proto, sa.mode, 0, sa.reqid,
                                    sa.family, sa.family))]))


def policy(direction, sel, sa, zero=False):
    """What NEWPOLICY wants to know for a policy with this SA as its template."""
    src, dst = ("", "") if zero else (sa.src, sa.dst)
    tmpl = addr(dst) + bytes(4) + struct.pack("=B3xH2x", sa.proto, sa.family) + addr(
        src) + struct.pack("=IBBBxIII", sa.reqid, sa.mode, 0, 0, INF & 0xffffffff,
                           INF & 0xffffffff, INF & 0xffffffff)
    info = (sel.pack() + struct.pack("=8Q", *NO_LIMITS) + bytes(32)
            + struct.pack("=IIBBBB4x", 0, 0, direction, 0, 0, 0))
    return info + attrs([(A["TMPL"], tmpl)])


class Xfrm(Netlink):
    """A NETLINK_XFRM socket of the network namespace it was made in."""

    def __init__(self, groups=()):
        super().__init__(getattr(socket, "NETLINK_XFRM", 6), groups)

    def must(self, kind, body, flags=0):
        reply = self.request(kind, body, flags)
        if reply.errno:
            raise OSError(reply.errno, f"message {kind:#x}: {reply.text}")
        return reply.messages

    def new(self, sa):
        self.must(NEWSA, sa.pack(), netlink.CREATE | netlink.EXCL)
        return sa

    def update(self, sa):
        self.must(UPDSA, sa.pack())

    def delete(self, sa):
        return self.request(DELSA, sa.ident() + self._mark(sa))

    def get(self, sa):
        """The SA as the kernel has it, or None."""
        reply = self.request(GETSA, sa.ident() + self._mark(sa))
        return parse_sa(reply.messages[0].body) if reply.messages else None

    @staticmethod
    def _mark(sa):
        return attrs([(A["MARK"], sa.attrs["MARK"])]) if "MARK" in sa.attrs else b""

    def all(self):
        return [parse_sa(m.body) for m in self.must(GETSA, b"", netlink.DUMP)]

    def flush(self):
        self.request(FLUSHSA, b"\0\0\0\0")

    def count(self):
        """The SAs the kernel counts, which is more than a dump may show."""
        message, = self.must(GETSADINFO, u32(0))
        return struct.unpack("=I", dict(parse_attrs(message.body[4:]))[1])[0]

    def alloc_spi(self, sa):
        """A larval SA with the address, SPI and protocol of this one."""
        low = struct.pack("=II", sa.spi, sa.spi)
        self.must(ALLOCSPI, sa.info() + low + self._mark(sa))
        return sa

    def policy(self, direction, sel, sa, update=False, zero=False):
        """Asks for this SA; zero leaves the template's addresses open."""
        self.must(UPDPOLICY if update else NEWPOLICY, policy(direction, sel, sa, zero))

    def thresholds(self, sa):
        """(replay_maxdiff, replay_maxage), which only GETAE shows."""
        flags = 4 | 8 | 1 | 2
        body = sa.ident() + addr(sa.src) + struct.pack("=II", flags, sa.reqid)
        message, = self.must(GETAE, body + self._mark(sa))
        found = dict(parse_attrs(message.body[48:]))
        return found[A["REPLAY_THRESH"]], found[A["ETIMER_THRESH"]]

    def set_ae(self, sa, add):
        """Overwrites counters: add is [(attribute, bytes)]."""
        body = sa.ident() + addr(sa.src) + struct.pack("=II", 0, sa.reqid)
        self.must(NEWAE, body + attrs((A[k], v) for k, v in add) + self._mark(sa),
                  netlink.REPLACE)

    def migrate(self, request, port=0):
        return self.request(MIGRATE_STATE, request.pack(), port=port)

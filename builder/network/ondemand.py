"""A way out of a hub that is made when a step first sends something outside.

::

    step ── bridge ── hub ── its last default route: a tun device, which the hub's process reads
                                   │ a first packet: `make_pair`, whose route comes before this one
                                   ▼
                             the packets go on by a raw socket

Most steps send nothing, and of the host's end of a pair of devices a build without network pays the kernel's grace
periods: up to 30 ms to take it down (docs/performance.md).

Invariants: this way is taken only where all was seen to work that a pair of devices takes; until a packet comes there
is nothing of the build on the host, and no packet is lost for it; steps see the same as with a pair.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from itertools import chain

from builder.network.firewall import is_passable
from builder.network.forwarding import PREFIX, is_within_reach
from builder.network.nat import OIF, POSTROUTING, SOURCE_NAT, Chain, Match, OwnedTable, Rule, can_translate
from builder.network.uplinks import INDEX, NAME, Ground, Uplink, host_address, host_mtu, lead_out, make_pair
from unionfs.namedtuple import NamedTuple

_DEVICE, _INDEX = "waiting", 4
# behind the route of every other device
_LAST_PRIORITY = 1 << 16
# if_tun.h
_TUNSETIFF, _TUNSETPERSIST, _TUNSETIFINDEX = 0x4004_54CA, 0x4004_54CB, 0x4004_54DA
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000
_PACKET_BYTES, _MOST_PACKETS = 1 << 16, 64
_MOST_ROUNDS = 16
_SO_BINDTODEVICE = 25  # asm-generic/socket.h
_DESTINATION = slice(16, 20)  # of an IPv4 header, RFC 791
_LEAST_BYTES, _IPV4 = 20, 4


class Trap(NamedTuple):
    """What packets run into: ``device`` reads them, ``sender`` sends them on. Both belong to the hub's namespace."""

    device: int
    sender: int


def lay_trap() -> Trap:
    """One in the caller's network namespace, not in use yet.

    Raises:
        OSError: there is no tun device, or this process may not have one.
    """
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(device, _TUNSETIFINDEX, struct.pack("=I", _INDEX))
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("=16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    # it goes with its namespace, in the kernel's own time; else closing it would wait for that
    fcntl.ioctl(device, _TUNSETPERSIST, 1)
    sender = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
    return Trap(device, sender.detach())


def can_wait(ground: Ground) -> bool:
    """Whether a pair of devices can be made later as well as now: nothing forbids it, and nobody has left a mess."""
    try:
        return ground.host.may_be_changed() and is_passable() and is_within_reach() and can_translate(ground.filter)
    except OSError:
        return False


class PairOnDemand:
    """A pair of devices that is made at the first packet; `uplink` is what there will be."""

    def __init__(self, ground: Ground, trap: Trap) -> None:
        """Packets that would leave the hub come to ``trap``, which belongs to this object now.

        Raises:
            OSError: they don't.
        """
        self._ground = ground
        self._device = trap.device
        self._sender = socket.socket(fileno=trap.sender)
        self._block = ground.next_block()
        self._made: Uplink | None = None
        mtu = host_mtu(ground.host)
        ground.hub.raise_up(_INDEX, mtu)
        ground.hub.add_route(_INDEX, priority=_LAST_PRIORITY)
        self.uplink = Uplink("bridge", self._block, (), host_address(self._block), mtu, self._close)

    def fileno(self) -> int:
        """Readable while packets wait for `serve`."""
        return self._device

    def serve(self) -> str:
        """The packets that wait are on their way; else they are lost, and why there is no way is said."""
        packets = self._read()
        if packets and self._made is None:
            try:
                self._made = self._make()
                if self._made.block == self._block:
                    self._send_all_that_wait(packets)
                    packets = []
                lead_out(self._ground, self._made)
            except OSError as error:
                return (error.strerror or str(error)).lower()
            packets += self._read()
        self._send(packets)
        return ""

    def give_up(self) -> None:
        """Who sends something is told from now on that there is no way."""
        self._ground.hub.remove(_INDEX)

    def _make(self) -> Uplink:
        """A pair that only what `_send` sends goes by.

        Another build may have got the block meanwhile: then steps are hidden behind the hub.
        """
        made = make_pair(self._ground._replace(blocks=chain((self._block,), self._ground.blocks)))
        try:
            if made.block != self._block:
                rules = (Rule((Match(OIF, INDEX),), "masquerade"),)
                nat = Chain("nat", "nat", POSTROUTING, SOURCE_NAT, rules)
                OwnedTable(PREFIX, nat, made=self._ground.filter)
            lead_out(self._ground, made, priority=_LAST_PRIORITY + 1)
            self._sender.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, NAME.encode())
        except BaseException:
            made.close()
            raise
        return made

    def _send_all_that_wait(self, packets: list[bytes]) -> None:
        """``packets`` and those behind them are on their way before any that comes.

        Of the first packets of a connection that are translated on two processors at once, the kernel may lose one
        (nf_conntrack_core.c, clashes). Where the hub translates too that must not be: a connection whose packets
        leave by two devices is forgotten (nf_nat_oif_changed).
        """
        for _ in range(_MOST_ROUNDS):
            self._send(packets)
            packets = self._read()
            if not packets:
                break
        self._send(packets)

    def _send(self, packets: list[bytes]) -> None:
        for packet in packets:
            # one that can't be sent is lost, as any may be
            with contextlib.suppress(OSError):
                self._sender.sendto(packet, (socket.inet_ntoa(packet[_DESTINATION]), 0))

    def _read(self) -> list[bytes]:
        """The packets that wait, but for those of IPv6: the kernel's own, which looks for neighbours."""
        packets: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while len(packets) < _MOST_PACKETS:
                packet = os.read(self._device, _PACKET_BYTES)
                if len(packet) >= _LEAST_BYTES and packet[0] >> 4 == _IPV4:
                    packets.append(packet)
        return packets

    def _close(self) -> None:
        if self._made is not None:
            self._made.close()

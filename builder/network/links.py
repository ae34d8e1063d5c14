"""Devices, addresses and routes of one network namespace, by rtnetlink(7).

Invariants: a function here is one or two requests, and a device is named by its index, which the caller chooses where
it can; what a request made is undone by removing its device.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Self

from builder.network.netlink import (
    ACK,
    CREATE,
    EXCLUSIVE,
    ROUTE,
    Message,
    Netlink,
    attribute,
    attributes,
    named,
    nested,
    open_socket,
)
from unionfs.namedtuple import NamedTuple

_NEWLINK, _DELLINK, _GETLINK, _SETLINK, _NEWADDR, _NEWROUTE, _GETROUTE = 16, 17, 18, 19, 20, 24, 26
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")

_IFF_UP = 1
# if_link.h
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_PROTINFO = 1, 3, 4, 10, 12
_IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 16, 18, 26, 28
_OPERATIONAL = b"\x06"  # RFC 2863, as the kernel numbers it (if.h)
_INFO_KIND, _INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_INET_CONF, _DEVCONF_FORWARDING = 1, 1
_BRPORT_ISOLATED = 33
_AF_BRIDGE = 7
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 4, 5, 6
_TABLE_MAIN, _PROTOCOL_STATIC, _SCOPE_UNIVERSE, _UNICAST = 254, 4, 0, 1
_MAKE = ACK | CREATE | EXCLUSIVE
_NO_DEVICE = (1 << 31) - 1


class End(NamedTuple):
    """One end of a pair of devices, by name and number; an empty ``mac`` and ``mtu`` 0 are for the kernel to choose."""

    name: str
    number: int
    mac: bytes = b""
    mtu: int = 0


class Links:
    """What can be changed in one namespace; a context manager."""

    def __init__(self, made: socket.socket | None = None) -> None:
        """``made`` is a socket of the namespace that is meant (`open_socket`), None for the caller's own."""
        self._netlink = Netlink(made or open_socket(ROUTE))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._netlink.close()

    def add_bridge(self, name: str, index: int) -> None:
        """A bridge is there, and up."""
        body = _link(index, _IFF_UP) + named(_IFLA_IFNAME, name)
        self._netlink.request(Message(_NEWLINK, body + nested(_IFLA_LINKINFO, attribute(_INFO_KIND, b"bridge")), _MAKE))

    def add_pair(self, near: End, far: End, far_namespace: int, *, master: int = 0) -> None:
        """Two joined devices are there: ``near`` here, up, and a port of ``master`` if given, ``far`` there, down.

        Ports reach their bridge, and what isn't one of them, but not each other. veth(4), bridge(8) "isolated".

        Raises:
            FileExistsError: a device with that name or number is there.
        """
        peer = nested(_VETH_INFO_PEER, _describe(far, 0), attribute(_IFLA_NET_NS_FD, struct.pack("=I", far_namespace)))
        info = nested(_IFLA_LINKINFO, attribute(_INFO_KIND, b"veth"), nested(_INFO_DATA, peer))
        joined = attribute(_IFLA_MASTER, struct.pack("=I", master)) if master else b""
        messages = [Message(_NEWLINK, _describe(near) + joined + info, _MAKE)]
        if master:
            isolated = nested(_IFLA_PROTINFO, attribute(_BRPORT_ISOLATED, b"\1"))
            messages.append(Message(_SETLINK, _link(near.number, family=_AF_BRIDGE) + isolated))
        self._netlink.request(*messages)

    def raise_up(self, index: int, mtu: int = 0) -> None:
        """The device is up; ``mtu`` 0 leaves it as it is."""
        most = attribute(_IFLA_MTU, struct.pack("=I", mtu)) if mtu else b""
        self._netlink.request(Message(_SETLINK, _link(index, _IFF_UP) + most))

    def carries(self, index: int) -> bool:
        """Whether what is sent by the device, which is up, isn't thrown away: the kernel activates it a little later.

        To be asked makes it do so since Linux 6.9 (linkwatch_sync_dev).
        """
        for body in self._netlink.get(Message(_GETLINK, _link(index))):
            state = dict(attributes(body[_LINK.size :])).get(_IFLA_OPERSTATE, b"")
            return state[:1] == _OPERATIONAL
        return False

    def may_be_changed(self) -> bool:
        """Whether this process may change devices here: asked with one that is nobody's."""
        try:
            self.remove(_NO_DEVICE)
        except OSError as error:
            return error.errno == errno.ENODEV
        return True

    def remove(self, index: int) -> None:
        """The device is gone, and what it was joined to."""
        self._netlink.request(Message(_DELLINK, _link(index)))

    def forward(self, index: int, *, on: bool = True) -> None:
        """What comes in by the device is routed on, or is not: ``net.ipv4.conf.*.forwarding``, without /proc/sys."""
        value = attribute(_DEVCONF_FORWARDING, struct.pack("=I", on))
        family = nested(socket.AF_INET, nested(_IFLA_INET_CONF, value))
        self._netlink.request(Message(_SETLINK, _link(index) + nested(_IFLA_AF_SPEC, family)))

    def add_address(self, index: int, address: str, prefix: int) -> None:
        """The device has the address, and the network around it is reached by it."""
        packed = socket.inet_aton(address)
        body = _ADDRESS.pack(socket.AF_INET, prefix, 0, _SCOPE_UNIVERSE, index)
        self._netlink.request(
            Message(_NEWADDR, body + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed), _MAKE)
        )

    def add_route(
        self, index: int, gateway: str = "", network: str = "", prefix: int = 0, *, priority: int = 0
    ) -> None:
        """``network`` is reached over ``gateway``, by default all that nothing else is known of.

        Without a gateway all of it is at the other end of the device. Of two routes to the same network the one of the
        lower ``priority`` is taken.

        Raises:
            FileExistsError: that network has a route; of two who ask at once, one gets it.
        """
        header = _ROUTE.pack(socket.AF_INET, prefix, 0, 0, _TABLE_MAIN, _PROTOCOL_STATIC, _SCOPE_UNIVERSE, _UNICAST, 0)
        body = header + attribute(_RTA_OIF, struct.pack("=I", index))
        if gateway:
            body += attribute(_RTA_GATEWAY, socket.inet_aton(gateway))
        if priority:
            body += attribute(_RTA_PRIORITY, struct.pack("=I", priority))
        if prefix:
            body += attribute(_RTA_DST, socket.inet_aton(network))
        self._netlink.request(Message(_NEWROUTE, body, _MAKE))

    def networks(self) -> Iterator[tuple[int, int]]:
        """The networks that have a route of their own, addresses of devices among them: address and prefix length."""
        for body in self._netlink.dump(Message(_GETROUTE, _ROUTE.pack(socket.AF_INET, *[0] * 8))):
            prefix = _ROUTE.unpack_from(body)[1]
            for kind, payload in attributes(body[_ROUTE.size :]):
                if kind == _RTA_DST:
                    yield int.from_bytes(payload, "big"), prefix

    def default_device(self) -> int | None:
        """The device by which everything is reached that nothing else is known of, if there is one."""
        for body in self._netlink.dump(Message(_GETROUTE, _ROUTE.pack(socket.AF_INET, *[0] * 8))):
            header = _ROUTE.unpack_from(body)
            if header[1] == 0 and header[7] == _UNICAST:
                for kind, payload in attributes(body[_ROUTE.size :]):
                    if kind == _RTA_OIF:
                        return int(struct.unpack("=I", payload)[0])
        return None


def _link(index: int, flags: int = 0, family: int = 0) -> bytes:
    return _LINK.pack(family, 0, index, flags, flags)


def _describe(end: End, flags: int = _IFF_UP) -> bytes:
    mac = attribute(_IFLA_ADDRESS, end.mac) if end.mac else b""
    mtu = attribute(_IFLA_MTU, struct.pack("=I", end.mtu)) if end.mtu else b""
    return _link(end.number, flags) + named(_IFLA_IFNAME, end.name) + mac + mtu

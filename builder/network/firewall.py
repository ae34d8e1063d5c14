"""What the machine's own firewall does with packets that are passed on, and a way through it for one device.

Every table of nftables may drop a packet, so that our own accepting it doesn't help. docker and ufw give the chain
FORWARD of iptables (which is nftables below) the policy DROP; whoever has packets passed on puts rules of his own
there, as docker, podman and libvirt do. Other tables are the administrator's and are left alone.

Invariants: rules are of the kind that iptables shows and takes; a rule of ours names one of our devices, and goes with
its build, or, where that was killed, when the next one comes.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from collections.abc import Iterator

from builder.network import nat
from builder.network.forwarding import PREFIX
from builder.network.netlink import NETFILTER, Netlink, attributes, open_socket
from unionfs.namedtuple import NamedTuple

_DROP = 0
_IPTABLES = "filter", "FORWARD"
# says yes with its policy and no with its last rule
_FIREWALLD = "firewalld"
_OURS = re.compile(rb"\0(" + PREFIX.encode() + rb"[0-9a-f]{6})\0")


class FirewallError(OSError):
    """The machine's firewall lets nothing through that is passed on; ``strerror`` says where."""

    def __init__(self, reason: str) -> None:
        super().__init__(0, reason)


class Hook(NamedTuple):
    """A chain that sees what is passed on, and by default drops it."""

    family: int
    table: str
    chain: str

    @property
    def is_of_iptables(self) -> bool:
        """Whether it is where others put rules too."""
        return self.family == nat.IPV4 and (self.table, self.chain) == _IPTABLES


def is_passable() -> bool:
    """Whether `let_through` will find a way. Rules that a killed build has left are gone."""
    try:
        with Netlink(open_socket(NETFILTER)) as netlink:
            if _needs_rules(netlink):
                _sweep(netlink)
    except FirewallError:
        return False
    return True


def let_through(device: str) -> bool:
    """Packets from and to ``device`` pass the machine's firewall; whether rules were needed for that.

    Rules that a killed build has left are gone.

    Raises:
        FirewallError: they don't, by a table that is not for us to change.
    """
    with Netlink(open_socket(NETFILTER)) as netlink:
        if not _needs_rules(netlink):
            return False
        _sweep(netlink)
        rules = [nat.Rule((nat.Match(key, device.encode() + b"\0"),), "accept") for key in (nat.IIFNAME, nat.OIFNAME)]
        netlink.request(*nat.insert_rules(nat.IPV4, *_IPTABLES, *rules))
    return True


def let_through_no_more(device: str) -> None:
    """The rules of ``device`` are gone, if there still are any."""
    with Netlink(open_socket(NETFILTER)) as netlink, contextlib.suppress(FileNotFoundError):
        _remove(netlink, {device})


def _needs_rules(netlink: Netlink) -> bool:
    """Whether nothing is passed on without rules.

    Raises:
        FirewallError: nothing is with them either.
    """
    hooks = list(closed_hooks(netlink.dump(nat.list_chains())))
    for hook in hooks:
        if not hook.is_of_iptables:
            raise FirewallError(f"chain {hook.chain!r} of the firewall's table {hook.table!r} drops packets")
    return bool(hooks)


def _sweep(netlink: Netlink) -> None:
    """Rules of builds that are gone are gone."""
    _remove(netlink, {name for _handle, name in _rules(netlink) if not _is_there(name)})


def closed_hooks(chains: list[bytes]) -> Iterator[Hook]:
    """Those of ``chains``, as the kernel lists them, that drop IPv4 packets which are passed on. Pure."""
    for body in chains:
        family = body[0]
        found = dict(attributes(body[4:]))
        hook = dict(attributes(found.get(nat.CHAIN_HOOK, b"")))
        if family not in {nat.INET, nat.IPV4} or hook.get(1) != struct.pack(">I", nat.FORWARD):
            continue
        table, chain = (found[key].rstrip(b"\0").decode("utf-8", "replace") for key in (1, 3))
        if found.get(nat.CHAIN_POLICY) == struct.pack(">I", _DROP) or table == _FIREWALLD:
            yield Hook(family, table, chain)


def _rules(netlink: Netlink) -> Iterator[tuple[bytes, str]]:
    """Rules of builds in the chain of iptables: handle, and device."""
    for body in netlink.dump(nat.list_rules(nat.IPV4, *_IPTABLES)):
        found = dict(attributes(body[4:]))
        device = _OURS.search(found.get(nat.RULE_EXPRESSIONS, b""))
        if device:
            yield found[nat.RULE_HANDLE], device[1].decode()


def _remove(netlink: Netlink, devices: set[str]) -> None:
    handles = [handle for handle, name in _rules(netlink) if name in devices]
    if handles:
        netlink.request(*nat.delete_rules(nat.IPV4, *_IPTABLES, *handles))


def _is_there(device: str) -> bool:
    try:
        return socket.if_nametoindex(device) > 0
    except OSError:
        return False

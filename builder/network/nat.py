"""Rules of nftables that belong to one process: the kernel removes them when it ends, in whatever way.

Invariants: a table here is *owned* by the socket it was made over (``NFT_TABLE_F_OWNER``, since Linux 5.12), nobody
else changes it and it goes with the socket; rules name devices by number, so they say the same of every family.
"""

from __future__ import annotations

import socket
import struct
from typing import Self

from builder.network.netlink import ACK, CREATE, NETFILTER, Message, Netlink, attribute, named, nested, open_socket
from unionfs.namedtuple import NamedTuple

INET, IPV4 = 1, 2
FORWARD, POSTROUTING = 2, 4
IIF, OIF, IIFNAME, OIFNAME = 4, 5, 6, 7
SOURCE_NAT = 100

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_TABLES = 10
_NEWTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN, _NEWRULE, _GETRULE, _DELRULE = 0, 2, 3, 4, 6, 7, 8
CHAIN_HOOK, CHAIN_POLICY = 4, 5
RULE_HANDLE, RULE_EXPRESSIONS = 3, 4
"""Attributes of chains and rules (nf_tables.h)."""

_TRIAL = "trial"
_OWNER = 2
_EQUAL, _UNEQUAL = 0, 1
_REGISTER = 1
_DROP, _ACCEPT = 0, 1
_APPEND = 0x800


class Match(NamedTuple):
    """A rule is for packets whose device is this one, or is another; a name matches by how it begins."""

    key: int
    value: int | bytes
    equal: bool = True


class _State(NamedTuple):
    """A rule is for packets of connections in none of these states."""

    states: int


INDEPENDENT = _State(2 | 4)
"""A rule is for packets that answer nothing: neither established nor related (nf_conntrack_common.h)."""


class Rule(NamedTuple):
    """What becomes of packets that match: ``masquerade``, ``drop`` or ``accept``."""

    matches: tuple[Match | _State, ...]
    verdict: str


class Chain(NamedTuple):
    """Rules at a hook of the kernel's; what none of them decides is accepted."""

    name: str
    kind: str
    hook: int
    priority: int
    rules: tuple[Rule, ...]


class OwnedTable:
    """A table of nftables that lasts as long as this object; a context manager."""

    def __init__(self, name: str, *chains: Chain, made: socket.socket | None = None) -> None:
        """The table is in force, all of it at once; ``made`` is as in `Links`.

        Raises:
            OSError: the kernel has no nftables, or doesn't let this process use them.
        """
        self._netlink = Netlink(made or open_socket(NETFILTER))
        try:
            self._netlink.request(*_batch(_table(name), *(part for chain in chains for part in _chain(name, chain))))
        except BaseException:
            self._netlink.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """The table is gone."""
        self._netlink.close()


def can_translate(made: socket.socket) -> bool:
    """Whether the kernel can hide addresses behind those of others; ``made`` is left open, its namespace as it was.

    Nobody's table is made and removed: taking down one that is owned waits for a grace period of the kernel's.
    """
    chain = Chain("nat", "nat", POSTROUTING, SOURCE_NAT, (Rule((), "masquerade"),))
    netlink = Netlink(made)
    try:
        netlink.request(*_batch(_message(_NEWTABLE, named(1, _TRIAL)), *_chain(_TRIAL, chain)))
        netlink.request(*_batch(_message(_DELTABLE, named(1, _TRIAL))))
    except OSError:
        netlink.forget_answers()
        return False
    return True


def _batch(*messages: Message) -> tuple[Message, ...]:
    """``messages`` as something that is done as a whole or not at all."""
    frame = struct.pack(">BBH", 0, 0, _TABLES)
    return (Message(_BATCH_BEGIN, frame, 0), *messages, Message(_BATCH_END, frame, 0))


def list_chains() -> Message:
    """A request for all chains of all families, for `Netlink.dump`."""
    return _message(_GETCHAIN, b"", family=0)


def list_rules(family: int, table: str, chain: str) -> Message:
    """A request for the rules of a chain, for `Netlink.dump`."""
    return _message(_GETRULE, named(1, table) + named(2, chain), family=family)


def insert_rules(family: int, table: str, chain: str, *rules: Rule) -> tuple[Message, ...]:
    """Requests that put ``rules`` at the beginning of a chain that is somebody else's, all or none."""
    place = named(1, table) + named(2, chain)
    return _batch(*(_message(_NEWRULE, place + _rule(rule), family=family) for rule in rules))


def delete_rules(family: int, table: str, chain: str, *handles: bytes) -> tuple[Message, ...]:
    """Requests that remove rules by what the kernel calls them."""
    place = named(1, table) + named(2, chain)
    return _batch(*(_message(_DELRULE, place + attribute(RULE_HANDLE, handle), family=family) for handle in handles))


def _message(kind: int, body: bytes, flags: int = 0, family: int = INET) -> Message:
    return Message(_TABLES << 8 | kind, struct.pack(">BBH", family, 0, 0) + body, ACK | CREATE | flags)


def _number(kind: int, number: int) -> bytes:
    return attribute(kind, struct.pack(">I", number & 0xFFFF_FFFF))


def _table(name: str) -> Message:
    return _message(_NEWTABLE, named(1, name) + _number(2, _OWNER))


def _chain(table: str, chain: Chain) -> tuple[Message, ...]:
    hook = nested(CHAIN_HOOK, _number(1, chain.hook), _number(2, chain.priority))
    head = named(1, table) + named(3, chain.name) + hook + _number(CHAIN_POLICY, _ACCEPT) + named(7, chain.kind)
    rules = [_message(_NEWRULE, named(1, table) + named(2, chain.name) + _rule(rule), _APPEND) for rule in chain.rules]
    return (_message(_NEWCHAIN, head), *rules)


def _rule(rule: Rule) -> bytes:
    expressions = [part for match in rule.matches for part in _match(match)]
    return nested(RULE_EXPRESSIONS, *expressions, _verdict(rule.verdict))


def _expression(name: str, *data: bytes) -> bytes:
    return nested(1, named(1, name), nested(2, *data))


def _match(match: Match | _State) -> tuple[bytes, ...]:
    if isinstance(match, _State):
        load = _expression("ct", _number(2, 0), _number(1, _REGISTER))
        masked = _expression(
            "bitwise",
            _number(1, _REGISTER),
            _number(2, _REGISTER),
            _number(3, 4),
            nested(4, attribute(1, struct.pack("=I", match.states))),
            nested(5, attribute(1, bytes(4))),
        )
        return load, masked, _compare(bytes(4), equal=True)
    value = match.value if isinstance(match.value, bytes) else struct.pack("=I", match.value)
    load = _expression("meta", _number(2, match.key), _number(1, _REGISTER))
    return load, _compare(value, equal=match.equal)


def _compare(value: bytes, *, equal: bool) -> bytes:
    operation = _EQUAL if equal else _UNEQUAL
    return _expression("cmp", _number(1, _REGISTER), _number(2, operation), nested(3, attribute(1, value)))


def _verdict(verdict: str) -> bytes:
    if verdict == "masquerade":
        return _expression("masq")
    code = _ACCEPT if verdict == "accept" else _DROP
    return _expression("immediate", _number(1, 0), nested(2, nested(2, _number(1, code))))

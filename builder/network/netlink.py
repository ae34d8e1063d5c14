"""Requests to the kernel over netlink, each answered before the next is made. netlink(7).

Invariants: a request that the kernel refuses is an ``OSError`` with the kernel's errno and, where it gave one, its own
words; a socket belongs to the network namespace it was made in, wherever its process goes afterwards.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Self

from unionfs.namedtuple import NamedTuple

ROUTE, NETFILTER = 0, 12

REQUEST, ACK, EXCLUSIVE, CREATE = 1, 4, 0x200, 0x400
DUMP = 0x300
NESTED = 0x8000

_ERROR, _DONE = 2, 3
_SOL_NETLINK = 270
_EXT_ACK, _CAP_ACK = 11, 10
_ERROR_TEXT = 1
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE_BYTES = 1 << 16


class Message(NamedTuple):
    """A request; ``body`` is the family's own header and attributes. Only where ``flags`` have `ACK` is it answered."""

    kind: int
    body: bytes
    flags: int = ACK


def attribute(kind: int, *payloads: bytes) -> bytes:
    """An attribute, padded to its alignment; several payloads lie one after the other."""
    payload = b"".join(payloads)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def named(kind: int, name: str) -> bytes:
    """An attribute that holds a name."""
    return attribute(kind, name.encode() + b"\0")


def nested(kind: int, *payloads: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, *payloads)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in ``data``: kind without its flags, and payload."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : length]
        data = data[length + -length % 4 :]


def open_socket(protocol: int) -> socket.socket:
    """A socket to this part of the kernel, in the caller's network namespace."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)


class Netlink:
    """A socket to one part of the kernel, a context manager."""

    def __init__(self, made: socket.socket) -> None:
        """``made`` comes from `open_socket`, and is this object's from now on."""
        self._socket = made
        for option in (_EXT_ACK, _CAP_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """What the kernel keeps for this socket alone is gone."""
        self._socket.close()

    def request(self, *messages: Message) -> None:
        """The kernel has done what all of ``messages`` say, in their order.

        Raises:
            OSError: the first that it refused; those before it are done, unless the family says otherwise.
        """
        first = self._sequence + 1
        awaited = self._send(messages)
        failure: OSError | None = None
        while awaited:
            for kind, sequence, body in self._receive():
                if kind != _ERROR or sequence < first:
                    continue
                failed = _failure(body)
                failure = failure or failed
                if failed is not None and sequence not in awaited:
                    # a whole batch is refused in the name of its beginning
                    raise failed
                awaited.discard(sequence)
        if failure is not None:
            raise failure

    def forget_answers(self) -> None:
        """Nothing that the kernel has said meanwhile will be taken for an answer to what comes."""
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT):
                pass

    def get(self, message: Message) -> list[bytes]:
        """The bodies of what the kernel answers ``message`` with.

        Raises:
            OSError: it refuses.
        """
        self._send((message,))
        found: list[bytes] = []
        while True:
            for kind, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                if kind != _ERROR:
                    found.append(body)
                    continue
                failure = _failure(body)
                if failure is not None:
                    raise failure
                return found

    def dump(self, message: Message) -> list[bytes]:
        """The bodies of all that the kernel lists for ``message``."""
        self._send((message._replace(flags=DUMP),))
        found: list[bytes] = []
        while True:
            for kind, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                failure = _failure(body) if kind == _ERROR else None
                if failure is not None:
                    raise failure
                if kind == _DONE:
                    return found
                found.append(body)

    def _send(self, messages: tuple[Message, ...]) -> set[int]:
        """All are sent; the numbers of those that are answered."""
        frames: list[bytes] = []
        awaited: set[int] = set()
        for message in messages:
            self._sequence += 1
            if message.flags & ACK:
                awaited.add(self._sequence)
            header = _HEADER.pack(
                _HEADER.size + len(message.body), message.kind, message.flags | REQUEST, self._sequence, 0
            )
            frames.append(header + message.body + bytes(-len(message.body) % 4))
        self._socket.sendall(b"".join(frames))
        return awaited

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        data = self._socket.recv(_RECEIVE_BYTES)
        while data:
            length, kind, _flags, sequence, _port = _HEADER.unpack_from(data)
            yield kind, sequence, data[_HEADER.size : length]
            data = data[length + -length % 4 :]


def _failure(body: bytes) -> OSError | None:
    """What an answer complains of; None where it is an acknowledgement."""
    (code,) = struct.unpack_from("=i", body)
    if not code:
        return None
    words = os.strerror(-code)
    for kind, payload in attributes(body[4 + _HEADER.size :]):
        if kind == _ERROR_TEXT:
            words = f"{words} ({payload.rstrip(bytes(1)).decode('ascii', 'replace')})"
    return OSError(-code, words)

"""Typed JSON messages, framed by length, over a stream socket, with descriptors beside them.

::

    frame   =  length (u32, big endian)  |  JSON object in UTF-8, ``length`` bytes
    descriptors travel as SCM_RIGHTS with the first byte of their frame, at most MAX_DESCRIPTORS of them

Invariants: a received descriptor is close-on-exec and belongs to the receiver; a peer that breaks the framing is an
error (`WireError`), never a partial message; end of file between two frames is an orderly end.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

from unionfs.namedtuple import NamedTuple

MAX_FRAME_BYTES = 16 << 20
MAX_DESCRIPTORS = 16
_LENGTH = struct.Struct(">I")

Message = dict[str, Any]


class WireError(Exception):
    """The peer sent what is no frame, or went away in the middle of one."""


class Received(NamedTuple):
    """One message; the caller closes ``fds``."""

    message: Message
    fds: tuple[int, ...]


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """The whole frame is in the socket; ``fds`` stay open here.

    Raises:
        WireError: the frame or the number of descriptors is above the limit.
        OSError: EPIPE and its like when the peer is gone.
    """
    send_frame(sock, encode(message), fds)


def encode(message: Message) -> bytes:
    """The frame of ``message``. Raises WireError where it is above the limit."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise WireError(f"message of {len(body)} bytes, at most {MAX_FRAME_BYTES} go into a frame")
    return _LENGTH.pack(len(body)) + body


def send_frame(sock: socket.socket, frame: bytes, fds: Sequence[int] = ()) -> None:
    """As `send`, of a message that is encoded already."""
    if len(fds) > MAX_DESCRIPTORS:
        raise WireError(f"{len(fds)} descriptors, at most {MAX_DESCRIPTORS} go with a frame")
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([frame], ancillary, socket.MSG_NOSIGNAL)
    if sent < len(frame):
        sock.sendall(frame[sent:])


def receive(sock: socket.socket) -> Received | None:
    """The next message, or None when the peer has ended the stream.

    Raises:
        WireError: a frame is cut off, too long, or no JSON object.
    """
    fds: list[int] = []
    try:
        head = _read(sock, _LENGTH.size, fds)
        if not head:
            return None
        (length,) = _LENGTH.unpack(head)
        if length > MAX_FRAME_BYTES:
            raise WireError(f"frame of {length} bytes, at most {MAX_FRAME_BYTES} are taken")
        message = json.loads(_read(sock, length, fds, within_frame=True))
        if not isinstance(message, dict):
            raise WireError(f"expected a JSON object, got {type(message).__name__}")
    except ValueError as error:
        _close(fds)
        raise WireError(f"frame is no JSON: {error}") from error
    except BaseException:
        _close(fds)
        raise
    return Received(message, tuple(fds))


def _read(sock: socket.socket, size: int, fds: list[int], *, within_frame: bool = False) -> bytes:
    data = bytearray()
    room = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
    while len(data) < size:
        chunk, ancillary, _flags, _peer = sock.recvmsg(size - len(data), room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                fds.extend(numbers)
        if not chunk:
            if data or within_frame:
                raise WireError(f"peer went away after {len(data)} of {size} bytes")
            return b""
        data += chunk
    return bytes(data)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)

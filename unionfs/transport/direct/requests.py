"""The form every request handler has, and the requests without a home elsewhere.

A handler gets the node number, the body of the request and the caller. It returns the payload of the reply, or
None where the protocol wants no reply. A refusal is an
``OSError``. The body is a view of a buffer that the next request overwrites: what is to be kept is copied.
"""

from __future__ import annotations

from collections.abc import Callable

from unionfs.types import Caller, Ino

Payload = bytes | None
Handler = Callable[[Ino, memoryview, Caller], Payload]

DONE = b""
"""Success that carries nothing."""
NO_REPLY = None


def name_of(body: memoryview, offset: int = 0) -> bytes:
    """The one NUL-terminated name from ``offset`` to the end."""
    return bytes(body[offset:-1])


def names_of(body: memoryview, offset: int = 0) -> tuple[bytes, bytes]:
    """Two NUL-terminated names, one after the other."""
    first, second, _rest = bytes(body[offset:]).split(b"\0", 2)
    return first, second

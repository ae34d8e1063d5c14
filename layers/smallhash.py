"""SHA-256 of what is small: the interpreter's own, since OpenSSL takes four milliseconds to load.

That is a twentieth of a fully cached build, which hashes a few kilobytes. Of what is large `hashlib` is five times as
fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast


class RunningHash(Protocol):
    """What ``hashlib.sha256`` gives."""

    def update(self, content: bytes | bytearray | memoryview, /) -> None:
        """``content`` follows what came before."""
        ...

    def hexdigest(self) -> str:
        """The 64 hex digits of all that came."""
        ...


class _Algorithm(Protocol):
    def __call__(self, content: bytes | bytearray | memoryview, /) -> RunningHash: ...


LARGE_BYTES = 1 << 16
"""From here on loading OpenSSL costs less than doing without."""


def _own() -> _Algorithm:
    for name in ("_sha2", "_sha256", "hashlib"):
        try:
            return cast("_Algorithm", import_module(name).sha256)
        except (ImportError, AttributeError):
            # a Python may be built without it
            continue
    raise ImportError("this Python has no SHA-256")


_sha256 = _own()


class Sha256:
    """The SHA-256 of what it is given piece by piece, as ``hashlib.sha256`` and without it while that is little."""

    def __init__(self, content: bytes = b"") -> None:
        self._small = bytearray(content)
        self._large: RunningHash | None = None

    def update(self, content: bytes) -> None:
        """``content`` follows what came before."""
        if self._large is not None:
            self._large.update(content)
            return
        self._small += content
        if len(self._small) >= LARGE_BYTES:
            import hashlib

            self._large = hashlib.sha256(self._small)

    def hexdigest(self) -> str:
        """The 64 hex digits of all that came."""
        return hex_sha256(self._small) if self._large is None else self._large.hexdigest()


def hex_sha256(content: bytes | bytearray | memoryview) -> str:
    """The 64 hex digits of the SHA-256 of ``content``, whatever its size."""
    if len(content) < LARGE_BYTES:
        return _sha256(content).hexdigest()
    import hashlib

    return hashlib.sha256(content).hexdigest()

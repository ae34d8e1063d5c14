"""BLAKE2 as the interpreter has it: `hashlib` loads OpenSSL, which takes four milliseconds and is not asked for it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def _own() -> Callable[..., Any]:
    try:
        made: Callable[..., Any] = import_module("_blake2").blake2b
    except ImportError:
        # a Python may be built without it
        made = import_module("hashlib").blake2b
    return made


_blake2b = _own()


def digest(content: bytes, size: int) -> bytes:
    """The BLAKE2b of ``content``, of ``size`` bytes. RFC 7693."""
    made: bytes = _blake2b(content, digest_size=size).digest()
    return made

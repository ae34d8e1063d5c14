"""Bytes in which no two different values look alike.

Every value carries its type and its length in front, so that a sequence of values can be cut in one way only
(netstrings with a type letter). Keys and content hashes are SHA-256 over such bytes and over nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Union

Value = Union[None, bool, int, str, bytes, Sequence["Value"], Mapping[str, "Value"]]  # noqa: UP007 - a forward reference can't stand in a run-time ``X | Y``
"""What a part of a key may be. A mapping is a set of named values: its order doesn't count."""


_CONSTANTS = {None: b"n;", True: b"t;", False: b"f;"}


def frame(value: Value) -> bytes:
    """``value`` as bytes that no other value has; strings are UTF-8, lone surrogates kept."""
    if value is None or isinstance(value, bool):
        return _CONSTANTS[value]
    if isinstance(value, int):
        return b"i%d;" % value
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return b"s%d:%b" % (len(text), text)
    if isinstance(value, bytes):
        return b"b%d:%b" % (len(value), value)
    if isinstance(value, Mapping):
        pairs = [frame(name) + frame(value[name]) for name in sorted(value)]
        return b"m%d:%b" % (len(pairs), b"".join(pairs))
    return b"l%d:%b" % (len(value), b"".join(map(frame, value)))


def describe(value: Value, limit: int = 200) -> str:
    """``value`` for people, at most about ``limit`` characters; what is longer ends in its length."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, bytes):
        text = value.decode("utf-8", "backslashreplace")
    elif isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")
    elif isinstance(value, Mapping):
        text = " ".join(f"{name}={describe(value[name], limit)}" for name in sorted(value))
    elif isinstance(value, Sequence):
        text = " ".join(describe(item, limit) for item in value)
    else:
        text = str(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"

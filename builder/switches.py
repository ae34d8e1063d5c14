"""Words that mean yes or no, as docker and BuildKit read them. On the cached-build path.

Source: ``strconv.ParseBool`` of Go.
"""

from __future__ import annotations

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def read_switch(text: str) -> bool | None:
    """What ``text`` means; None where it is no such word."""
    return True if text in _TRUE else False if text in _FALSE else None

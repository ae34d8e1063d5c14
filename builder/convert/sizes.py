"""Sizes in bytes with binary units: ``64m``, ``1.5GiB``, ``1024``."""

from __future__ import annotations

import re

_SIZE = r"(?i)([0-9]+)(?:\.([0-9]+))? ?([kmgtp]?)i?b?\Z"
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def parse_size(text: str) -> int:
    """Return the number of bytes; the units are powers of 1024 whether written ``k``, ``kb`` or ``KiB``.

    Raises:
        ValueError: ``text`` is no size.
    """
    found = re.match(_SIZE, text.strip())
    if found is None:
        raise ValueError(f"size {text!r} is not of the form 64m")
    whole, decimals, unit = found.groups(default="")
    factor = _UNITS[unit.lower()]
    scale: int = 10 ** len(decimals)
    return int(whole) * factor + int(decimals or 0) * factor // scale

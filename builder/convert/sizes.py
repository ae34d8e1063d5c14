"""Sizes in bytes with binary units: ``64m``, ``1.5GiB``, ``1024``."""

from __future__ import annotations

import re
from fractions import Fraction

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)i?b?\Z", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_size(text: str) -> int:
    """Return the number of bytes; the units are powers of 1024 whether written ``k``, ``kb`` or ``KiB``.

    Raises:
        ValueError: ``text`` is no size.
    """
    found = _SIZE.match(text.strip())
    if found is None:
        raise ValueError(f"size {text!r} is not of the form 64m")
    return int(Fraction(found.group(1)) * 1024 ** _POWERS[found.group(2).lower()])

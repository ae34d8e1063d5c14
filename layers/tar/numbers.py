"""Numbers in tar headers: octal text, GNU's base-256, PAX's decimal seconds.

Invariants: what is no number is an ArchiveError, never 0, except for an empty field.
"""

from __future__ import annotations

import re

from layers.errors import ArchiveError

_DECIMAL = re.compile(rb"(-?)(\d{1,20})(?:\.(\d*))?\Z")
_BASE256 = 0x80
_NEGATIVE = 0xFF


def read_field(field: bytes, what: str) -> int:
    """The number in a header field. Raises ArchiveError."""
    if field[0] & _BASE256:
        # the first bit marks the form; the rest is two's complement (GNU tar, "Extensions")
        value = int.from_bytes(field, "big", signed=field[0] == _NEGATIVE)
        return value if field[0] == _NEGATIVE else value - (_BASE256 << 8 * (len(field) - 1))
    text = field.rstrip(b"\0 ")
    if not text.isdigit():
        text = field.split(b"\0", 1)[0].strip(b" ")
    if not text:
        return 0
    try:
        # int alone would take signs and underscores
        return int(text if text.isdigit() else b"?", 8)
    except ValueError as error:
        raise ArchiveError(f"archive: {what} is {bytes(field)!r}, expected an octal number") from error


def read_integer(value: bytes, what: str) -> int:
    """The decimal integer of a PAX record, not negative. Raises ArchiveError."""
    if not value.isdigit() or len(value) > 20:  # noqa: PLR2004 - more digits than any 64-bit number has
        raise ArchiveError(f"archive: PAX record {what} is {value[:40]!r}, expected a number")
    return int(value)


def read_seconds(value: bytes, what: str) -> int:
    """Nanoseconds of a PAX time; digits beyond them are cut. Raises ArchiveError."""
    match = _DECIMAL.match(value)
    if match is None:
        raise ArchiveError(f"archive: PAX record {what} is {value[:40]!r}, expected seconds")
    sign, whole, fraction = match.groups()
    total = int(whole) * 1_000_000_000 + int(((fraction or b"") + bytes(b"0" * 9))[:9])
    return -total if sign else total

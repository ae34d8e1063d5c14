"""Tables and ages for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from builder.columns import table_lines

_UNITS = ((365 * 86400, "year"), (30 * 86400, "month"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """``rows`` are on stdout in columns below ``head``."""
    sys.stdout.writelines(f"{line}\n" for line in table_lines(head, rows))


def format_age(created: str | None) -> str:
    """How long ago the RFC 3339 time ``created`` was: ``3 days ago``; empty when it is unknown."""
    if created is None:
        return ""
    from datetime import datetime

    try:
        seconds = time.time_ns() // 1_000_000_000 - int(datetime.fromisoformat(created).timestamp())
    except ValueError:
        return created
    return format_duration(seconds) + " ago" if seconds > 0 else "just now"


def format_duration(seconds: int) -> str:
    """``seconds`` in the largest unit that fits: ``2 hours``."""
    for size, unit in _UNITS:
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return "0 seconds"

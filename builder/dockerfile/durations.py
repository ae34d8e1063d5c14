"""Durations in Go's notation: ``1h30m``, ``500ms``, ``1.5s``; as numbers they are integers of nanoseconds."""

from __future__ import annotations

import re

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = r"(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)"
_LONGEST_NS = (1 << 63) - 1
_MINUTE_S = 60


def parse_duration(text: str) -> int:
    """Return the nanoseconds that ``text`` stands for (Go, ``time.ParseDuration``).

    Raises:
        ValueError: no duration, or one longer than 292 years.
    """
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in {"+", "-"} else text
    if rest == "0":
        return 0
    nanoseconds = at = 0
    while found := re.match(_PART, rest[at:]):
        whole, decimals, unit = found.groups(default="")
        unit_ns = _UNITS_NS[unit]
        nanoseconds += int(whole or 0) * unit_ns + int(decimals or 0) * unit_ns // 10 ** len(decimals)
        at += found.end()
    if not rest or at != len(rest):
        raise ValueError(f"duration {text!r} is not of the form 1h2m3.5s")
    if nanoseconds > _LONGEST_NS:
        raise ValueError(f"duration {text!r} is out of range")
    return sign * nanoseconds


def format_duration(nanoseconds: int) -> str:
    """Return the shortest text Go writes for it (``time.Duration.String``): ``1h0m0s``, ``1.5s``, ``0s``."""
    if nanoseconds == 0:
        return "0s"
    sign = "-" if nanoseconds < 0 else ""
    left = abs(nanoseconds)
    for unit in ("ns", "µs", "ms"):
        if left < 1000 * _UNITS_NS[unit]:
            return f"{sign}{_decimal(left, _UNITS_NS[unit])}{unit}"
    minutes, rest = divmod(left, _UNITS_NS["m"])
    seconds = f"{_decimal(rest, _UNITS_NS['s'])}s"
    hours, minutes = divmod(minutes, _MINUTE_S)
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"


def _decimal(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    if not part:
        return str(whole)
    digits = len(str(unit)) - 1
    return f"{whole}.{part:0{digits}}".rstrip("0")

"""The mounts this process sees, ``proc_pid_mountinfo(5)``; reading them touches none of them."""

from __future__ import annotations

import re

from unionfs.namedtuple import NamedTuple

_ESCAPED = re.compile(rb"\\([0-7]{3})")
_AT_LEAST = 10


class MountEntry(NamedTuple):
    """One mount: the number of its file system, where it is attached, and what it is."""

    mount_id: int
    device: tuple[int, int]
    mount_point: bytes
    filesystem_type: bytes
    source: bytes
    user_id: int | None
    """Who mounted, for a FUSE file system."""


def read_mounts(path: str = "/proc/self/mountinfo") -> list[MountEntry]:
    """All mounts, in the order they were attached; of several at one point the last one shows."""
    with open(path, "rb") as file:
        return [parse_line(line) for line in file]


def parse_line(line: bytes) -> MountEntry:
    """One line of mountinfo. Raises ValueError when it is none."""
    # a space each: a source may be empty, as pasta's is, and spaces in names are escaped
    words = line.rstrip(b"\n").split(b" ")
    if len(words) < _AT_LEAST or b"-" not in words:
        raise ValueError(f"mountinfo: unexpected line {line!r}")
    major, _, minor = words[2].partition(b":")
    kind = words.index(b"-") + 1
    user = next((option[8:] for option in words[kind + 2].split(b",") if option.startswith(b"user_id=")), None)
    return MountEntry(
        int(words[0]),
        (int(major), int(minor)),
        _plain(words[4]),
        words[kind],
        _plain(words[kind + 1]),
        int(user) if user is not None else None,
    )


def _plain(word: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: bytes((int(match[1], 8),)), word)

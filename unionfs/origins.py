"""Inode numbers that stay the same after the union is mounted again (``inodes=stable``).

A number is made of the place of a filesystem (``plan_places``) and the number of the file on it. The filesystem of the
bottom branch has place 0, so its numbers are shown as they are; the others have places made from their ids. A copy goes
on showing the number of its origin: an attribute on it says which. Invariants: the attribute is there before the copy
has its name; one that was carried to another inode (a copy made outside the union) counts for nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from unionfs import blake
from unionfs.namedtuple import NamedTuple

PLACES = 1 << 15
"""Places that fit into the bits above the number of the file."""

_ATTRIBUTES = ("trusted.overlay.unionfs.ino", "user.overlay.unionfs.ino")
_LARGE = 1 << 63


class Filesystem(NamedTuple):
    """A filesystem that branches lie on; ``identity`` is that of statvfs, 0 where it has none."""

    device: int
    identity: int


def plan_places(filesystems: Sequence[Filesystem]) -> dict[int, int]:
    """The place of each device, given the filesystems of the branches, the bottom one first.

    Places that meet are resolved in that order, so they stay while what lies below stays.
    """
    places: dict[int, int] = {}
    taken: set[int] = set()
    for one in filesystems:
        if one.device in places:
            continue
        place = _digest(b"%d" % (one.identity or one.device)) % (PLACES - 1) + 1 if places else 0
        while place in taken:
            place = place % (PLACES - 1) + 1
        places[one.device] = place
        taken.add(place)
    return places


def large_number(place: int, number: int) -> int:
    """What is shown for a number that leaves no room for the place: 63 bits made from both."""
    return _LARGE | _digest(b"%d %d" % (place, number)) >> 1


def filesystem_of(fd: int) -> Filesystem:
    """The filesystem a descriptor of a directory lies on."""
    return Filesystem(os.fstat(fd).st_dev, os.fstatvfs(fd).f_fsid)


def write_origin(host_path: bytes, shown: int) -> None:
    """The file at the host path says that ``shown`` is its number; nothing where it can carry no attribute."""
    status = os.stat(host_path, follow_symlinks=False)
    for attribute in _ATTRIBUTES:
        try:
            os.setxattr(host_path, attribute, b"%d %d" % (shown, status.st_ino), follow_symlinks=False)
        except OSError:
            continue
        return


def read_origin(host_path: bytes, own: int) -> int | None:
    """The number that the file at the host path, whose own is ``own``, says to show; None when it says none."""
    for attribute in _ATTRIBUTES:
        try:
            value = os.getxattr(host_path, attribute, follow_symlinks=False)
            shown, carrier = map(int, value.split())
        except (OSError, ValueError):
            continue
        if carrier == own:
            return shown
    return None


def _digest(data: bytes) -> int:
    return int.from_bytes(blake.digest(data, 8), "big")

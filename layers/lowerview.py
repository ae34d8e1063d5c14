"""What the layers below show at a path, for entries that come without their parents.

Invariants: nothing is followed and nothing is changed; a whiteout or an opaque directory ends the view, as in the union
(docs/semantics.md). Paths are physical: every component but the last is known to be no link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from unionfs.namedtuple import NamedTuple
from unionfs.whiteout import OPAQUE_NAME, PREFIX


class LowerEntry(NamedTuple):
    """The topmost instance of a path in the layers below."""

    host_path: bytes
    status: os.stat_result

    @property
    def link_target(self) -> bytes | None:
        """Where the link leads, None for what is no link."""
        return os.readlink(self.host_path) if stat.S_ISLNK(self.status.st_mode) else None

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.status.st_mode)


class LowerView:
    """Layer directories, top first, looked at together."""

    def __init__(self, layers: Sequence[Path]) -> None:
        self._layers = [os.fsencode(layer) for layer in layers]

    def find(self, parts: Sequence[bytes]) -> LowerEntry | None:
        """What shows at the path, None when nothing does."""
        for layer in self._layers:
            found, goes_on = _look(layer, parts)
            if found is not None or not goes_on:
                return found
        return None


def _look(layer: bytes, parts: Sequence[bytes]) -> tuple[LowerEntry | None, bool]:
    """The path in one layer, and whether layers further down would show."""
    directory = layer
    goes_on = True
    for index, part in enumerate(parts):
        if _status(directory + b"/" + PREFIX + part) is not None:
            return None, False
        path = directory + b"/" + part
        status = _status(path)
        if status is None:
            return None, goes_on
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            return None, False
        if index == len(parts) - 1:
            return LowerEntry(path, status), False
        if not stat.S_ISDIR(status.st_mode):
            return None, False
        goes_on = goes_on and _status(path + b"/" + OPAQUE_NAME) is None
        directory = path
    return None, goes_on


def _status(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None

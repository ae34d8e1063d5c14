"""What tells afterwards which files of a tree a command has touched.

The kernel gives a file a new time of change with everything that is done to it or its names, and nobody may set that
time. A file that has the inode number and the time it had is the same file, untouched; a directory is known by its
path, since moving it changes nothing in it.

Invariants: times are compared for equality only, so that a clock that is set back hides nothing; from the moment
`await_tick` returns, no change can carry a time that the inventory has.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICK_SECONDS = 0.001
_MOST_SECONDS = 2.0


class Inventory:
    """The files of a tree: ``files`` maps inode numbers to times of change, ``directories`` paths to both."""

    __slots__ = ("directories", "files", "latest_ns")

    def __init__(self) -> None:
        self.files: dict[int, int] = {}
        self.directories: dict[bytes, tuple[int, int]] = {}
        self.latest_ns = 0
        """The latest time of change."""

    def add(self, path: bytes, status: os.stat_result, *, directory: bool) -> None:
        """What lies at ``path`` is known."""
        if directory:
            self.directories[path] = (status.st_ino, status.st_ctime_ns)
        else:
            self.files[status.st_ino] = status.st_ctime_ns
        self.latest_ns = max(self.latest_ns, status.st_ctime_ns)

    def add_moved(self, path: bytes, status: os.stat_result) -> None:
        """What was moved away from ``path`` and back, and is now ``status``, is what it was, if it was known."""
        if self.is_same(path, status):
            self.add(path, status, directory=True)
        elif status.st_ino in self.files:
            self.add(path, status, directory=False)

    def has_file(self, status: os.stat_result) -> bool:
        """Whether what ``status`` is of, no directory, was not touched."""
        return self.files.get(status.st_ino) == status.st_ctime_ns

    def has_names(self, path: bytes, status: os.stat_result) -> bool:
        """Whether the directory at ``path`` has the attributes and the names that it had."""
        return self.directories.get(path) == (status.st_ino, status.st_ctime_ns)

    def is_same(self, path: bytes, status: os.stat_result) -> bool:
        """Whether the directory that lay at ``path`` lies there still."""
        known = self.directories.get(path)
        return known is not None and known[0] == status.st_ino


def await_tick(beside: Path, latest_ns: int) -> None:
    """The clock of the file system of ``beside``, a name that is free, does not show ``latest_ns`` any more.

    Raises:
        OSError: no file can be made there.
    """
    os.close(os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        until = time.monotonic() + _MOST_SECONDS
        # a clock that was set back is behind for longer than anybody would wait, and does not stand still
        while os.stat(beside).st_ctime_ns <= latest_ns and time.monotonic() < until:
            time.sleep(_TICK_SECONDS)
            os.utime(beside)
    finally:
        os.unlink(beside)

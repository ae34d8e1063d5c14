"""Open files and open directories.

Invariants: all handles of a node share one ``OpenFile`` and so one descriptor, whose number stays the same until the
last handle is released, even when the file behind it is copied up; a listing is frozen, so its cookies stay valid
while the directory changes.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from unionfs.types import HandleId

if TYPE_CHECKING:
    from unionfs.inodes import DirectoryNode, FileNode


class OpenFile:
    """The descriptor behind all handles of one node.

    ``passes``: the kernel was given the descriptor (``backing_fd``) at the first open; None while nobody asked.
    ``privileged``: the file may carry setuid, setgid or capabilities that a write takes away. ``bare``: it is known
    to carry no capability.
    """

    __slots__ = ("bare", "fd", "handles", "passes", "privileged", "writable")

    def __init__(self, fd: int, *, writable: bool, privileged: bool) -> None:
        self.fd = fd
        self.writable = writable
        self.privileged = privileged
        self.bare = False
        self.handles = 0
        self.passes: bool | None = None


class Handle:
    """One open of a file; ``flags`` as in ``open(2)``, ``trusted``: the opener keeps setuid when writing."""

    __slots__ = ("file", "flags", "node", "trusted", "write_flags")

    def __init__(self, node: FileNode, file: OpenFile, flags: int, *, trusted: bool) -> None:
        self.node = node
        self.file = file
        self.flags = flags
        self.trusted = trusted
        self.write_flags = (
            (os.RWF_APPEND if flags & os.O_APPEND else 0)
            | (os.RWF_DSYNC if flags & os.O_DSYNC else 0)
            | (os.RWF_SYNC if flags & os.O_SYNC == os.O_SYNC else 0)
        )


class Listing:
    """The frozen names of an open directory; the cookie of an entry is its place in the index, counted from 1.

    So a cookie of one listing goes on in another one of the same directory; the kernel does that with those it keeps.
    """

    __slots__ = ("directory", "fresh", "names", "version")

    def __init__(self, directory: DirectoryNode) -> None:
        self.directory = directory
        self.names: list[bytes] = []
        self.version = -1
        self.fresh: list[int] = []
        """Nodes this listing made and that nobody may have taken a reference to."""


class Handles:
    """Open files and directories by number."""

    def __init__(self) -> None:
        self._files: dict[int, Handle] = {}
        self._listings: dict[int, Listing] = {}
        self._next = 1

    def add(self, node: FileNode, file: OpenFile, flags: int, *, trusted: bool) -> HandleId:
        """A new handle of ``node``."""
        number = self._next
        self._next = number + 1
        file.handles += 1
        self._files[number] = Handle(node, file, flags, trusted=trusted)
        return HandleId(number)

    def add_listing(self, directory: DirectoryNode) -> HandleId:
        """A new open directory."""
        number = self._next
        self._next = number + 1
        self._listings[number] = Listing(directory)
        return HandleId(number)

    def __getitem__(self, handle: HandleId) -> Handle:
        try:
            return self._files[handle]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def listing(self, handle: HandleId) -> Listing:
        """The open directory. Raises EBADF."""
        try:
            return self._listings[handle]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def pop(self, handle: HandleId) -> Handle | None:
        """The handle, which is no longer there."""
        return self._files.pop(handle, None)

    def pop_listing(self, handle: HandleId) -> Listing | None:
        """The open directory, which is no longer there."""
        return self._listings.pop(handle, None)

    def files(self) -> tuple[Handle, ...]:
        """All open files."""
        return tuple(self._files.values())

    def close(self) -> None:
        """All descriptors of open files are closed."""
        for file in {id(handle.file): handle.file for handle in self._files.values()}.values():
            os.close(file.fd)
        self._files.clear()
        self._listings.clear()

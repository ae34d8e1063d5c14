"""Which open files the kernel reads and writes by itself (FUSE passthrough).

The kernel keeps one way of input and output for a node while the node is open: all its open files pass through the
same backing id, or none does (another answer is EIO for the program). So the first open decides, later ones follow,
and the last release gives the id back. Passing through needs CAP_SYS_ADMIN in the initial user namespace; where that
is missing the mount goes on without, silently.
"""

from __future__ import annotations

import errno
import fcntl

from unionfs.transport.protocol import BACKING_CLOSE, BACKING_ID, BACKING_MAP, BACKING_OPEN
from unionfs.types import Ino

_NOT_PERMITTED = frozenset({errno.EPERM, errno.ENOTTY, errno.EOPNOTSUPP})
NO_BACKING = 0


class _Opened:
    """The open files of one node: how many, and what they pass through to (id 0: nothing)."""

    __slots__ = ("backing_id", "fd", "files")

    def __init__(self, backing_id: int, fd: int | None) -> None:
        self.files = 0
        self.backing_id = backing_id
        self.fd = fd


class Backing:
    """The backing ids of one mount."""

    __slots__ = ("_device_fd", "_enabled", "_opened")

    def __init__(self, device_fd: int, *, enabled: bool) -> None:
        """``device_fd`` is the mount's /dev/fuse, owned by the caller."""
        self._device_fd = device_fd
        self._enabled = enabled
        self._opened: dict[Ino, _Opened] = {}

    @property
    def enabled(self) -> bool:
        """Whether it is worth asking the filesystem for a backing descriptor."""
        return self._enabled

    def opened(self, node: Ino, fd: int | None) -> int:
        """``node`` has one more open file, which can pass through to ``fd``; the id it does so by, or NO_BACKING.

        A filesystem gives the same descriptor for all open files of a node (`FilesystemOps.backing_fd`).

        Raises:
            OSError: ESTALE when earlier open files of the node pass through to another file than ``fd``: the
                kernel looks the name up again and finds the node the file has now.
        """
        known = self._opened.get(node)
        if known is None:
            known = self._opened[node] = self._first(fd)
        elif known.backing_id and fd != known.fd:
            raise OSError(errno.ESTALE, "file was replaced by its copy while open")
        known.files += 1
        return known.backing_id

    def passes(self, node: Ino) -> bool:
        """Whether the open files of ``node`` pass through."""
        known = self._opened.get(node)
        return known is not None and known.backing_id != NO_BACKING

    def released(self, node: Ino) -> None:
        """``node`` has one open file fewer."""
        known = self._opened.get(node)
        if known is None:
            return
        known.files -= 1
        if known.files:
            return
        del self._opened[node]
        if known.backing_id:
            fcntl.ioctl(self._device_fd, BACKING_CLOSE, BACKING_ID.pack(known.backing_id))

    def _first(self, fd: int | None) -> _Opened:
        if fd is None:
            return _Opened(NO_BACKING, None)
        try:
            # a bytearray, since with bytes fcntl.ioctl returns the buffer in place of the id
            backing_id = fcntl.ioctl(self._device_fd, BACKING_OPEN, bytearray(BACKING_MAP.pack(fd, 0, 0)))
        except OSError as error:
            if error.errno in _NOT_PERMITTED:
                self._enabled = False
            return _Opened(NO_BACKING, None)
        return _Opened(backing_id, fd)

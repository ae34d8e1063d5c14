"""Replies that carry attributes, with the time the kernel may trust them."""

from __future__ import annotations

from unionfs.transport.protocol import ATTR_OUT, ENTRY_OUT, OPEN_OUT, STATFS_OUT
from unionfs.types import Attr, StatFs

_FOREVER_SECONDS = 10**9
_NANOSECONDS = 10**9
_RDEV_MASK = 0xFFFF_FFFF


class Replies:
    """Encodes attributes; all replies of a mount share one time of validity."""

    __slots__ = ("_nanoseconds", "_seconds", "negative")

    def __init__(self, timeout_seconds: float | None) -> None:
        """``timeout_seconds`` None: until told otherwise."""
        if timeout_seconds is None:
            self._seconds, self._nanoseconds = _FOREVER_SECONDS, 0
        else:
            self._seconds, self._nanoseconds = divmod(int(timeout_seconds * _NANOSECONDS), _NANOSECONDS)
        self.negative = ENTRY_OUT.pack(0, 0, self._seconds, 0, self._nanoseconds, *(0,) * 17)
        """A name that is not there, to be remembered as such (node number 0)."""

    def entry(self, attr: Attr) -> bytes:
        """``fuse_entry_out``."""
        ino, visible, mode, nlink, uid, gid, rdev, size, blocks, blksize, atime, mtime, ctime = attr
        seconds, nanoseconds = self._seconds, self._nanoseconds
        atime_s, atime_ns = divmod(atime, _NANOSECONDS)
        mtime_s, mtime_ns = divmod(mtime, _NANOSECONDS)
        ctime_s, ctime_ns = divmod(ctime, _NANOSECONDS)
        return ENTRY_OUT.pack(
            ino, 0, seconds, seconds, nanoseconds, nanoseconds,
            visible, size, blocks, atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns,
            mode, nlink, uid, gid, rdev & _RDEV_MASK, blksize, 0,
        )  # fmt: skip

    def attributes(self, attr: Attr) -> bytes:
        """``fuse_attr_out``."""
        _ino, visible, mode, nlink, uid, gid, rdev, size, blocks, blksize, atime, mtime, ctime = attr
        atime_s, atime_ns = divmod(atime, _NANOSECONDS)
        mtime_s, mtime_ns = divmod(mtime, _NANOSECONDS)
        ctime_s, ctime_ns = divmod(ctime, _NANOSECONDS)
        return ATTR_OUT.pack(
            self._seconds, self._nanoseconds, 0,
            visible, size, blocks, atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns,
            mode, nlink, uid, gid, rdev & _RDEV_MASK, blksize, 0,
        )  # fmt: skip


def opened(handle: int, flags: int, backing_id: int = 0) -> bytes:
    """``fuse_open_out``."""
    return OPEN_OUT.pack(handle, flags, backing_id)


def statfs(room: StatFs) -> bytes:
    """``fuse_statfs_out``."""
    return STATFS_OUT.pack(
        *(room.blocks, room.bfree, room.bavail, room.files, room.ffree, room.bsize, room.namelen, room.frsize, 0)
    )

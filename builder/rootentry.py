"""One file of an image, as the merged branches show it."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from builder import paths
from cache.contenthash import FileState
from unionfs.types import Attr

if TYPE_CHECKING:
    from builder.rootfs import RootFs


class RootEntry:
    """A file of an image as it was when it was looked up (``cache.contenthash.TreeEntry``).

    ``path`` is the path in the selection, ``location`` the one in the root. Without a root it is an empty directory.
    """

    __slots__ = ("_root", "attr", "location", "path")

    def __init__(self, root: RootFs | None, path: bytes, location: bytes, attr: Attr) -> None:
        self._root = root
        self.path = path
        self.location = location
        self.attr = attr

    def __repr__(self) -> str:
        return f"RootEntry({self.path!r}, {self.location!r})"

    @property
    def mode(self) -> int:
        """As ``st_mode``."""
        return self.attr.mode

    @property
    def uid(self) -> int:
        """Owner."""
        return self.attr.uid

    @property
    def gid(self) -> int:
        """Group."""
        return self.attr.gid

    @property
    def size(self) -> int:
        """Bytes of a regular file."""
        return self.attr.size

    @property
    def rdev(self) -> int:
        """Device number."""
        return self.attr.rdev

    @property
    def nlink(self) -> int:
        """Number of names; one for directories, whose links mean something else."""
        return 1 if stat.S_ISDIR(self.attr.mode) else self.attr.nlink

    @property
    def file_id(self) -> tuple[int, int]:
        """The same for two names of one file."""
        return (0, self.attr.visible_ino)

    @property
    def atime_ns(self) -> int:
        """Last access, for the copy."""
        return self.attr.atime_ns

    @property
    def mtime_ns(self) -> int:
        """Last change of the content, for the copy."""
        return self.attr.mtime_ns

    @property
    def state(self) -> FileState | None:
        """What changes with every change of the file; None where the branches may change."""
        return None if self._root is None else self._root.file_state(self.location, self.attr)

    def readlink(self) -> bytes:
        """Target of a symbolic link."""
        return self._rooted().readlink(self.location)

    def xattrs(self) -> tuple[tuple[bytes, bytes], ...]:
        """Extended attributes that a copy carries, sorted by name."""
        return () if self._root is None else self._root.xattrs(self.location)

    def open(self) -> int:
        """Descriptor for reading a regular file; the caller closes it."""
        return self._rooted().open_file(self.location)

    def _rooted(self) -> RootFs:
        if self._root is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), paths.shown(self.location))
        return self._root

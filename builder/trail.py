"""The way into a fresh branch: the directories that are open, and what lies below each.

Invariants: the open directories are a path from the root of the branch down; a directory that is new in the branch but
lies below has the metadata it has there; it gets back its times when it is left, unless a name was added; metadata of
new directories is set when they are left, after what is in them. No link is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from builder import paths
from builder.rootfs import RootFs
from unionfs.namedtuple import NamedTuple
from unionfs.whiteout import OPAQUE_NAME, is_own_xattr, is_reserved

_MOST_LOOKUPS = 64
"""Names asked for one by one in a directory below before its whole listing is read."""
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Attributes(NamedTuple):
    """Metadata of a new file; ``times_ns`` are access and change of content, None for now."""

    mode: int
    uid: int
    gid: int
    times_ns: tuple[int, int] | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


class ReservedNameError(ValueError):
    """The name belongs to the union's marks and can't be in an image."""


class OpenDirectory:
    """An open directory of the branch. ``below`` tells whether one below merges with it.

    ``final`` is the metadata it is to have when it is left, ``times_ns`` the times; None where nothing is said.
    """

    __slots__ = ("below", "changed", "fd", "final", "listing", "lookups", "path", "restore_ns", "times_ns")

    def __init__(self, path: bytes, fd: int, *, below: bool) -> None:
        self.path = path
        self.fd = fd
        self.below = below
        self.changed = False
        self.final: Attributes | None = None
        self.times_ns: tuple[int, int] | None = None
        self.listing: dict[bytes, int] | None = None
        self.lookups = 0
        status = os.fstat(fd)
        self.restore_ns = (status.st_atime_ns, status.st_mtime_ns)


class Trail:
    """The open directories of the branch ``upper``, whose other branches ``view`` shows merged (None: none).

    ``replaced`` are paths where nothing of what lies below shows.
    """

    def __init__(self, upper: Path, view: RootFs | None) -> None:
        self.view = view
        self.replaced: set[bytes] = set()
        self._open_ones = [OpenDirectory(b"", os.open(upper, _DIRECTORY_FLAGS), below=view is not None)]

    @property
    def root_fd(self) -> int:
        """Descriptor of the root of the branch."""
        return self._open_ones[0].fd

    @property
    def last(self) -> OpenDirectory:
        """The deepest open directory."""
        return self._open_ones[-1]

    def close(self) -> None:
        """Every directory has its metadata and nothing is open. Idempotent. Raises the first OSError met."""
        failure: OSError | None = None
        while self._open_ones:
            try:
                self._leave()
            except OSError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def enter(self, path: bytes, missing: Attributes | None) -> OpenDirectory:
        """The open directory at ``path``; what is missing is made with ``missing``, or is an error when None."""
        depth = self._depth_shared(path)
        while len(self._open_ones) > depth + 1:
            self._leave()
        rest = path[len(self._open_ones[-1].path) :].lstrip(b"/")
        for name in rest.split(b"/") if rest else ():
            self._open_ones.append(self._open(self._open_ones[-1], name, missing))
        return self._open_ones[-1]

    def _depth_shared(self, path: bytes) -> int:
        """Index of the deepest open directory that is ``path`` or holds it."""
        depth = len(self._open_ones) - 1
        while depth and self._open_ones[depth].path != path and not path.startswith(self._open_ones[depth].path + b"/"):
            depth -= 1
        return depth

    def _open(self, parent: OpenDirectory, name: bytes, missing: Attributes | None) -> OpenDirectory:
        """The directory ``name`` in ``parent``: as it is in the branch, brought up from below, or made."""
        path = paths.join(parent.path, name)
        check_name(path)
        below = self.mode_below(parent, name) if parent.below else 0
        try:
            fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent.fd)
        except FileNotFoundError:
            return self._make(parent, name, below, missing)
        except OSError as error:
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                raise not_a_directory(path) from None
            raise
        return OpenDirectory(path, fd, below=stat.S_ISDIR(below) and path not in self.replaced)

    def _make(self, parent: OpenDirectory, name: bytes, below: int, missing: Attributes | None) -> OpenDirectory:
        """The directory is new in the branch: brought up from below, or made with the attributes ``missing``."""
        path = paths.join(parent.path, name)
        if below and not stat.S_ISDIR(below):
            raise not_a_directory(path)
        if not below and missing is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), paths.shown(path))
        os.mkdir(name, 0o700, dir_fd=parent.fd)
        directory = OpenDirectory(path, os.open(name, _DIRECTORY_FLAGS, dir_fd=parent.fd), below=bool(below))
        if below:
            attributes = attributes_below(self.view, path)
            directory.restore_ns = attributes.times_ns or directory.restore_ns
            apply(directory.fd, attributes)
            return directory
        if path in self.replaced:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(OPAQUE_NAME, flags, 0o644, dir_fd=directory.fd))
        parent.changed = directory.changed = True
        directory.final = missing
        return directory

    def open_beneath(self, path: bytes) -> int:
        """Descriptor of the directory ``path`` of the branch, reached without following links; to be closed."""
        fd = os.dup(self._open_ones[0].fd)
        for name in path.split(b"/") if path else ():
            try:
                deeper = os.open(name, _DIRECTORY_FLAGS, dir_fd=fd)
            finally:
                os.close(fd)
            fd = deeper
        return fd

    def _leave(self) -> None:
        """The deepest open directory has its metadata and is closed."""
        directory = self._open_ones.pop()
        try:
            if directory.final is not None:
                apply(directory.fd, directory.final)
            elif not directory.changed:
                os.utime(directory.fd, ns=directory.restore_ns)
            if directory.times_ns is not None:
                os.utime(directory.fd, ns=directory.times_ns)
        finally:
            os.close(directory.fd)

    def mode_below(self, directory: OpenDirectory, name: bytes) -> int:
        """``st_mode`` of ``name`` below ``directory``, 0 when nothing is there."""
        view = self.view
        if view is None or paths.join(directory.path, name) in self.replaced:
            return 0
        if directory.listing is None:
            directory.lookups += 1
            if directory.lookups <= _MOST_LOOKUPS:
                found = view.lstat(paths.join(directory.path, name))
                return 0 if found is None else found.mode
            directory.listing = view.modes(directory.path)
        return directory.listing.get(name, 0)


def check_name(path: bytes) -> None:
    """Raises ReservedNameError when the last name of ``path`` is one of a union's marks."""
    if is_reserved(path.rpartition(b"/")[2]):
        raise ReservedNameError(f"name {paths.shown(path)!r} is reserved: the prefix '.wh.' marks whiteouts")


def refuse_mark(path: bytes, kind: int, rdev: int) -> None:
    """Raises ReservedNameError for the character device 0:0, which is a whiteout."""
    if kind == stat.S_IFCHR and rdev == 0:
        raise ReservedNameError(f"character device 0:0 {paths.shown(path)!r} is a mark of union file systems")


def attributes_below(view: RootFs | None, path: bytes) -> Attributes:
    """Metadata of what lies at ``path`` in ``view``, with every attribute. Raises FileNotFoundError."""
    found = view.lstat(path) if view is not None else None
    if view is None or found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), paths.shown(path))
    times_ns = (found.atime_ns, found.mtime_ns)
    return Attributes(stat.S_IMODE(found.mode), found.uid, found.gid, times_ns, view.every_xattr(path))


def apply(descriptor: int, attributes: Attributes) -> None:
    """Metadata of an open directory."""
    os.fchown(descriptor, attributes.uid, attributes.gid)
    os.fchmod(descriptor, attributes.mode)
    set_xattrs(descriptor, attributes.xattrs)
    if attributes.times_ns is not None:
        os.utime(descriptor, ns=attributes.times_ns)


def set_xattrs(file: int | bytes, xattrs: tuple[tuple[bytes, bytes], ...]) -> None:
    """The attributes are set, as far as this file system and this process may have them; capabilities always."""
    for name, value in xattrs:
        if is_own_xattr(name):
            continue
        try:
            if isinstance(file, int):
                os.setxattr(file, name, value)
            else:
                os.setxattr(file, name, value, follow_symlinks=False)
        except OSError as error:
            if name == b"security.capability" or error.errno not in {errno.EPERM, errno.EOPNOTSUPP}:
                raise


def not_a_directory(path: bytes) -> NotADirectoryError:
    """The exception for something else on the way to ``path``."""
    return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), paths.shown(path))

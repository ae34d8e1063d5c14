"""The fresh branch of a step, written below the merged view of the branches under it.

Steps that only add (COPY, ADD, WORKDIR) need no union to write through: what they put into the branch hides what lies
below, and a directory merges with the one below as soon as it is there. So files are made directly in the branch, at
the speed of the file system below.

Invariants: the branch has no whiteouts and was empty at first; a directory that lies below keeps its metadata unless
new one is given, and its times unless a name is added to it; nothing outside the branch is ever written, and no link
is followed, whatever the names; names and attributes that would be marks of a union are refused or left out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import NamedTuple, Self

from builder import paths
from builder.filecopy import copy_content
from builder.rootfs import RootFs
from unionfs.whiteout import OPAQUE_NAME, is_own_xattr, is_reserved

_MOST_LOOKUPS = 64
"""Names asked for one by one in a directory below before its whole listing is read."""
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Attributes(NamedTuple):
    """Metadata of a new file; ``times_ns`` are access and change of content, None for now."""

    mode: int
    uid: int
    gid: int
    times_ns: tuple[int, int] | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


class ReservedNameError(ValueError):
    """The name belongs to the union's marks and can't be in an image."""


class _Directory:
    """An open directory of the branch. ``below`` tells whether one below merges with it."""

    __slots__ = ("below", "changed", "fd", "final", "listing", "lookups", "path", "restore_ns")

    def __init__(self, path: bytes, fd: int, *, below: bool) -> None:
        self.path = path
        self.fd = fd
        self.below = below
        self.changed = False
        self.final: Attributes | None = None
        self.listing: dict[bytes, int] | None = None
        self.lookups = 0
        status = os.fstat(fd)
        self.restore_ns = (status.st_atime_ns, status.st_mtime_ns)


class Upper:
    """The branch directory ``upper`` of a step whose other branches ``view`` shows merged (None: there are none).

    Paths are canonical (``RootFs.resolve``). Use it as a context manager: directories get their metadata when they are
    left, all of them by ``close``.
    """

    def __init__(self, upper: Path, view: RootFs | None) -> None:
        self._view = view
        self._replaced: set[bytes] = set()
        self._trail = [_Directory(b"", os.open(upper, _DIRECTORY_FLAGS), below=view is not None)]

    def close(self) -> None:
        """Every directory has its metadata and nothing is open. Idempotent. Raises the first OSError met."""
        failure: OSError | None = None
        while self._trail:
            try:
                self._leave()
            except OSError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def mode_at(self, path: bytes) -> int | None:
        """``st_mode`` of what lies at ``path`` in the merged view, of a link itself; None when nothing does."""
        fd = self._trail[0].fd
        hidden = False
        place = b""
        for name in path.split(b"/"):
            place = paths.join(place, name)
            try:
                mode = os.stat(place or b".", dir_fd=fd, follow_symlinks=False).st_mode
            except FileNotFoundError:
                hidden = hidden or place in self._replaced
                break
            if place == path:
                return mode
            if not stat.S_ISDIR(mode):
                return None
            hidden = hidden or self._is_opaque(place)
        found = self._view.lstat(path) if self._view is not None and not hidden else None
        return None if found is None else found.mode

    def directory(self, path: bytes, attributes: Attributes) -> None:
        """A directory lies at ``path``; new ones on the way have ``attributes``, those that were there keep theirs.

        Raises NotADirectoryError when something else lies on the way, ReservedNameError.
        """
        self._enter(path, attributes)

    def put_directory(self, path: bytes, attributes: Attributes) -> None:
        """A directory with ``attributes`` lies at ``path``, whose parent is there; what is in it stays.

        Raises NotADirectoryError when something else lies there, ReservedNameError.
        """
        directory = self._enter(path, attributes)
        directory.final = attributes

    def put_file(self, path: bytes) -> int:
        """Descriptor of the new, empty regular file at ``path``, for ``finish_file``.

        What lay there is replaced. Raises IsADirectoryError for a directory, ReservedNameError.
        """
        directory, name = self._place(path)
        try:
            return os.open(name, _CREATE_FLAGS, 0o600, dir_fd=directory.fd)
        except FileExistsError:
            self._clear(directory, name)
            return os.open(name, _CREATE_FLAGS, 0o600, dir_fd=directory.fd)

    def finish_file(self, descriptor: int, attributes: Attributes) -> None:
        """The written file has its metadata; the caller closes the descriptor."""
        os.fchown(descriptor, attributes.uid, attributes.gid)
        os.fchmod(descriptor, attributes.mode)
        if attributes.xattrs:
            _set_xattrs(descriptor, attributes.xattrs)
        if attributes.times_ns is not None:
            os.utime(descriptor, ns=attributes.times_ns)

    def put_symlink(self, path: bytes, target: bytes, attributes: Attributes) -> None:
        """A symbolic link lies at ``path``; see ``put_file``."""
        directory, name = self._place(path)
        try:
            os.symlink(target, name, dir_fd=directory.fd)
        except FileExistsError:
            self._clear(directory, name)
            os.symlink(target, name, dir_fd=directory.fd)
        self._dress(directory, name, attributes, link=True)

    def put_node(self, path: bytes, kind: int, rdev: int, attributes: Attributes) -> None:
        """A device or FIFO (``kind`` as in ``S_IFMT``) lies at ``path``; see ``put_file``.

        Raises ReservedNameError for the character device 0:0, which is a whiteout.
        """
        if kind == stat.S_IFCHR and rdev == 0:
            raise ReservedNameError(f"character device 0:0 {paths.shown(path)!r} is a mark of union file systems")
        directory, name = self._place(path)
        try:
            os.mknod(name, kind | 0o600, rdev, dir_fd=directory.fd)
        except FileExistsError:
            self._clear(directory, name)
            os.mknod(name, kind | 0o600, rdev, dir_fd=directory.fd)
        self._dress(directory, name, attributes, link=False)

    def put_link(self, path: bytes, existing: bytes) -> None:
        """``path`` is one more name of the file at ``existing``, which lies in the branch; see ``put_file``.

        Raises FileNotFoundError when the branch has no such file.
        """
        directory, name = self._place(path)
        source_fd = self._open_beneath(existing.rpartition(b"/")[0])
        source = existing.rpartition(b"/")[2]
        try:
            try:
                os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=directory.fd, follow_symlinks=False)
            except FileExistsError:
                self._clear(directory, name)
                os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=directory.fd, follow_symlinks=False)
        finally:
            os.close(source_fd)

    def link_at(self, path: bytes) -> bytes | None:
        """Target of the symbolic link at ``path``, None for anything else. What is above ``path`` are directories."""
        mode = self.mode_at(path)
        if mode is None or not stat.S_ISLNK(mode):
            return None
        directory, _, name = path.rpartition(b"/")
        try:
            fd = self._open_beneath(directory)
        except FileNotFoundError:
            pass
        else:
            try:
                return os.readlink(name, dir_fd=fd)
            except FileNotFoundError:
                pass
            finally:
                os.close(fd)
        return None if self._view is None else self._view.readlink(path)

    def bring_up(self, path: bytes) -> None:
        """The file at ``path`` lies in the branch, as it is below. Raises FileNotFoundError when there is none."""
        view = self._view
        directory, name = self._place(path)
        try:
            os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            found = None if view is None else view.lstat(path)
            if view is None or found is None:
                raise
        else:
            return
        attributes = self._attributes_below(path)
        if stat.S_ISLNK(found.mode):
            self.put_symlink(path, view.readlink(path), attributes)
        elif not stat.S_ISREG(found.mode):
            self.put_node(path, stat.S_IFMT(found.mode), found.rdev, attributes)
        else:
            self._bring_up_file(path, view.open_file(path), attributes)

    def _bring_up_file(self, path: bytes, source: int, attributes: Attributes) -> None:
        """The regular file open as ``source``, which is closed, lies at ``path``."""
        try:
            target = self.put_file(path)
            try:
                copy_content(source, target, os.fstat(source), lambda: None)
                self.finish_file(target, attributes)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def replace(self, path: bytes) -> None:
        """Nothing lies at ``path``, whose parent is a directory: not in the branch, and from below nothing shows."""
        parent, _, name = path.rpartition(b"/")
        directory = self._enter(parent, None)
        self._check_name(path, name)
        self._replaced.add(path)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=directory.fd, follow_symlinks=False).st_mode):
                shutil.rmtree(name, dir_fd=directory.fd)
            else:
                os.unlink(name, dir_fd=directory.fd)

    # -- places -----------------------------------------------------------------------------------------------------
    def _place(self, path: bytes) -> tuple[_Directory, bytes]:
        """The open parent of ``path`` and the name in it, where no directory lies below."""
        parent, _, name = path.rpartition(b"/")
        directory = self._trail[-1]
        if directory.path != parent:
            directory = self._enter(parent, None)
        self._check_name(path, name)
        if directory.below and stat.S_ISDIR(self._mode_below(directory, name)):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), paths.shown(path))
        directory.changed = True
        return directory, name

    def _check_name(self, path: bytes, name: bytes) -> None:
        if is_reserved(name):
            raise ReservedNameError(f"name {paths.shown(path)!r} is reserved: the prefix '.wh.' marks whiteouts")

    def _clear(self, directory: _Directory, name: bytes) -> None:
        """What lies at ``name`` in the branch is gone. Raises IsADirectoryError."""
        if stat.S_ISDIR(os.stat(name, dir_fd=directory.fd, follow_symlinks=False).st_mode):
            place = paths.shown(paths.join(directory.path, name))
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), place)
        os.unlink(name, dir_fd=directory.fd)

    def _dress(self, directory: _Directory, name: bytes, attributes: Attributes, *, link: bool) -> None:
        """Metadata of what has no descriptor of its own."""
        os.chown(name, attributes.uid, attributes.gid, dir_fd=directory.fd, follow_symlinks=False)
        if not link:
            os.chmod(name, attributes.mode, dir_fd=directory.fd)
        if attributes.xattrs:
            _set_xattrs(b"/proc/self/fd/%d/%s" % (directory.fd, name), attributes.xattrs)
        if attributes.times_ns is not None:
            os.utime(name, ns=attributes.times_ns, dir_fd=directory.fd, follow_symlinks=False)

    # -- directories ------------------------------------------------------------------------------------------------
    def _enter(self, path: bytes, missing: Attributes | None) -> _Directory:
        """The open directory at ``path``; what is missing is made with ``missing``, or is an error when None."""
        depth = self._depth_shared(path)
        while len(self._trail) > depth + 1:
            self._leave()
        rest = path[len(self._trail[-1].path) :].lstrip(b"/")
        for name in rest.split(b"/") if rest else ():
            self._trail.append(self._open(self._trail[-1], name, missing))
        return self._trail[-1]

    def _depth_shared(self, path: bytes) -> int:
        """Index of the deepest open directory that is ``path`` or holds it."""
        depth = len(self._trail) - 1
        while depth and self._trail[depth].path != path and not path.startswith(self._trail[depth].path + b"/"):
            depth -= 1
        return depth

    def _open(self, parent: _Directory, name: bytes, missing: Attributes | None) -> _Directory:
        """The directory ``name`` in ``parent``: as it is in the branch, brought up from below, or made."""
        path = paths.join(parent.path, name)
        self._check_name(path, name)
        below = self._mode_below(parent, name) if parent.below else 0
        try:
            fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent.fd)
        except FileNotFoundError:
            return self._make(parent, name, below, missing)
        except OSError as error:
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                raise _not_a_directory(path) from None
            raise
        return _Directory(path, fd, below=stat.S_ISDIR(below) and not self._is_opaque(path))

    def _make(self, parent: _Directory, name: bytes, below: int, missing: Attributes | None) -> _Directory:
        """The directory is new in the branch: brought up from below, or made with the attributes ``missing``."""
        path = paths.join(parent.path, name)
        if below and not stat.S_ISDIR(below):
            raise _not_a_directory(path)
        if not below and missing is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), paths.shown(path))
        os.mkdir(name, 0o700, dir_fd=parent.fd)
        directory = _Directory(path, os.open(name, _DIRECTORY_FLAGS, dir_fd=parent.fd), below=bool(below))
        if below:
            attributes = self._attributes_below(path)
            directory.restore_ns = attributes.times_ns or directory.restore_ns
            _apply(directory.fd, attributes)
            return directory
        if path in self._replaced:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(OPAQUE_NAME, flags, 0o644, dir_fd=directory.fd))
        parent.changed = directory.changed = True
        directory.final = missing
        return directory

    def _open_beneath(self, path: bytes) -> int:
        """Descriptor of the directory ``path`` of the branch, reached without following links; to be closed."""
        fd = os.dup(self._trail[0].fd)
        for name in path.split(b"/") if path else ():
            try:
                deeper = os.open(name, _DIRECTORY_FLAGS, dir_fd=fd)
            finally:
                os.close(fd)
            fd = deeper
        return fd

    def _is_opaque(self, path: bytes) -> bool:
        """Whether the directory ``path`` of the branch was made to hide the one below."""
        return path in self._replaced

    def _attributes_below(self, path: bytes) -> Attributes:
        view = self._view
        found = view.lstat(path) if view is not None else None
        if view is None or found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), paths.shown(path))
        times_ns = (found.atime_ns, found.mtime_ns)
        return Attributes(stat.S_IMODE(found.mode), found.uid, found.gid, times_ns, view.every_xattr(path))

    def _leave(self) -> None:
        """The deepest open directory has its metadata and is closed."""
        directory = self._trail.pop()
        try:
            if directory.final is not None:
                _apply(directory.fd, directory.final)
            elif not directory.changed:
                os.utime(directory.fd, ns=directory.restore_ns)
        finally:
            os.close(directory.fd)

    # -- what lies below --------------------------------------------------------------------------------------------
    def _mode_below(self, directory: _Directory, name: bytes) -> int:
        """``st_mode`` of ``name`` below ``directory``, 0 when nothing is there."""
        view = self._view
        if view is None or paths.join(directory.path, name) in self._replaced:
            return 0
        if directory.listing is None:
            directory.lookups += 1
            if directory.lookups <= _MOST_LOOKUPS:
                found = view.lstat(paths.join(directory.path, name))
                return 0 if found is None else found.mode
            directory.listing = view.modes(directory.path)
        return directory.listing.get(name, 0)


def _apply(descriptor: int, attributes: Attributes) -> None:
    """Metadata of an open directory."""
    os.fchown(descriptor, attributes.uid, attributes.gid)
    os.fchmod(descriptor, attributes.mode)
    _set_xattrs(descriptor, attributes.xattrs)
    if attributes.times_ns is not None:
        os.utime(descriptor, ns=attributes.times_ns)


def _set_xattrs(file: int | bytes, xattrs: tuple[tuple[bytes, bytes], ...]) -> None:
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


def _not_a_directory(path: bytes) -> NotADirectoryError:
    return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), paths.shown(path))

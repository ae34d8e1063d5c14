"""A filesystem by paths, for tests: one interface over a union in process and over a plain directory.

``UnionPaths`` speaks ``FilesystemOps`` the way the kernel does: it looks names up, keeps or drops references, opens,
releases. ``PlainPaths`` is the known-good one. Both raise ``OSError``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from unionfs import _sys
from unionfs.ops import FilesystemOps
from unionfs.types import ROOT_INO, Attr, Caller, HandleId, Ino, SetAttr

ROOT = Caller(0, 0, 1)


class Status(NamedTuple):
    """What both sides can say about a file in the same words."""

    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime_ns: int


class Paths(Protocol):
    """Operations by path, ``b""`` is the root."""

    def stat(self, path: bytes) -> Status: ...
    def ino(self, path: bytes) -> int: ...
    def list(self, path: bytes) -> list[bytes]: ...
    def read(self, path: bytes) -> bytes: ...
    def write(self, path: bytes, data: bytes, flags: int = os.O_CREAT | os.O_TRUNC, mode: int = 0o644) -> None: ...
    def append(self, path: bytes, data: bytes) -> None: ...
    def truncate(self, path: bytes, size: int) -> None: ...
    def mkdir(self, path: bytes, mode: int = 0o755) -> None: ...
    def mknod(self, path: bytes, mode: int, rdev: int = 0) -> None: ...
    def symlink(self, target: bytes, path: bytes) -> None: ...
    def readlink(self, path: bytes) -> bytes: ...
    def link(self, old: bytes, new: bytes) -> None: ...
    def unlink(self, path: bytes) -> None: ...
    def rmdir(self, path: bytes) -> None: ...
    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None: ...
    def chmod(self, path: bytes, mode: int) -> None: ...
    def chown(self, path: bytes, uid: int, gid: int) -> None: ...
    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None: ...
    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int = 0) -> None: ...
    def getxattr(self, path: bytes, name: bytes) -> bytes: ...
    def listxattr(self, path: bytes) -> list[bytes]: ...
    def removexattr(self, path: bytes, name: bytes) -> None: ...


class PlainPaths:
    """A plain directory."""

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)

    def _at(self, path: bytes) -> bytes:
        return self._root + b"/" + path

    def stat(self, path: bytes) -> Status:
        found = os.lstat(self._at(path))
        return Status(
            found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_rdev, found.st_size, found.st_mtime_ns
        )

    def ino(self, path: bytes) -> int:
        return os.lstat(self._at(path)).st_ino

    def list(self, path: bytes) -> list[bytes]:
        return sorted(os.listdir(self._at(path)))

    def read(self, path: bytes) -> bytes:
        return Path(os.fsdecode(self._at(path))).read_bytes()

    def write(self, path: bytes, data: bytes, flags: int = os.O_CREAT | os.O_TRUNC, mode: int = 0o644) -> None:
        fd = os.open(self._at(path), flags | os.O_WRONLY | os.O_NOFOLLOW, mode)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def append(self, path: bytes, data: bytes) -> None:
        self.write(path, data, os.O_APPEND)

    def truncate(self, path: bytes, size: int) -> None:
        os.truncate(self._at(path), size)

    def mkdir(self, path: bytes, mode: int = 0o755) -> None:
        os.mkdir(self._at(path), mode)

    def mknod(self, path: bytes, mode: int, rdev: int = 0) -> None:
        os.mknod(self._at(path), mode, rdev)

    def symlink(self, target: bytes, path: bytes) -> None:
        os.symlink(target, self._at(path))

    def readlink(self, path: bytes) -> bytes:
        return os.readlink(self._at(path))

    def link(self, old: bytes, new: bytes) -> None:
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def unlink(self, path: bytes) -> None:
        os.unlink(self._at(path))

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self._at(path))

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        _sys.renameat2(-100, self._at(old), -100, self._at(new), flags)

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        os.chown(self._at(path), uid, gid, follow_symlinks=False)

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        os.utime(self._at(path), ns=(atime_ns, mtime_ns), follow_symlinks=False)

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int = 0) -> None:
        os.setxattr(self._at(path), name, value, flags, follow_symlinks=False)

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        return os.getxattr(self._at(path), name, follow_symlinks=False)

    def listxattr(self, path: bytes) -> list[bytes]:
        return sorted(os.fsencode(name) for name in os.listxattr(self._at(path), follow_symlinks=False))

    def removexattr(self, path: bytes, name: bytes) -> None:
        os.removexattr(self._at(path), name, follow_symlinks=False)


class UnionPaths:
    """A filesystem behind ``FilesystemOps``; ``forgetful`` gives every reference back after each operation."""

    def __init__(self, ops: FilesystemOps, caller: Caller = ROOT, *, forgetful: bool = True) -> None:
        self.ops = ops
        self.caller = caller
        self._forgetful = forgetful
        self._references: list[Ino] = []

    # -- nodes -------------------------------------------------------------------------------------------------
    @contextmanager
    def node(self, path: bytes) -> Iterator[Attr]:
        """Attributes of the file while its references are held."""
        start = len(self._references)
        try:
            attr = self.ops.getattr(ROOT_INO, None)
            for name in path.split(b"/") if path else ():
                attr = self.ops.lookup(attr.ino, name, self.caller)
                self._references.append(attr.ino)
            yield attr
        finally:
            if self._forgetful:
                while len(self._references) > start:
                    self.ops.forget(self._references.pop(), 1)

    @contextmanager
    def _parent(self, path: bytes) -> Iterator[tuple[Ino, bytes]]:
        directory, _, name = path.rpartition(b"/")
        with self.node(directory) as attr:
            if not stat.S_ISDIR(attr.mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
            yield attr.ino, name

    def _made(self, attr: Attr) -> None:
        if self._forgetful:
            self.ops.forget(attr.ino, 1)
        else:
            self._references.append(attr.ino)

    def forget_all(self) -> None:
        """No reference is held any more."""
        while self._references:
            self.ops.forget(self._references.pop(), 1)

    @contextmanager
    def open(self, path: bytes, flags: int = os.O_RDONLY) -> Iterator[HandleId]:
        """An open file; looked up again after ESTALE, as the kernel does."""
        with self.node(path) as attr:
            try:
                handle = self.ops.open(attr.ino, flags, self.caller)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                with self.node(path) as again:
                    handle = self.ops.open(again.ino, flags, self.caller)
        try:
            yield handle
        finally:
            self.ops.release(handle)

    # -- Paths -------------------------------------------------------------------------------------------------
    def stat(self, path: bytes) -> Status:
        with self.node(path) as attr:
            return Status(attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev, attr.size, attr.mtime_ns)

    def ino(self, path: bytes) -> int:
        with self.node(path) as attr:
            return attr.visible_ino

    def list(self, path: bytes) -> list[bytes]:
        with self.node(path) as attr:
            handle = self.ops.opendir(attr.ino)
            try:
                return sorted(entry.name for entry in self.ops.readdir(handle, 0, attributes=True))
            finally:
                self.ops.releasedir(handle)

    def read(self, path: bytes) -> bytes:
        with self.open(path) as handle:
            return self.ops.read(handle, 0, 1 << 30)

    def write(self, path: bytes, data: bytes, flags: int = os.O_CREAT | os.O_TRUNC, mode: int = 0o644) -> None:
        if flags & os.O_CREAT:
            try:
                with self.node(path):
                    pass
            except FileNotFoundError:
                self._create(path, data, flags, mode)
                return
            if flags & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        with self.open(path, flags & ~os.O_CREAT | os.O_WRONLY) as handle:
            self.ops.write(handle, 0, data)

    def _create(self, path: bytes, data: bytes, flags: int, mode: int) -> None:
        with self._parent(path) as (parent, name):
            attr, handle = self.ops.create(parent, name, mode, flags | os.O_WRONLY, self.caller)
        try:
            self.ops.write(handle, 0, data)
        finally:
            self.ops.release(handle)
            self._made(attr)

    def append(self, path: bytes, data: bytes) -> None:
        self.write(path, data, os.O_APPEND)

    def truncate(self, path: bytes, size: int) -> None:
        self._change(path, SetAttr(size=size))

    def _change(self, path: bytes, changes: SetAttr) -> None:
        with self.node(path) as attr:
            self.ops.setattr(attr.ino, changes, None, self.caller)

    def _make(self, path: bytes, call: Callable[[Ino, bytes], Attr]) -> None:
        with self._parent(path) as (parent, name):
            self._made(call(parent, name))

    def mkdir(self, path: bytes, mode: int = 0o755) -> None:
        self._make(path, lambda parent, name: self.ops.mkdir(parent, name, mode, self.caller))

    def mknod(self, path: bytes, mode: int, rdev: int = 0) -> None:
        self._make(path, lambda parent, name: self.ops.mknod(parent, name, mode, rdev, self.caller))

    def symlink(self, target: bytes, path: bytes) -> None:
        self._make(path, lambda parent, name: self.ops.symlink(parent, name, target, self.caller))

    def readlink(self, path: bytes) -> bytes:
        with self.node(path) as attr:
            return self.ops.readlink(attr.ino)

    def link(self, old: bytes, new: bytes) -> None:
        with self.node(old) as attr:
            self._make(new, lambda parent, name: self.ops.link(attr.ino, parent, name))

    def unlink(self, path: bytes) -> None:
        with self.node(path), self._parent(path) as (parent, name):
            self.ops.unlink(parent, name)

    def rmdir(self, path: bytes) -> None:
        with self.node(path), self._parent(path) as (parent, name):
            self.ops.rmdir(parent, name)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        with self._parent(old) as (parent, name), self._parent(new) as (new_parent, new_name):
            self.ops.rename(parent, name, new_parent, new_name, flags)

    def chmod(self, path: bytes, mode: int) -> None:
        self._change(path, SetAttr(mode=mode))

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        self._change(path, SetAttr(uid=uid, gid=gid))

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        self._change(path, SetAttr(atime_ns=atime_ns, mtime_ns=mtime_ns))

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int = 0) -> None:
        with self.node(path) as attr:
            self.ops.setxattr(attr.ino, name, value, flags)

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        with self.node(path) as attr:
            return self.ops.getxattr(attr.ino, name)

    def listxattr(self, path: bytes) -> list[bytes]:
        with self.node(path) as attr:
            return sorted(self.ops.listxattr(attr.ino))

    def removexattr(self, path: bytes, name: bytes) -> None:
        with self.node(path) as attr:
            self.ops.removexattr(attr.ino, name)


def tree(paths: Paths, top: bytes = b"") -> dict[bytes, tuple[object, ...]]:
    """Everything that shows, by path: type and mode, owner, content or target, number of links."""
    found: dict[bytes, tuple[object, ...]] = {}
    pending = [top]
    while pending:
        directory = pending.pop()
        for name in paths.list(directory):
            path = directory + b"/" + name if directory else name
            status = paths.stat(path)
            content: bytes | None = None
            if stat.S_ISREG(status.mode):
                content = paths.read(path)
            elif stat.S_ISLNK(status.mode):
                content = paths.readlink(path)
            elif stat.S_ISDIR(status.mode):
                pending.append(path)
            found[path] = (status.mode, status.uid, status.gid, status.rdev, content, status.nlink)
    return found

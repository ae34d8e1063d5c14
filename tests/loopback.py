"""A known-good filesystem for tests of the transports: one directory, passed on call by call.

Implements the production contract (`unionfs.ops.FilesystemOps`) with nothing of the union in it, so that a failure
seen here is the transport's. Each node holds an O_PATH descriptor of its file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from unionfs import _sys
from unionfs.types import ROOT_INO, Attr, Caller, DirEntry, HandleId, Ino, SetAttr, StatFs


class _Node:
    def __init__(self, ino: Ino, fd: int, key: tuple[int, int]) -> None:
        self.ino = ino
        self.fd = fd
        self.key = key
        self.references = 0


class Loopback:
    """``root`` as a filesystem; ``pass_through`` offers its files to the kernel."""

    def __init__(self, root: bytes, *, owned: bool = True, pass_through: bool = False) -> None:
        self._owned = owned
        self._pass_through = pass_through
        self._nodes: dict[Ino, _Node] = {}
        self._by_key: dict[tuple[int, int], _Node] = {}
        self._handles: dict[HandleId, int] = {}
        self._listings: dict[HandleId, list[tuple[bytes, int, int]]] = {}
        self._directories: dict[HandleId, Ino] = {}
        self._last_ino = 0
        self._last_handle = 0
        self.closed = False
        os.umask(0)
        self._adopt(os.open(root, os.O_PATH | os.O_DIRECTORY))
        self._nodes[ROOT_INO].references = 1

    @property
    def known_nodes(self) -> int:
        return len(self._nodes)

    @property
    def open_handles(self) -> int:
        return len(self._handles) + len(self._listings)

    def defer_copies(self) -> None:
        pass

    # -- names --------------------------------------------------------------------------------------------------
    def lookup(self, parent: Ino, name: bytes, caller: Caller) -> Attr:
        node = self._find(parent, name)
        node.references += 1
        return self._attr(node)

    def remember(self, ino: Ino) -> None:
        self._nodes[ino].references += 1

    def forget(self, ino: Ino, count: int) -> None:
        node = self._nodes.get(ino)
        if node is None or ino == ROOT_INO:
            return
        node.references -= count
        if node.references <= 0:
            self._drop(node)

    # -- attributes ---------------------------------------------------------------------------------------------
    def getattr(self, ino: Ino, handle: HandleId | None) -> Attr:
        return self._attr(self._nodes[ino])

    def setattr(self, ino: Ino, changes: SetAttr, handle: HandleId | None, caller: Caller) -> Attr:
        node = self._nodes[ino]
        path = self._path(ino)
        if changes.uid is not None or changes.gid is not None:
            uid = -1 if changes.uid is None else changes.uid
            gid = -1 if changes.gid is None else changes.gid
            os.chown(path, uid, gid)
        if changes.mode is not None:
            os.chmod(path, changes.mode)
        if changes.size is not None:
            os.truncate(self._handles[handle] if handle is not None else path, changes.size)
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            now = os.fstat(node.fd)
            atime = now.st_atime_ns if changes.atime_ns is None else changes.atime_ns
            mtime = now.st_mtime_ns if changes.mtime_ns is None else changes.mtime_ns
            os.utime(path, ns=(atime, mtime))
        return self._attr(node)

    def readlink(self, ino: Ino) -> bytes:
        return os.readlink(b"", dir_fd=self._nodes[ino].fd)

    # -- making and removing names ------------------------------------------------------------------------------
    def mknod(self, parent: Ino, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        os.mknod(name, mode & ~caller.umask, rdev, dir_fd=self._nodes[parent].fd)
        return self._made(parent, name, caller)

    def mkdir(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> Attr:
        os.mkdir(name, mode & ~caller.umask, dir_fd=self._nodes[parent].fd)
        return self._made(parent, name, caller)

    def symlink(self, parent: Ino, name: bytes, target: bytes, caller: Caller) -> Attr:
        os.symlink(target, name, dir_fd=self._nodes[parent].fd)
        return self._made(parent, name, caller)

    def link(self, ino: Ino, parent: Ino, name: bytes) -> Attr:
        os.link(self._path(ino), name, dst_dir_fd=self._nodes[parent].fd, follow_symlinks=True)
        return self.lookup(parent, name, Caller(0, 0, 0))

    def unlink(self, parent: Ino, name: bytes) -> None:
        os.unlink(name, dir_fd=self._nodes[parent].fd)

    def rmdir(self, parent: Ino, name: bytes) -> None:
        os.rmdir(name, dir_fd=self._nodes[parent].fd)

    def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int) -> None:
        _sys.renameat2(self._nodes[parent].fd, name, self._nodes[new_parent].fd, new_name, flags)

    # -- open files ---------------------------------------------------------------------------------------------
    def open(self, ino: Ino, flags: int, caller: Caller) -> HandleId:
        return self._hold(os.open(self._path(ino), _plain(flags)))

    def create(self, parent: Ino, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Attr, HandleId]:
        fd = os.open(name, _plain(flags) | os.O_CREAT, mode & ~caller.umask, dir_fd=self._nodes[parent].fd)
        attr = self._made(parent, name, caller)
        return attr, self._hold(fd)

    def tmpfile(self, parent: Ino, mode: int, flags: int, caller: Caller) -> tuple[Attr, HandleId]:
        fd = os.open(self._path(parent), _plain(flags) | os.O_TMPFILE, mode & ~caller.umask)
        os.fchown(fd, caller.uid, caller.gid)
        node = self._adopt(os.open(f"/proc/self/fd/{fd}", os.O_PATH))
        node.references += 1
        return self._attr(node), self._hold(fd)

    def read(self, handle: HandleId, offset: int, size: int) -> bytes:
        return os.pread(self._handles[handle], size, offset)

    def write(self, handle: HandleId, offset: int, data: bytes | memoryview) -> int:
        return os.pwrite(self._handles[handle], data, offset)

    def fsync(self, handle: HandleId, datasync: bool) -> None:
        (os.fdatasync if datasync else os.fsync)(self._handles[handle])

    def release(self, handle: HandleId) -> None:
        os.close(self._handles.pop(handle))

    def fallocate(self, handle: HandleId, mode: int, offset: int, length: int) -> None:
        _sys.fallocate(self._handles[handle], mode, offset, length)

    def lseek(self, handle: HandleId, offset: int, whence: int) -> int:
        return os.lseek(self._handles[handle], offset, whence)

    def copy_file_range(
        self, source: HandleId, source_offset: int, target: HandleId, target_offset: int, length: int
    ) -> int:
        return os.copy_file_range(self._handles[source], self._handles[target], length, source_offset, target_offset)

    def backing_fd(self, handle: HandleId) -> int | None:
        if not self._pass_through:
            return None
        at = os.fstat(self._handles[handle])
        return self._by_key[at.st_dev, at.st_ino].fd

    def content_fd(self, handle: HandleId) -> int:
        return self._handles[handle]

    def whole_content(self, handle: HandleId) -> bytes | None:
        return None

    # -- directories --------------------------------------------------------------------------------------------
    def opendir(self, ino: Ino) -> HandleId:
        fd = os.open(self._path(ino), os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(fd) as entries:
                listing = [(os.fsencode(entry.name), entry.inode(), _type_bits(entry)) for entry in entries]
        finally:
            os.close(fd)
        handle = self._number()
        self._listings[handle] = listing
        self._directories[handle] = ino
        return handle

    def readdir(self, handle: HandleId, cookie: int, attributes: bool) -> Iterator[DirEntry]:
        parent = self._directories[handle]
        for position, (name, inode, type_bits) in enumerate(self._listings[handle][cookie:], cookie + 1):
            yield DirEntry(name, position, inode, type_bits, self._listed(parent, name) if attributes else None)

    def releasedir(self, handle: HandleId) -> None:
        del self._listings[handle]
        del self._directories[handle]

    def fsyncdir(self, ino: Ino, datasync: bool) -> None:
        fd = os.open(self._path(ino), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # -- the rest -----------------------------------------------------------------------------------------------
    def statfs(self) -> StatFs:
        room = os.fstatvfs(self._nodes[ROOT_INO].fd)
        return StatFs(
            room.f_bsize,
            room.f_frsize,
            room.f_blocks,
            room.f_bfree,
            room.f_bavail,
            room.f_files,
            room.f_ffree,
            room.f_namemax,
        )

    def getxattr(self, ino: Ino, name: bytes) -> bytes:
        return os.getxattr(self._path(ino), name)

    def setxattr(self, ino: Ino, name: bytes, value: bytes, flags: int) -> None:
        os.setxattr(self._path(ino), name, value, flags)

    def listxattr(self, ino: Ino) -> list[bytes]:
        return [os.fsencode(name) for name in os.listxattr(self._path(ino))]

    def removexattr(self, ino: Ino, name: bytes) -> None:
        os.removexattr(self._path(ino), name)

    def entries_stay_valid(self) -> bool:
        return self._owned

    def close(self) -> None:
        self.closed = True
        for fd in self._handles.values():
            os.close(fd)
        for node in self._nodes.values():
            os.close(node.fd)
        self._handles.clear()
        self._listings.clear()
        self._nodes.clear()

    # -- inside -------------------------------------------------------------------------------------------------
    def _path(self, ino: Ino) -> str:
        return f"/proc/self/fd/{self._nodes[ino].fd}"

    def _number(self) -> HandleId:
        self._last_handle += 1
        return HandleId(self._last_handle)

    def _hold(self, fd: int) -> HandleId:
        handle = self._number()
        self._handles[handle] = fd
        return handle

    def _find(self, parent: Ino, name: bytes) -> _Node:
        return self._adopt(os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._nodes[parent].fd))

    def _adopt(self, fd: int) -> _Node:
        at = os.fstat(fd)
        key = (at.st_dev, at.st_ino)
        known = self._by_key.get(key)
        if known is not None:
            os.close(fd)
            return known
        self._last_ino += 1
        node = _Node(Ino(self._last_ino), fd, key)
        self._nodes[node.ino] = self._by_key[key] = node
        return node

    def _drop(self, node: _Node) -> None:
        del self._nodes[node.ino]
        del self._by_key[node.key]
        os.close(node.fd)

    def _listed(self, parent: Ino, name: bytes) -> Attr | None:
        try:
            return self._attr(self._find(parent, name))
        except FileNotFoundError:
            return None

    def _made(self, parent: Ino, name: bytes, caller: Caller) -> Attr:
        node = self._find(parent, name)
        directory = os.fstat(self._nodes[parent].fd)
        path = self._path(node.ino)
        mode = stat.S_IMODE(os.fstat(node.fd).st_mode)
        os.chown(path, caller.uid, directory.st_gid if directory.st_mode & stat.S_ISGID else caller.gid)
        if mode & (stat.S_ISUID | stat.S_ISGID):
            os.chmod(path, mode)
        node.references += 1
        return self._attr(node)

    def _attr(self, node: _Node) -> Attr:
        at = os.fstat(node.fd)
        return Attr(
            ino=node.ino,
            visible_ino=at.st_ino,
            mode=at.st_mode,
            nlink=at.st_nlink,
            uid=at.st_uid,
            gid=at.st_gid,
            rdev=at.st_rdev,
            size=at.st_size,
            blocks=at.st_blocks,
            blksize=at.st_blksize,
            atime_ns=at.st_atime_ns,
            mtime_ns=at.st_mtime_ns,
            ctime_ns=at.st_ctime_ns,
        )


def _plain(flags: int) -> int:
    return flags & ~(os.O_NOFOLLOW | os.O_DIRECT)


def _type_bits(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFREG if entry.is_file(follow_symlinks=False) else 0

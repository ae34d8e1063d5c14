"""One entry up: a copy of a file, directory or special file with all its metadata, made beside its place.

``Copier.stage`` leaves a complete copy in the directory of temporary things of the target branch; the caller puts it
into its place with one rename. So a crash leaves nothing or the whole file. Data travels by FICLONE, else
copy_file_range, else read and write; holes stay holes. Then owner, mode, xattrs (``security.capability`` and ACLs
among them) and times, in this order, since a change of owner takes setuid and capabilities away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import NamedTuple

from unionfs import _sys, whiteout
from unionfs.branch import OpenBranch
from unionfs.ownership import Stored, can_carry, encode_stored, inode_mode

_CHUNK_BYTES = 1 << 20
_COPY_BYTES = 1 << 30
_NOT_COPIED = frozenset((errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF))


class Ownership(NamedTuple):
    """Owner and mode a copy gets; None keeps that of the source."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None


PRESERVED = Ownership()


class Copier:
    """Makes staged copies; remembers which filesystems cannot share blocks.

    ``store``, when set, names the attribute in which copies keep their owner and mode (``ownership``).
    """

    def __init__(self, *, durable: bool) -> None:
        self._durable = durable
        self.store: str | None = None
        self._clones: dict[tuple[int, int], bool] = {}
        self._privileged = os.geteuid() == 0

    def stage(
        self,
        source: OpenBranch,
        path: bytes,
        target: OpenBranch,
        ownership: Ownership = PRESERVED,
        size_bytes: int | None = None,
    ) -> bytes:
        """Name, in the directory of temporary things of ``target``, of a copy of ``path`` in ``source``.

        A directory is copied without what is in it; of a regular file at most ``size_bytes`` bytes are copied.
        """
        fd, rest = source.at(path)
        status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
        temporary_fd, name = target.temporary()
        try:
            if stat.S_ISREG(status.st_mode):
                self._copy_file(source, path, temporary_fd, name, size_bytes)
            elif stat.S_ISDIR(status.st_mode):
                os.mkdir(name, 0o700, dir_fd=temporary_fd)
            elif stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(rest, dir_fd=fd), name, dir_fd=temporary_fd)
            else:
                os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=temporary_fd)
            self._copy_metadata(source.proc_path(path), status, temporary_fd, name, ownership)
        except BaseException:
            target.discard(name)
            raise
        return name

    def stage_unnamed(
        self, fd: int, target: OpenBranch, ownership: Ownership = PRESERVED, size_bytes: int | None = None
    ) -> bytes:
        """As ``stage``, of the regular file behind ``fd``, which need not have a name any more."""
        temporary_fd, name = target.temporary()
        source_fd = os.open(b"/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._copy_open(source_fd, temporary_fd, name, size_bytes)
            self._copy_metadata(source_fd, os.fstat(source_fd), temporary_fd, name, ownership)
        except BaseException:
            target.discard(name)
            raise
        finally:
            os.close(source_fd)
        return name

    def _copy_file(
        self, source: OpenBranch, path: bytes, temporary_fd: int, name: bytes, size_bytes: int | None
    ) -> None:
        fd, rest = source.at(path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        source_fd = os.open(rest, flags, dir_fd=fd)
        try:
            self._copy_open(source_fd, temporary_fd, name, size_bytes)
        finally:
            os.close(source_fd)

    def _copy_open(self, source_fd: int, temporary_fd: int, name: bytes, size_bytes: int | None) -> None:
        target_fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=temporary_fd)
        try:
            self.copy_data(source_fd, target_fd, size_bytes)
            if self._durable:
                os.fdatasync(target_fd)
        finally:
            os.close(target_fd)

    def copy_data(self, source_fd: int, target_fd: int, size_bytes: int | None = None) -> None:
        """The empty file ``target_fd`` has the content of ``source_fd``, at most ``size_bytes``, holes included."""
        status = os.fstat(source_fd)
        size = status.st_size if size_bytes is None else min(size_bytes, status.st_size)
        if not size:
            return
        if size == status.st_size and self._clone(source_fd, target_fd, status.st_dev):
            return
        if status.st_blocks * 512 >= status.st_size:
            _copy_range(source_fd, target_fd, 0, size)
            return
        offset = 0
        while offset < size:
            try:
                start = os.lseek(source_fd, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            offset = min(os.lseek(source_fd, start, os.SEEK_HOLE), size)
            if start < offset:
                _copy_range(source_fd, target_fd, start, offset)
        os.ftruncate(target_fd, size)

    def _clone(self, source_fd: int, target_fd: int, source_dev: int) -> bool:
        pair = (source_dev, os.fstat(target_fd).st_dev)
        if self._clones.get(pair, True):
            try:
                fcntl.ioctl(target_fd, _sys.FICLONE, source_fd)
            except OSError:
                self._clones[pair] = False
            else:
                return True
        return False

    def _copy_metadata(
        self, source: bytes | int, status: os.stat_result, temporary_fd: int, name: bytes, ownership: Ownership
    ) -> None:
        mode = stat.S_IMODE(status.st_mode) if ownership.mode is None else ownership.mode
        uid = status.st_uid if ownership.uid is None else ownership.uid
        gid = status.st_gid if ownership.gid is None else ownership.gid
        try:
            os.chown(name, uid, gid, dir_fd=temporary_fd, follow_symlinks=False)
        except PermissionError:
            if self._privileged:
                raise
            # a plain user cannot give files away: the copy is the user's, so it must not carry the owner's powers
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
        target = b"/proc/self/fd/%d/%s" % (temporary_fd, name)
        stores = self.store is not None and can_carry(status.st_mode)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, inode_mode(stat.S_IFMT(status.st_mode) | mode) if stores else mode, dir_fd=temporary_fd)
        self.copy_xattrs(source, target)
        if stores:
            self._store(target, Stored(uid, gid, stat.S_IMODE(status.st_mode) if ownership.mode is None else mode))
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=temporary_fd, follow_symlinks=False)

    def _store(self, target: bytes, stored: Stored) -> None:
        """The attribute says who owns the copy, unless that of the source, copied, does."""
        if self.store is not None:
            with contextlib.suppress(FileExistsError):
                os.setxattr(target, self.store, encode_stored(stored), _sys.XATTR_CREATE)

    def copy_xattrs(self, source: bytes | int, target: bytes) -> None:
        """The host path ``target`` has the extended attributes of ``source``, the marks of unions left out."""
        follows = isinstance(source, int)
        try:
            names = os.listxattr(source, follow_symlinks=follows)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return
            raise
        for name in names:
            if whiteout.is_own_xattr(os.fsencode(name)):
                continue
            value = os.getxattr(source, name, follow_symlinks=follows)
            try:
                os.setxattr(target, name, value, follow_symlinks=False)
            except OSError as error:
                # labels that the target filesystem sets by itself, and what only the superuser may set
                if error.errno not in {errno.EOPNOTSUPP, errno.EPERM} or (self._privileged and _must_be_kept(name)):
                    raise


def _must_be_kept(name: str) -> bool:
    return name == "security.capability" or name.startswith(("system.posix_acl_", "user."))


def _copy_range(source_fd: int, target_fd: int, start: int, end: int) -> None:
    offset = start
    with contextlib.suppress(_Uncopied):
        while offset < end:
            offset += _copy_in_kernel(source_fd, target_fd, offset, min(end - offset, _COPY_BYTES))
        return
    while offset < end:
        data = os.pread(source_fd, min(_CHUNK_BYTES, end - offset), offset)
        if not data:
            return
        written = 0
        while written < len(data):
            written += os.pwrite(target_fd, data[written:], offset + written)
        offset += len(data)


class _Uncopied(Exception):  # noqa: N818 - a turn of the road, not an error
    """The kernel does not copy between these two files."""


def _copy_in_kernel(source_fd: int, target_fd: int, offset: int, count: int) -> int:
    try:
        copied = os.copy_file_range(source_fd, target_fd, count, offset, offset)
    except OSError as error:
        if error.errno in _NOT_COPIED:
            raise _Uncopied from error
        raise
    if not copied:
        raise _Uncopied
    return copied

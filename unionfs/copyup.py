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
import functools
import os
import stat

from unionfs import _sys, whiteout
from unionfs.branch import OpenBranch
from unionfs.longcopy import ContentCopy, copy_range, data_ranges, settle
from unionfs.namedtuple import NamedTuple
from unionfs.ops import CopyPendingError
from unionfs.ownership import Stored, can_carry, encode_stored, inode_mode

LONG_BYTES = 16 << 20
"""More than this is copied while other requests are answered."""


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
        self.defers = False
        """Whether who asks can wait for the copy of a large file (``ops.CopyPendingError``)."""
        self._copies: dict[tuple[int, int, OpenBranch, int | None], ContentCopy] = {}
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
        if stat.S_ISREG(status.st_mode):
            name = self._copy_file(source, path, target, size_bytes)
            temporary_fd = target.journal_fd()
        else:
            temporary_fd, name = target.temporary()
        try:
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(name, 0o700, dir_fd=temporary_fd)
            elif stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(rest, dir_fd=fd), name, dir_fd=temporary_fd)
            elif not stat.S_ISREG(status.st_mode):
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
        source_fd = os.open(b"/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            name = self._copy_open(source_fd, target, size_bytes, defers=self.defers)
            try:
                self._copy_metadata(source_fd, os.fstat(source_fd), target.temporary()[0], name, ownership)
            except BaseException:
                target.discard(name)
                raise
        finally:
            os.close(source_fd)
        return name

    def prepare(self, source: OpenBranch, path: bytes, target: OpenBranch) -> None:
        """The content of the regular file at ``path`` is copied already, or quickly so. Raises CopyPendingError."""
        fd, rest = source.at(path)
        status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
        known = self._copies.get((status.st_dev, status.st_ino, target, None))
        if stat.S_ISREG(status.st_mode) and _is_long(status, None) and (known is None or not known.finished):
            target.discard(self._copy_file(source, path, target, None))

    @property
    def copies(self) -> tuple[ContentCopy, ...]:
        """The copies that were begun and nobody has taken yet."""
        return tuple(self._copies.values())

    def _copy_file(self, source: OpenBranch, path: bytes, target: OpenBranch, size_bytes: int | None) -> bytes:
        fd, rest = source.at(path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        source_fd = os.open(rest, flags, dir_fd=fd)
        try:
            # what others may write to must be copied at one instant
            return self._copy_open(source_fd, target, size_bytes, defers=self.defers and not source.writable)
        finally:
            os.close(source_fd)

    def _copy_open(self, source_fd: int, target: OpenBranch, size_bytes: int | None, *, defers: bool) -> bytes:
        """Name of a staged file with the content."""
        status = os.fstat(source_fd)
        key = (status.st_dev, status.st_ino, target, size_bytes)
        copy = self._copies.get(key)
        if copy is not None and not copy.finished:
            raise CopyPendingError(copy)
        taken = copy.take(source_fd) if copy is not None else None
        if taken is not None:
            return taken
        temporary_fd, name = target.temporary()
        target_fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=temporary_fd)
        try:
            if defers and _is_long(status, size_bytes) and not self._clone(source_fd, target_fd, size_bytes, status):
                raise CopyPendingError(self._begin(source_fd, target, name, key))
            self.copy_data(source_fd, target_fd, size_bytes)
            if self._durable:
                settle(target_fd)
        except CopyPendingError:
            raise
        except BaseException:
            target.discard(name)
            raise
        finally:
            os.close(target_fd)
        return name

    def _begin(
        self, source_fd: int, target: OpenBranch, name: bytes, key: tuple[int, int, OpenBranch, int | None]
    ) -> ContentCopy:
        size = os.fstat(source_fd).st_size if key[3] is None else min(key[3], os.fstat(source_fd).st_size)
        copy = ContentCopy(os.dup(source_fd), target, name, size, durable=self._durable)
        self._copies[key] = copy
        copy.forget = functools.partial(self._copies.pop, key, None)
        return copy

    def copy_data(self, source_fd: int, target_fd: int, size_bytes: int | None = None) -> None:
        """The empty file ``target_fd`` has the content of ``source_fd``, at most ``size_bytes``, holes included."""
        status = os.fstat(source_fd)
        size = status.st_size if size_bytes is None else min(size_bytes, status.st_size)
        if not size or self._clone(source_fd, target_fd, size_bytes, status):
            return
        copied = 0
        for start, end in data_ranges(source_fd, size, status):
            copy_range(source_fd, target_fd, start, end)
            copied = end
        if copied < size:
            os.ftruncate(target_fd, size)

    def _clone(self, source_fd: int, target_fd: int, size_bytes: int | None, status: os.stat_result) -> bool:
        """Whether the two files, of which the whole source is wanted, share their blocks now."""
        pair = (status.st_dev, os.fstat(target_fd).st_dev)
        if (size_bytes is None or size_bytes >= status.st_size) and self._clones.get(pair, True):
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


def _is_long(status: os.stat_result, size_bytes: int | None) -> bool:
    """Whether the copy of so much of the file takes long."""
    size = min(status.st_size, status.st_blocks * 512)
    return (size if size_bytes is None else min(size, size_bytes)) > LONG_BYTES

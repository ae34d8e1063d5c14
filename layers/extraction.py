"""Entries of an archive become files of a branch.

The result is a branch as it lies: ``.wh.NAME`` and ``.wh..wh..opq`` stay as marks. An entry hides what the layers below
have under its name and replaces what the same archive put there before, as tar does. A whiteout speaks of the layers
below alone (image-spec, layer.md#whiteouts): beside an entry of the same archive it is dropped, beside a directory it
makes that opaque.

Invariants: nothing outside the directory is touched (layers.confined); attributes that are marks of unions never come
from an archive; directories get their mode and time last, when nothing more is put into them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping

from layers.confined import ConfinedTree, Parts, split_name
from layers.errors import ArchiveError, StoreError
from layers.lowerview import LowerEntry, LowerView
from layers.tar import entry as tar
from layers.tar.entry import Entry, show
from unionfs.namedtuple import NamedTuple
from unionfs.privileges import is_machine_root, mapped_ids
from unionfs.types import WhiteoutForm
from unionfs.whiteout import OPAQUE_NAME, PREFIX, is_own_xattr, make_device, written_form

_META_PREFIX = b".wh..wh."
_MOST_NOTES = 100
_SPECIAL = stat.S_ISUID | stat.S_ISGID
_DEVICES = {tar.CHARACTER_DEVICE: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK}
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Rights(NamedTuple):
    """What of an archive is taken over. A plain user cannot give files away, and must not make them setuid."""

    owners: bool
    devices: bool
    setuid: bool

    @classmethod
    def of_this_process(cls) -> Rights:
        """Everything for root, no devices for root of a user namespace, nothing for others.

        In a namespace of one id there is nobody to give files to.
        """
        root = os.geteuid() == 0
        return cls(owners=root and mapped_ids() > 1, devices=is_machine_root(), setuid=root)


class _Pending(NamedTuple):
    """What a directory gets at the end."""

    mode: int
    mtime_ns: int


class Extractor:
    """Fills one empty directory. ``finish`` ends it; ``close`` gives back what it holds, in every case.

    ``root_before``: the root in the layers below, whose attributes it keeps when the archive says nothing of it.
    """

    def __init__(self, root: bytes, lower: LowerView, rights: Rights, root_before: os.stat_result | None) -> None:
        self._tree = ConfinedTree(root, lower, self._implied_directory)
        self._rights = rights
        self._directories: dict[Parts, _Pending] = {}
        self._whiteouts = False
        self._notes: list[str] = []
        if root_before is None:
            self._directories[()] = _Pending(0o755, 0)
        else:
            self._own_directory(self._tree.root_fd, root_before.st_uid, root_before.st_gid, {}, b"/")
            self._directories[()] = _Pending(stat.S_IMODE(root_before.st_mode), root_before.st_mtime_ns)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out and why, the first hundred."""
        return tuple(self._notes)

    def close(self) -> None:
        """All descriptors are closed. Idempotent."""
        self._tree.close()

    def add(self, entry: Entry, chunks: Iterable[tuple[int, bytes]]) -> None:
        """The entry is in the directory; ``chunks`` are its content as (offset, bytes).

        Raises:
            ArchiveError: the entry reaches outside, or contradicts the rest of the archive.
            OSError: the filesystem does not take it.
        """
        parts = split_name(entry.name, "entry")
        if not parts:
            self._root(entry)
            return
        for part in parts[:-1]:
            if part.startswith(PREFIX):
                raise ArchiveError(f"archive: entry {show(entry.name)} lies under a whiteout")
        if parts[-1].startswith(PREFIX):
            self._mark(entry, parts)
            return
        fd, real = self._tree.parent(parts)
        path = (*real, parts[-1])
        if entry.type == tar.DIRECTORY:
            self._directory(entry, fd, path)
            return
        if self._whiteouts:
            self._drop_mark(fd, parts[-1])
        if entry.type == tar.HARD_LINK:
            self._hard_link(entry, parts)
            return
        try:
            self._not_directory(entry, fd, parts[-1], chunks)
        except FileExistsError:
            self._tree.remove(fd, parts[-1])
            self._not_directory(entry, fd, parts[-1], chunks)

    def finish(self) -> None:
        """Directories have their modes and times, the deepest first."""
        for path in sorted(self._directories, reverse=True):
            pending = self._directories[path]
            fd = self._tree.open_directory(path)
            if fd is None:
                continue
            try:
                os.fchmod(fd, pending.mode)
                os.utime(fd, ns=(pending.mtime_ns, pending.mtime_ns))
            finally:
                os.close(fd)

    # -- kinds ----------------------------------------------------------------------------------------------------
    def _root(self, entry: Entry) -> None:
        if entry.type != tar.DIRECTORY:
            raise ArchiveError(f"archive: entry {show(entry.name)} names the root and is no directory")
        self._own_directory(self._tree.root_fd, entry.uid, entry.gid, entry.xattrs, entry.name)
        self._directories[()] = _Pending(self._allowed(entry.mode), entry.mtime_ns)

    def _mark(self, entry: Entry, parts: Parts) -> None:
        name = parts[-1]
        if name != OPAQUE_NAME and name.startswith(_META_PREFIX):
            self._note(f"{show(entry.name)} is bookkeeping of another union: left out")
            return
        if name[len(PREFIX) :] in {b"", b".", b".."}:
            raise ArchiveError(f"archive: entry {show(entry.name)} would hide the directory it lies in")
        if entry.type not in {tar.REGULAR, tar.HARD_LINK}:
            raise ArchiveError(f"archive: whiteout {show(entry.name)} is no regular file")
        fd, real = self._tree.parent(parts)
        if name == OPAQUE_NAME:
            self._opaque(fd)
        else:
            self._whiteout(fd, real, name[len(PREFIX) :])

    def _whiteout(self, fd: int, real: Parts, name: bytes) -> None:
        self._whiteouts = True
        try:
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            prefix = b"/".join(real) + b"/" if real else b""
            if written_form(prefix, name, WhiteoutForm.AUFS) is WhiteoutForm.AUFS:
                self._empty(fd, PREFIX + name)
            else:
                make_device(fd, name)
            return
        if stat.S_ISDIR(mode):
            self._opaque_below(fd, name)

    def _directory(self, entry: Entry, fd: int, path: Parts) -> None:
        name = path[-1]
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                self._tree.remove(fd, name)
                os.mkdir(name, 0o700, dir_fd=fd)
        if self._whiteouts and self._drop_mark(fd, name):
            self._opaque_below(fd, name)
        own = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            self._own_directory(own, entry.uid, entry.gid, entry.xattrs, entry.name)
        finally:
            os.close(own)
        self._directories[path] = _Pending(self._allowed(entry.mode), entry.mtime_ns)

    def _not_directory(self, entry: Entry, fd: int, name: bytes, chunks: Iterable[tuple[int, bytes]]) -> None:
        if entry.type == tar.REGULAR:
            self._file(entry, fd, name, chunks)
        elif entry.type == tar.SYMLINK:
            if not entry.linkname:
                raise ArchiveError(f"archive: symbolic link {show(entry.name)} has no target")
            os.symlink(entry.linkname, name, dir_fd=fd)
            self._dress(entry, fd, name)
        elif entry.type == tar.FIFO:
            os.mkfifo(name, 0o600, dir_fd=fd)
            self._dress(entry, fd, name)
        else:
            self._device(entry, fd, name)

    def _file(self, entry: Entry, fd: int, name: bytes, chunks: Iterable[tuple[int, bytes]]) -> None:
        file = os.open(name, _NEW, 0o600, dir_fd=fd)
        try:
            for offset, chunk in chunks:
                view = memoryview(chunk)
                while view:
                    written = os.pwrite(file, view, offset)
                    offset += written  # noqa: PLW2901 - what is left of the chunk
                    view = view[written:]
            if entry.sparse is not None:
                os.ftruncate(file, entry.size)
            if self._rights.owners:
                os.fchown(file, entry.uid, entry.gid)
            if entry.xattrs:
                self._set_xattrs(file, entry.xattrs, entry.name)
            os.fchmod(file, self._allowed(entry.mode))
            os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(file)

    def _hard_link(self, entry: Entry, parts: Parts) -> None:
        target = split_name(entry.linkname, "hard link to")
        what = f"archive: hard link {show(entry.name)} to {show(entry.linkname)}"
        if not target or target[-1].startswith(PREFIX):
            raise ArchiveError(f"{what}, which no file can be")
        source = self._tree.existing_parent(target)
        if source is None:
            raise ArchiveError(f"{what}, which is not in the archive before it")
        # a descriptor of the tree is valid until the next is asked for
        source = os.dup(source)
        try:
            fd, _ = self._tree.parent(parts)
            try:
                os.link(target[-1], parts[-1], src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
            except FileExistsError:
                self._tree.remove(fd, parts[-1])
                os.link(target[-1], parts[-1], src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError as error:
            raise ArchiveError(f"{what}, which is not in the archive before it") from error
        except PermissionError as error:
            raise ArchiveError(f"{what}, which is a directory") from error
        finally:
            os.close(source)

    def _device(self, entry: Entry, fd: int, name: bytes) -> None:
        device = os.makedev(entry.major, entry.minor)
        if entry.type == tar.CHARACTER_DEVICE and device == 0:
            raise ArchiveError(f"archive: entry {show(entry.name)} is the device 0:0, the mark of another union")
        if not self._rights.devices:
            self._note(f"{show(entry.name)} is a device: left out")
            return
        try:
            os.mknod(name, _DEVICES[entry.type] | 0o600, device, dir_fd=fd)
        except PermissionError:
            # root of a user namespace
            self._note(f"{show(entry.name)} is a device and may not be made here: left out")
            return
        self._dress(entry, fd, name)

    # -- attributes -----------------------------------------------------------------------------------------------
    def _dress(self, entry: Entry, fd: int, name: bytes) -> None:
        """Owner, attributes, mode and time of what is no regular file and no directory."""
        if self._rights.owners:
            os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
        if entry.xattrs:
            self._set_xattrs(b"/proc/self/fd/%d/%s" % (fd, name), entry.xattrs, entry.name)
        if entry.type != tar.SYMLINK:
            os.chmod(name, self._allowed(entry.mode), dir_fd=fd)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=fd, follow_symlinks=False)

    def _own_directory(self, fd: int, uid: int, gid: int, xattrs: Mapping[bytes, bytes], name: bytes) -> None:
        if self._rights.owners:
            os.fchown(fd, uid, gid)
        if xattrs:
            self._set_xattrs(fd, xattrs, name)

    def _set_xattrs(self, file: int | bytes, xattrs: Mapping[bytes, bytes], name: bytes) -> None:
        for key, value in xattrs.items():
            if is_own_xattr(key):
                self._note(f"{show(name)}: attribute {show(key)} is a mark of a union: left out")
                continue
            try:
                if isinstance(file, int):
                    os.setxattr(file, key, value)
                else:
                    os.setxattr(file, key, value, follow_symlinks=False)
            except OSError as error:
                if error.errno in {errno.E2BIG, errno.ENOSPC, errno.EDQUOT, errno.ERANGE}:
                    # ext4 has one block for all attributes of a file: its disk need not be full
                    what = f"attribute {show(key)} of {len(value)} bytes does not fit"
                    raise StoreError(
                        f"archive: entry {show(name)}: {what}: {(error.strerror or '').lower()}"
                    ) from error
                if error.errno not in {errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EINVAL}:
                    raise
                self._note(f"{show(name)}: attribute {show(key)} is not taken here: {(error.strerror or '').lower()}")

    def _allowed(self, mode: int) -> int:
        return mode if self._rights.setuid else mode & ~_SPECIAL

    def _implied_directory(self, path: Parts, parent_fd: int, below: LowerEntry | None) -> None:
        """A directory that entries lie in and that has none itself: as in the layers below, else root's and 0755."""
        mode, mtime_ns = 0o755, 0
        if self._whiteouts and self._drop_mark(parent_fd, path[-1]):
            self._opaque_below(parent_fd, path[-1])
        if below is not None:
            mode, mtime_ns = stat.S_IMODE(below.status.st_mode), below.status.st_mtime_ns
            own = os.open(path[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
            try:
                xattrs = {os.fsencode(key): os.getxattr(below.host_path, key) for key in os.listxattr(below.host_path)}
                self._own_directory(own, below.status.st_uid, below.status.st_gid, xattrs, path[-1])
            finally:
                os.close(own)
        self._directories[path] = _Pending(mode, mtime_ns)

    # -- marks ----------------------------------------------------------------------------------------------------
    @staticmethod
    def _drop_mark(fd: int, name: bytes) -> bool:
        """Whether a whiteout of the name was there; it is gone."""
        try:
            os.unlink(PREFIX + name, dir_fd=fd)
        except OSError:
            return False
        return True

    @staticmethod
    def _empty(fd: int, name: bytes) -> None:
        try:
            os.close(os.open(name, _NEW, 0o600, dir_fd=fd))
        except FileExistsError:
            return

    def _opaque(self, fd: int) -> None:
        self._empty(fd, OPAQUE_NAME)

    def _opaque_below(self, fd: int, name: bytes) -> None:
        own = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            self._empty(own, OPAQUE_NAME)
        finally:
            os.close(own)

    def _note(self, text: str) -> None:
        if len(self._notes) < _MOST_NOTES:
            self._notes.append(text)

"""A change stream becomes the tar of a layer (image-spec, layer.md).

What is written: the entries in the order they come, ``.wh.NAME`` for a whiteout, ``.wh..wh..opq`` first in an opaque
directory, the first name of a file with its content and every further one as a hard link to it. Times are whole
seconds; user and group names stay empty. The root itself has no entry, as in layers of BuildKit, except as ``./`` when
its mode or owner differ from those it had before.

Invariants: equal trees give equal bytes, whatever the machine, filesystem and Python; memory does not grow with the
content. A file that changes its length meanwhile is an error, not a torn layer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import Protocol

from unionfs.delta import ChangeKind
from unionfs.errors import UnionError
from unionfs.namedtuple import NamedTuple
from unionfs.tar import entry as tar
from unionfs.tar.entry import NO_XATTRS, Entry, padding, show
from unionfs.tar.writer import END, encode_header
from unionfs.whiteout import OPAQUE_NAME, PREFIX

Write = Callable[[bytes], object]
"""Takes all of the data."""

_CHUNK = 1 << 20
_TYPES = {
    ChangeKind.DIRECTORY: tar.DIRECTORY,
    ChangeKind.OPAQUE_DIRECTORY: tar.DIRECTORY,
    ChangeKind.FILE: tar.REGULAR,
    ChangeKind.SYMLINK: tar.SYMLINK,
    ChangeKind.CHARACTER_DEVICE: tar.CHARACTER_DEVICE,
    ChangeKind.BLOCK_DEVICE: tar.BLOCK_DEVICE,
    ChangeKind.FIFO: tar.FIFO,
}
_OF_THE_MACHINE = frozenset({"security.selinux", "security.ima", "security.evm"})
"""Attributes that the kernel of this machine gave the file; they are no part of it."""


class TarError(UnionError):
    """A tree that cannot become a layer."""


class RootAttributes(NamedTuple):
    """What of the root directory goes into a layer when it changes."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0

    @classmethod
    def of(cls, status: Status) -> RootAttributes:
        """The attributes of a directory."""
        return cls(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


class Status(Protocol):
    """Of ``os.stat_result`` what a tar wants to know."""

    @property
    def st_mode(self) -> int:
        """Type and permission bits."""
        ...

    @property
    def st_uid(self) -> int:
        """Owner."""
        ...

    @property
    def st_gid(self) -> int:
        """Group."""
        ...

    @property
    def st_mtime_ns(self) -> int:
        """Last change of the content."""
        ...

    @property
    def st_size(self) -> int:
        """Bytes of a regular file."""
        ...

    @property
    def st_rdev(self) -> int:
        """Number of a device."""
        ...

    @property
    def st_nlink(self) -> int:
        """Names of the file."""
        ...

    @property
    def st_dev(self) -> int:
        """With `st_ino`, what two names of one file have in common."""
        ...

    @property
    def st_ino(self) -> int:
        """See `st_dev`."""
        ...


class Packable(Protocol):
    """One entry of a layer: a ``unionfs.delta.Change``, or what another source of layers has in its place."""

    @property
    def path(self) -> bytes:
        """Below the root of the layer; ``b""`` for the root itself."""
        ...

    @property
    def kind(self) -> ChangeKind:
        """What the entry says about its path."""
        ...

    @property
    def stat(self) -> Status:
        """Of the entry itself."""
        ...

    @property
    def is_directory(self) -> bool:
        """Whether the entry is a directory, opaque or not."""
        ...

    def open(self) -> int:
        """A descriptor of the regular file, for reading; the caller closes it."""
        ...

    def link_target(self) -> bytes:
        """Target of the symbolic link."""
        ...

    def xattrs(self) -> Mapping[str, bytes]:
        """Extended attributes by name, sorted, without marks of unions."""
        ...


class _NotTakenError(Exception):
    """Who takes the tar refused with ``error``: nothing is wrong with what it is made of."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class TarStream:
    """One layer being written; ``finish`` ends it."""

    def __init__(
        self, write: Write, *, latest_ns: int | None = None, root_before: RootAttributes | None = None
    ) -> None:
        """Later times become ``latest_ns``; ``root_before`` are the root's below this layer, None leaves it out."""
        self._out = write
        self._latest_ns = latest_ns
        self._root_before = root_before
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._first_names: dict[tuple[int, int], bytes] = {}
        self.entries = 0
        """How many were written."""
        self.notes: list[str] = []
        """What was left out and why."""

    def add(self, change: Packable) -> None:
        """The change is in the tar.

        Raises:
            TarError: it cannot be read, or changed meanwhile.
            OSError: the tar cannot be written to.
        """
        try:
            self._change(change)
        except _NotTakenError as failure:
            raise failure.error from None
        except OSError as error:
            text = (error.strerror or str(error)).lower()
            raise TarError(f"layer: cannot read {show(change.path)}: {text}") from error

    def finish(self) -> None:
        """The tar is whole and has been written. Raises OSError when it can't be."""
        try:
            self._write(END)
            self._flush()
        except _NotTakenError as failure:
            raise failure.error from None

    def _change(self, change: Packable) -> None:
        kind = change.kind
        if kind is ChangeKind.WHITEOUT:
            directory, slash, name = change.path.rpartition(b"/")
            self._entry(Entry(directory + slash + PREFIX + name, mode=0))
        elif kind is ChangeKind.SOCKET:
            self.notes.append(f"{show(change.path)} is a socket: left out")
        elif change.path:
            self._named(change, change.path)
        elif self._root_before is not None and RootAttributes.of(change.stat) != self._root_before:
            self._named(change, b".")
        if kind is ChangeKind.OPAQUE_DIRECTORY:
            self._entry(Entry(change.path + b"/" + OPAQUE_NAME if change.path else OPAQUE_NAME, mode=0))

    def _named(self, change: Packable, name: bytes) -> None:
        """An entry of that name, and its content when it is a file's first name."""
        status = change.stat
        kind = change.kind
        if status.st_nlink > 1 and not change.is_directory:
            key = (status.st_dev, status.st_ino)
            first = self._first_names.setdefault(key, name)
            if first is not name:
                entry = self._described(Entry(name, tar.HARD_LINK, linkname=first), status, NO_XATTRS)
                self._entry(entry)
                return
        entry = self._described(Entry(name, _TYPES[kind]), status, _portable(change.xattrs()))
        if kind is ChangeKind.FILE:
            self._file(change, entry)
            return
        if kind is ChangeKind.SYMLINK:
            entry = entry._replace(linkname=change.link_target())
        elif kind in {ChangeKind.CHARACTER_DEVICE, ChangeKind.BLOCK_DEVICE}:
            entry = entry._replace(major=os.major(status.st_rdev), minor=os.minor(status.st_rdev))
        self._entry(entry)

    def _described(self, entry: Entry, status: Status, xattrs: Mapping[bytes, bytes]) -> Entry:
        mtime_ns = status.st_mtime_ns
        if self._latest_ns is not None and mtime_ns > self._latest_ns:
            mtime_ns = self._latest_ns
        return Entry(
            entry.name,
            entry.type,
            status.st_mode & 0o7777,
            status.st_uid,
            status.st_gid,
            0,
            mtime_ns,
            entry.linkname,
            xattrs=xattrs,
        )

    def _file(self, change: Packable, entry: Entry) -> None:
        size = change.stat.st_size
        self._entry(entry._replace(size=size))
        if not size:
            return
        fd = change.open()
        try:
            left = size
            while left:
                chunk = os.read(fd, min(left, _CHUNK))
                if not chunk:
                    raise TarError(f"layer: {show(change.path)} became shorter while it was read")
                self._write(chunk)
                left -= len(chunk)
            if os.fstat(fd).st_size != size:
                raise TarError(f"layer: {show(change.path)} became longer while it was read")
        finally:
            os.close(fd)
        self._write(bytes(padding(size)))

    def _entry(self, entry: Entry) -> None:
        self.entries += 1
        self._write(encode_header(entry))

    def _write(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        try:
            self._out(data)
        except OSError as error:
            raise _NotTakenError(error) from error


def _portable(xattrs: Mapping[str, bytes]) -> Mapping[bytes, bytes]:
    """The attributes that belong to the file wherever it goes."""
    if not xattrs:
        return NO_XATTRS
    return {os.fsencode(name): value for name, value in xattrs.items() if name not in _OF_THE_MACHINE}

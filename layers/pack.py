"""A branch becomes the tar of a layer (image-spec, layer.md).

What is written: the entries in the order of ``unionfs.delta`` (parents first, whiteouts before their siblings, names in
byte order), ``.wh.NAME`` for a whiteout, ``.wh..wh..opq`` first in an opaque directory, the first name of a file with
its content and every further one as a hard link to it. Times are whole seconds, those after ``epoch`` become
``epoch``; user and group names stay empty. The root itself has no entry, as in layers of BuildKit, except as ``./``
when its mode or owner differ from those it had before.

Invariants: equal trees give equal bytes, whatever the machine, filesystem and Python; content is hashed while it
streams and memory does not grow with it. A file that changes its length meanwhile is an error, not a torn layer.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from layers.digest import Digest, from_hex
from layers.errors import PackError
from layers.tar import entry as tar
from layers.tar.entry import NO_XATTRS, Entry, padding
from layers.tar.writer import END, encode_header
from unionfs.delta import Change, ChangeKind, iter_changes
from unionfs.errors import UnionError
from unionfs.whiteout import OPAQUE_NAME, PREFIX

_CHUNK = 1 << 20
_SECOND_NS = 1_000_000_000
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


class Sink(Protocol):
    """Where the tar goes."""

    def write(self, data: bytes, /) -> object:
        """Takes all of the data."""
        ...


class PackResult(NamedTuple):
    """A layer's tar: the digest of its bytes, how many they are, how many entries, what was left out and why."""

    diff_id: Digest
    size: int
    entries: int
    notes: tuple[str, ...]


class RootAttributes(NamedTuple):
    """What of the root directory goes into a layer when it changes."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> RootAttributes:
        """The attributes of a directory."""
        return cls(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def write_layer(
    branch_root: Path,
    out: Sink | None,
    *,
    epoch: int | None = None,
    root_before: RootAttributes | None = None,
) -> PackResult:
    """The branch is in ``out`` as the tar of a layer; without ``out`` it is only hashed.

    ``epoch``: times after this (seconds) become it. ``root_before``: the root's attributes below this layer; None
    leaves the root out.

    Raises:
        PackError: the branch cannot be read, or changed meanwhile.
        Exception: whatever ``out.write`` raises.
    """
    packer = _Packer(out, epoch, root_before)
    try:
        changes = iter_changes(branch_root)
        try:
            return packer.pack(changes)
        finally:
            # the walk holds a descriptor
            if isinstance(changes, Generator):
                changes.close()
    except UnionError as error:
        raise PackError(f"layer: {error}") from error


def write_changes(changes: Iterable[Change], out: Sink | None, *, epoch: int | None = None) -> PackResult:
    """As ``write_layer``, of changes that somebody else selects; the root is left out."""
    return _Packer(out, epoch, None).pack(changes)


class _Packer:
    """One layer being written."""

    def __init__(self, out: Sink | None, epoch: int | None, root_before: RootAttributes | None) -> None:
        self._out = out
        self._latest_ns = None if epoch is None else epoch * _SECOND_NS
        self._root_before = root_before
        self._hash = hashlib.sha256()
        self._size = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._entries = 0
        self._first_names: dict[tuple[int, int], bytes] = {}
        self._notes: list[str] = []

    def pack(self, changes: Iterable[Change]) -> PackResult:
        for change in changes:
            try:
                self._change(change)
            except OSError as error:
                text = (error.strerror or str(error)).lower()
                raise PackError(f"layer: cannot read {_show(change.path)}: {text}") from error
        self._write(END)
        self._flush()
        return PackResult(from_hex(self._hash.hexdigest()), self._size, self._entries, tuple(self._notes))

    def _change(self, change: Change) -> None:
        kind = change.kind
        if kind is ChangeKind.WHITEOUT:
            directory, slash, name = change.path.rpartition(b"/")
            self._entry(Entry(directory + slash + PREFIX + name, mode=0))
        elif kind is ChangeKind.SOCKET:
            self._notes.append(f"{_show(change.path)} is a socket: left out")
        elif change.path:
            self._named(change, change.path)
        elif self._root_before is not None and RootAttributes.of(change.stat) != self._root_before:
            self._named(change, b".")
        if kind is ChangeKind.OPAQUE_DIRECTORY:
            self._entry(Entry(change.path + b"/" + OPAQUE_NAME if change.path else OPAQUE_NAME, mode=0))

    def _named(self, change: Change, name: bytes) -> None:
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

    def _described(self, entry: Entry, status: os.stat_result, xattrs: Mapping[bytes, bytes]) -> Entry:
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

    def _file(self, change: Change, entry: Entry) -> None:
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
                    raise PackError(f"layer: {_show(change.path)} became shorter while it was read")
                self._write(chunk)
                left -= len(chunk)
            if os.fstat(fd).st_size != size:
                raise PackError(f"layer: {_show(change.path)} became longer while it was read")
        finally:
            os.close(fd)
        self._write(bytes(padding(size)))

    def _entry(self, entry: Entry) -> None:
        self._entries += 1
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
        self._size += len(data)
        self._hash.update(data)
        if self._out is not None:
            self._out.write(data)


def _portable(xattrs: Mapping[str, bytes]) -> Mapping[bytes, bytes]:
    """The attributes that belong to the file wherever it goes."""
    if not xattrs:
        return NO_XATTRS
    return {os.fsencode(name): value for name, value in xattrs.items() if name not in _OF_THE_MACHINE}


def _show(path: bytes) -> str:
    return f'"{path.decode(errors="backslashreplace")}"'

"""Requests about open directories.

A listing begins with its first READDIR, not with OPENDIR: the kernel keeps listings by itself (FOPEN_CACHE_DIR), so
most opened directories are never read here. ``.`` and ``..`` are added; the cookie of every other entry is moved up
to make room for theirs.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from unionfs.ops import FilesystemOps
from unionfs.transport.direct.notify import KernelNotifier
from unionfs.transport.direct.replies import Replies, opened
from unionfs.transport.direct.requests import DONE, Handler, Payload
from unionfs.transport.protocol import (
    DIRENT,
    ENTRY_OUT,
    FSYNC_DATASYNC,
    FSYNC_IN,
    READ_IN,
    RELEASE_IN,
    UNKNOWN_INO,
    Opcode,
    OpenFlag,
)
from unionfs.types import Caller, DirEntry, HandleId, Ino

_DOTS = 2
_NO_ENTRY = bytes(ENTRY_OUT.size)
_TYPE_SHIFT = 12
_DIRECTORY = stat.S_IFDIR >> _TYPE_SHIFT
_PADDING = tuple(bytes(-size % 8) for size in range(8))


class DirectoryRequests:
    """Translates requests about open directories."""

    def __init__(self, ops: FilesystemOps, replies: Replies, notifier: KernelNotifier, *, keep_cache: bool) -> None:
        """``keep_cache``: the kernel may keep a listing until a name changes through the mount."""
        self._notifier = notifier
        self._ops = ops
        self._replies = replies
        self._flags = int(OpenFlag.CACHE_DIR | OpenFlag.KEEP_CACHE) if keep_cache else 0
        self._listings: dict[int, HandleId | None] = {}
        self._next_handle = 1

    def handlers(self, *, volatile: bool) -> dict[Opcode, Handler]:
        """What answers each opcode; ``volatile``: FSYNCDIR is left out, ENOSYS makes the kernel stop asking."""
        table: dict[Opcode, Handler] = {
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.RELEASEDIR: self._releasedir,
        }
        if not volatile:
            table[Opcode.FSYNCDIR] = self._fsyncdir
        return table

    def _opendir(self, _node: Ino, _body: memoryview, _caller: Caller) -> Payload:
        number = self._next_handle
        self._next_handle = number + 1
        self._listings[number] = None
        # once branches have changed, a directory may list differently without looking changed itself
        return opened(number, self._flags if not self._notifier.epoch else 0)

    def _readdir(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        number, offset, room, *_ = READ_IN.unpack_from(body)
        listing = bytearray()
        for entry in self._entries(node, number, offset, attributes=False):
            record = _dirent(entry)
            if len(listing) + len(record) > room:
                break
            listing += record
        return bytes(listing)

    def _readdirplus(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        number, offset, room, *_ = READ_IN.unpack_from(body)
        listing = bytearray()
        for entry in self._entries(node, number, offset, attributes=True):
            record = _dirent(entry)
            if len(listing) + ENTRY_OUT.size + len(record) > room:
                break
            attr = entry.attr
            if attr is None:
                listing += _NO_ENTRY
            else:
                listing += self._replies.entry(attr)
                self._ops.remember(attr.ino)
            listing += record
        return bytes(listing)

    def _releasedir(self, _node: Ino, body: memoryview, _caller: Caller) -> Payload:
        handle = self._listings.pop(RELEASE_IN.unpack_from(body)[0], None)
        if handle is not None:
            self._ops.releasedir(handle)
        return DONE

    def _fsyncdir(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        _, flags, _ = FSYNC_IN.unpack_from(body)
        self._ops.fsyncdir(node, bool(flags & FSYNC_DATASYNC))
        return DONE

    def _entries(self, node: Ino, number: int, offset: int, *, attributes: bool) -> Iterator[DirEntry]:
        """The listing after ``offset``; from the start it is frozen anew, as ``rewinddir(3)`` asks."""
        handle = self._listings[number]
        if handle is None or offset == 0:
            if handle is not None:
                self._ops.releasedir(handle)
                self._listings[number] = None
            handle = self._listings[number] = self._ops.opendir(node)
        if offset < 1:
            yield DirEntry(b".", -1, self._ops.getattr(node, None).visible_ino, stat.S_IFDIR, None)
        if offset < _DOTS:
            yield DirEntry(b"..", 0, UNKNOWN_INO, stat.S_IFDIR, None)
        yield from self._ops.readdir(handle, max(0, offset - _DOTS), attributes)


def _dirent(entry: DirEntry) -> bytes:
    name = entry.name
    size = len(name)
    head = DIRENT.pack(entry.visible_ino, entry.cookie + _DOTS, size, entry.type_bits >> _TYPE_SHIFT)
    return head + name + _PADDING[size & 7]

"""The digest of a selection of files: what COPY takes, what a bind mount shows.

In the digest of an entry: path, type, permission bits, owner, size of a file, link target, device number, extended
attributes that COPY carries, other names of the same file within the selection, bytes. Not in it: times, inode
numbers, the sizes of directories and links, and whatever ``TreeEntry`` doesn't offer.
Invariants: every field is framed, so two different selections never feed the same bytes to SHA-256; entries come
sorted from the walk, so that equal trees give equal bytes.  Source of the rules: docs/formats, "Content hashes".
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from layers.smallhash import Sha256
from unionfs.namedtuple import NamedTuple

READ_BYTES = 1 << 20
_SYMLINK_MODE = stat.S_IFLNK | 0o777
_LEARNED_AT_ONCE = 20_000
"""Files in one transaction of the index: each may have to wait for the disk."""
_LARGE_BYTES = 4 << 20
"""Files from this size on are worth a thread: SHA-256 runs outside the interpreter lock."""


class TreeEntry(Protocol):
    """One file of a tree. Values hold no open descriptors."""

    @property
    def path(self) -> bytes:
        """Path below the selection's root, without leading slash; empty for the root of the selection itself."""
        ...

    @property
    def mode(self) -> int:
        """As ``st_mode``."""
        ...

    @property
    def uid(self) -> int:
        """Owner the copy gets when nothing else is asked for."""
        ...

    @property
    def gid(self) -> int:
        """Group likewise."""
        ...

    @property
    def size(self) -> int:
        """Bytes of a regular file."""
        ...

    @property
    def rdev(self) -> int:
        """Device number of a device."""
        ...

    @property
    def nlink(self) -> int:
        """Number of names, one for directories."""
        ...

    @property
    def file_id(self) -> tuple[int, int]:
        """What two names of one file have in common, as device and inode number."""
        ...

    @property
    def state(self) -> FileState | None:
        """What changes with every change of content or attributes; None where that can't be told."""
        ...

    def readlink(self) -> bytes:
        """Target of a symbolic link."""
        ...

    def xattrs(self) -> tuple[tuple[bytes, bytes], ...]:
        """Extended attributes that a copy carries, sorted by name."""
        ...

    def open(self) -> int:
        """Descriptor for reading a regular file; the caller closes it."""
        ...


class FileState(NamedTuple):
    """Identity and last change of a file on this machine (git's index trusts the same fields)."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class KnownFile(NamedTuple):
    """What is known of a regular file without reading it: digest of its bytes, framed extended attributes."""

    sha256: bytes
    xattrs: bytes


class FileMemory(Protocol):
    """Remembers what files hold (``cache.filedigests``)."""

    def recall(self, states: list[FileState]) -> dict[FileState, KnownFile]:
        """What is known of files that are still in the given state."""
        ...

    def learn(self, found: dict[FileState, KnownFile], read_since_ns: int) -> None:
        """The given files are known, as far as they can be trusted; none was read before ``read_since_ns``."""
        ...


class Fingerprint(NamedTuple):
    """Digest of a selection (64 hex digits), with how much it covers."""

    digest: str
    entries: int
    size_bytes: int


def fingerprint(
    entries: Iterable[TreeEntry],
    memory: FileMemory | None = None,
    *,
    check: Callable[[], None] = lambda: None,
    batch: int = 1000,
) -> Fingerprint:
    """The content hash of ``entries``, taken in their order.

    ``check`` is called between files and ends the work by raising. Raises OSError for a file that can't be read.
    """
    total = Sha256(b"pybuild.contenthash/1\0")
    names: dict[tuple[int, int], bytes] = {}
    count = size = 0
    reader = _Reader(memory, check)
    for group in _batches(entries, batch):
        check()
        known = reader.contents(group)
        pieces: list[bytes] = []
        for entry, content in zip(group, known, strict=True):
            pieces.append(_frame_entry(entry, content, names))
            if content is not None:
                size += entry.size
        total.update(b"".join(pieces))
        count += len(group)
    reader.learn()
    total.update(b"end%d" % count)
    return Fingerprint(total.hexdigest(), count, size)


def frame_xattrs(xattrs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Extended attributes as bytes that no other set of them has."""
    return b"".join(b"%d:%b%d:%b" % (len(name), name, len(value), value) for name, value in xattrs)


def carried_xattr(name: str) -> bool:
    """Whether COPY carries the attribute: security.* belongs to the machine, but capabilities belong to the file."""
    return not name.startswith(("security.", "system.")) or name == "security.capability"


def hash_descriptor(descriptor: int, check: Callable[[], None] = lambda: None) -> bytes:
    """SHA-256 of what can be read from ``descriptor`` from its offset on."""
    from hashlib import sha256

    digest = sha256()
    while chunk := os.read(descriptor, READ_BYTES):
        digest.update(chunk)
        check()
    return digest.digest()


def _frame_entry(entry: TreeEntry, content: KnownFile | None, names: dict[tuple[int, int], bytes]) -> bytes:
    """One entry, framed: its lengths stand before its strings, its numbers end in separators."""
    mode = entry.mode
    path = entry.path
    if content is not None:
        other = b""
        if entry.nlink > 1:
            other = names.setdefault(entry.file_id, path)
            other = b"" if other == path else other
        return b"F%d:%b%o,%d,%d,%d,%d:%b%d:%b%b" % (
            *(len(path), path, mode, entry.uid, entry.gid, entry.size, len(other), other),
            *(len(content.xattrs), content.xattrs, content.sha256),
        )
    target, rdev = b"", 0
    if stat.S_ISLNK(mode):
        mode, target = _SYMLINK_MODE, entry.readlink()
    elif stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
        rdev = entry.rdev
    xattrs = frame_xattrs(entry.xattrs())
    return b"E%d:%b%o,%d,%d,%d,%d:%b%d:%b" % (
        *(len(path), path, mode, entry.uid, entry.gid, rdev, len(target), target),
        *(len(xattrs), xattrs),
    )


class _Reader:
    """What files hold, of ``memory`` or by reading them; what was read is learned in large groups."""

    def __init__(self, memory: FileMemory | None, check: Callable[[], None]) -> None:
        self._memory = memory
        self._check = check
        self._learned: dict[FileState, KnownFile] = {}
        self._since_ns = 0

    def contents(self, group: list[TreeEntry]) -> list[KnownFile | None]:
        """For each entry what its file holds, None for what is no regular file; only unknown files are read."""
        states = [entry.state if entry.mode & 0o170000 == stat.S_IFREG else None for entry in group]
        wanted = [state for state in states if state is not None]
        recalled = self._memory.recall(wanted) if self._memory is not None else {}
        contents: list[KnownFile | None] = []
        unread: list[int] = []
        for position, (entry, state) in enumerate(zip(group, states, strict=True)):
            known = recalled.get(state) if state is not None else None
            if known is None and entry.mode & 0o170000 == stat.S_IFREG:
                unread.append(position)
            contents.append(known)
        if unread:
            self._since_ns = self._since_ns or time.time_ns()
            found = _read_all([group[at] for at in unread], self._check)
            for position, (known, state) in zip(unread, found, strict=True):
                contents[position] = known
                if state is not None:
                    self._learned[state] = known
            if len(self._learned) >= _LEARNED_AT_ONCE:
                self.learn()
        return contents

    def learn(self) -> None:
        """All that was read is known."""
        if self._memory is not None and self._learned:
            self._memory.learn(self._learned, self._since_ns)
        self._learned = {}
        self._since_ns = 0


def _read_all(entries: list[TreeEntry], check: Callable[[], None]) -> Iterable[tuple[KnownFile, FileState | None]]:
    """What ``_read`` says of each file, in their order; several large ones are read at a time."""
    if sum(entry.size >= _LARGE_BYTES for entry in entries) < 2:  # noqa: PLR2004 - one large file can't be split
        return [_read(entry, check) for entry in entries]
    from concurrent.futures import ThreadPoolExecutor

    def read(entry: TreeEntry) -> tuple[KnownFile, FileState | None]:
        return _read(entry, check)

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(read, entries))


def _read(entry: TreeEntry, check: Callable[[], None]) -> tuple[KnownFile, FileState | None]:
    """What one file holds, and its state if that stayed the same while it was read."""
    check()
    descriptor = entry.open()
    try:
        content = hash_descriptor(descriptor, check)
        known = KnownFile(content, frame_xattrs(entry.xattrs()))
        now = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    state = entry.state
    read = FileState(now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    return known, read if read == state else None


def _batches(entries: Iterable[TreeEntry], size: int) -> Iterator[list[TreeEntry]]:
    """``entries`` in lists of at most ``size``."""
    group: list[TreeEntry] = []
    for entry in entries:
        group.append(entry)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group

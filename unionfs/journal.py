"""What raising a directory does to a branch, written down before it is done.

::

    .wh..unionfs/raise-PID-N     length kind [fingerprint] path length   …one record after the other

The journal lies among the temporary things of the branch, so that the next union of a branch finds it when this one was
killed (``OpenBranch.journals``). Invariants: a record is there before what it tells of can be seen; a record that was
cut off by a kill tells of nothing that happened; records are read from the last one to the first without holding them
all in memory.
"""

from __future__ import annotations

import enum
import mmap
import os
import stat
import struct
from collections.abc import Iterator

from unionfs import blake, whiteout
from unionfs.branch import JOURNAL_PREFIX, OpenBranch
from unionfs.namedtuple import NamedTuple

_LENGTH = struct.Struct(">I")
_FINGERPRINT = struct.Struct(">QIIIQQq8s")


class Deed(enum.Enum):
    """What was done to a path of the branch."""

    MADE = b"+"
    """A copy was put there."""
    OPAQUE = b"o"
    """The directory was made opaque."""
    HIDING = b"w"
    """A whiteout of the name is there, which hides nothing below once the directory is opaque."""


class Fingerprint(NamedTuple):
    """Which file a copy is, and its state without content, links and, of a directory, entries."""

    number: int
    mode: int
    uid: int
    gid: int
    device: int
    size_bytes: int
    mtime_ns: int
    attributes: bytes
    """A digest of the extended ones, the marks of unions left out."""


class Record(NamedTuple):
    """One deed; ``fingerprint`` is that of the copy."""

    deed: Deed
    path: bytes
    fingerprint: Fingerprint | None = None


class Journal:
    """The records of one directory that is raised. One of ``discard`` and ``close`` ends it."""

    def __init__(self, branch: OpenBranch, name: bytes | None = None) -> None:
        """``name``: that of a journal a union left; a new one otherwise, made with the first record."""
        self.branch = branch
        self._name = name
        self._fd = -1
        if name is not None:
            self._fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=branch.journal_fd())

    @property
    def begun(self) -> bool:
        """Whether there is a record."""
        return self._fd >= 0

    def made(self, staged: bytes, path: bytes) -> None:
        """What was ``staged`` is about to be put at ``path``."""
        self._write(Deed.MADE, _FINGERPRINT.pack(*take_fingerprint(self.branch.journal_fd(), staged)) + path)

    def note(self, deed: Deed, path: bytes) -> None:
        """The deed is about to be done to ``path``."""
        self._write(deed, path)

    def _write(self, deed: Deed, text: bytes) -> None:
        if self._fd < 0:
            fd, free = self.branch.temporary()
            self._name = JOURNAL_PREFIX + free
            self._fd = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=fd)
        body = deed.value + text
        length = _LENGTH.pack(len(body))
        record = length + body + length
        written = os.write(self._fd, record)
        while written < len(record):
            written += os.write(self._fd, record[written:])

    def __iter__(self) -> Iterator[Record]:
        """The records, the last one first."""
        size = os.fstat(self._fd).st_size if self._fd >= 0 else 0
        if not size:
            return
        with mmap.mmap(self._fd, size, access=mmap.ACCESS_READ) as content:
            end = _whole(content)
            while end:
                (length,) = _LENGTH.unpack_from(content, end - _LENGTH.size)
                yield _decode(content[end - _LENGTH.size - length : end - _LENGTH.size])
                end -= length + 2 * _LENGTH.size

    def discard(self) -> None:
        """There is no journal any more. Idempotent."""
        if self._name is not None:
            self.branch.discard(self._name)
        self.close()

    def close(self) -> None:
        """The journal, if there is one, is left to the next union of the branch. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._name = -1, None


def take_fingerprint(fd: int, path: bytes) -> Fingerprint:
    """The fingerprint of what lies at ``path`` under the directory descriptor."""
    status = os.stat(path, dir_fd=fd, follow_symlinks=False)
    size, mtime_ns = (0, 0) if stat.S_ISDIR(status.st_mode) else (status.st_size, status.st_mtime_ns)
    found = whiteout.foreign_xattrs(b"/proc/self/fd/%d/%s" % (fd, path))
    attributes = blake.digest(repr(found).encode(), 8) if found else bytes(8)
    return Fingerprint(
        status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_rdev, size, mtime_ns, attributes
    )


def _whole(content: mmap.mmap) -> int:
    """Where the last record ends that was not cut off."""
    end = 0
    while end + _LENGTH.size <= len(content):
        (length,) = _LENGTH.unpack_from(content, end)
        if not length or end + length + 2 * _LENGTH.size > len(content):
            break
        end += length + 2 * _LENGTH.size
    return end


def _decode(body: bytes) -> Record:
    deed, text = Deed(body[:1]), body[1:]
    if deed is Deed.MADE:
        return Record(deed, text[_FINGERPRINT.size :], Fingerprint(*_FINGERPRINT.unpack_from(text)))
    return Record(deed, text)

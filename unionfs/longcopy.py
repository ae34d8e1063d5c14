"""The content of a large file, copied while the union answers other requests.

::

    request → copy-up of a large file → begin: descriptors, a place among the temporary things ─→ CopyPendingError
                                        run: in a thread of the transport, on these descriptors alone
    the same request, asked again     → finish: the staged copy gets its metadata and its place, as any other

So the union itself stays synchronous and has one caller at a time. Invariants: nothing that shows has changed when
``CopyPendingError`` is raised; nothing is left after ``drop`` of a copy nobody took; ``run`` never raises and reaches
nothing by path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator

from unionfs import _sys
from unionfs.branch import OpenBranch

CHUNK_BYTES = 1 << 20
STEP_BYTES = 64 << 20
"""Copied between two looks at whether it is still wanted."""
_NOT_COPIED = frozenset((errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF))


_KEEP_ORDER = frozenset((_sys.EXT_FILESYSTEM, _sys.XFS_FILESYSTEM))
"""File systems whose journal commits the size and the extents of written pages before any later rename.

Without a journal (ext2 has the same number) nothing there keeps an order over a crash.
"""


def settle(fd: int) -> None:
    """A rename of the open file that is made from now on is not on the disk before its content, also after a crash.

    It may be on the disk later than now: a copy-up that is lost as a whole leaves the lower file as it was. So it is
    enough to wait for the pages where the journal keeps the order, which saves its commit.
    """
    if _sys.filesystem_type(fd) in _KEEP_ORDER:
        _sys.write_out(fd)
    else:
        os.fdatasync(fd)


class ContentCopy:
    """A copy of content that was begun (``ops.LongCopy``)."""

    def __init__(self, source_fd: int, branch: OpenBranch, name: bytes, size_bytes: int, *, durable: bool) -> None:
        """The empty file is ``name`` among the temporary things of ``branch``; ``source_fd`` belongs to the copy."""
        self._source_fd = source_fd
        self._target_fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=branch.temporary()[0])
        self._branch = branch
        self._name: bytes | None = name
        self._size_bytes = size_bytes
        self._durable = durable
        self._source_state = _state(source_fd)
        self._stop = threading.Event()
        self._begun = False
        self._finished = False
        self._failure: OSError | None = None
        self._guard = threading.Lock()
        self.forget: Callable[[], object] = _nothing
        """Called when the copy is taken or dropped."""

    @property
    def finished(self) -> bool:
        """Whether ``run`` has come to its end."""
        return self._finished

    def run(self) -> None:
        """The content is copied, or it is known why not."""
        with self._guard:
            if self._stop.is_set():
                return
            self._begun = True
        try:
            for start, end in data_ranges(self._source_fd, self._size_bytes, os.fstat(self._source_fd)):
                for offset in range(start, end, STEP_BYTES):
                    if self._stop.is_set():
                        return
                    copy_range(self._source_fd, self._target_fd, offset, min(end, offset + STEP_BYTES))
            os.ftruncate(self._target_fd, self._size_bytes)
            if self._durable:
                settle(self._target_fd)
        except OSError as error:
            self._failure = error
        finally:
            self._close()
            self._finished = True

    def take(self, source_fd: int) -> bytes | None:
        """Name of the finished copy, which belongs to the caller now; None when the source has changed meanwhile.

        Raises:
            OSError: the content could not be copied.
        """
        name = self._name
        if self._failure is not None or _state(source_fd) != self._source_state:
            self.drop()
            if self._failure is not None:
                raise self._failure
            return None
        self._name = None
        self.forget()
        return name

    def drop(self) -> None:
        """Nobody wants the copy any more; nothing is left of it unless it was taken. Idempotent."""
        with self._guard:
            self._stop.set()
            if not self._begun:
                self._begun = True
                self._close()
        name, self._name = self._name, None
        if name is not None:
            self._branch.discard(name)
            self.forget()

    def _close(self) -> None:
        os.close(self._source_fd)
        os.close(self._target_fd)


def _nothing() -> None:
    """Nobody is to be told."""


def _state(fd: int) -> tuple[int, ...]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def data_ranges(fd: int, size_bytes: int, status: os.stat_result) -> Iterator[tuple[int, int]]:
    """The parts of the first ``size_bytes`` bytes of the file, in the state ``status``, that are no holes."""
    if status.st_blocks * 512 >= status.st_size:
        yield 0, size_bytes
        return
    offset = 0
    while offset < size_bytes:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        offset = min(os.lseek(fd, start, os.SEEK_HOLE), size_bytes)
        if start < offset:
            yield start, offset


def copy_range(source_fd: int, target_fd: int, start: int, end: int) -> None:
    """The bytes from ``start`` to ``end`` are those of the source: copied by the kernel, else read and written."""
    offset = start
    with contextlib.suppress(_Uncopied):
        while offset < end:
            offset += _copy_in_kernel(source_fd, target_fd, offset, end - offset)
        return
    while offset < end:
        data = os.pread(source_fd, min(CHUNK_BYTES, end - offset), offset)
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

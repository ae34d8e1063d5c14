"""The bytes of one open file into another, holes kept.

Invariants: the target ends up as long as the source was when its end was reached; a hole of the source is one of the
target; ``check`` is called at least every 64 MiB and ends the work by raising.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

_SMALL_BYTES = 1 << 18
_READ_BYTES = 1 << 20
_RANGE_BYTES = 64 << 20
_BLOCK_BYTES = 512
_NO_RANGE = frozenset((errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF))
"""copy_file_range(2) can't do it between these two files; read and write can."""


def copy_content(source_fd: int, target_fd: int, status: os.stat_result, check: Callable[[], None]) -> None:
    """``target_fd``, new and empty, holds what ``source_fd`` (whose ``fstat`` is ``status``) holds. Raises OSError."""
    size = status.st_size
    if size <= _SMALL_BYTES:
        _copy_small(source_fd, target_fd, size)
        return
    if status.st_blocks * _BLOCK_BYTES < size:
        _copy_sparse(source_fd, target_fd, size, check)
        return
    _copy_range(source_fd, target_fd, 0, None, check)


def _copy_small(source_fd: int, target_fd: int, size: int) -> None:
    """All from the offset on, most often with one read and one write."""
    data = os.read(source_fd, size + 1)
    while data:
        _write(target_fd, data)
        if len(data) == size:
            # one byte more was asked for: the end is reached
            return
        size = -1
        data = os.read(source_fd, _READ_BYTES)


def _copy_sparse(source_fd: int, target_fd: int, size: int, check: Callable[[], None]) -> None:
    """The pieces that hold data, each at its place."""
    position = 0
    while position < size:
        try:
            start = os.lseek(source_fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            if error.errno == errno.EINVAL:
                # the file system knows no holes
                os.lseek(source_fd, 0, os.SEEK_SET)
                os.lseek(target_fd, 0, os.SEEK_SET)
                _copy_range(source_fd, target_fd, 0, None, check)
                return
            raise
        position = os.lseek(source_fd, start, os.SEEK_HOLE)
        os.lseek(source_fd, start, os.SEEK_SET)
        os.lseek(target_fd, start, os.SEEK_SET)
        _copy_range(source_fd, target_fd, start, position - start, check)
    os.ftruncate(target_fd, size)


def _copy_range(source_fd: int, target_fd: int, start: int, length: int | None, check: Callable[[], None]) -> None:
    """``length`` bytes (None: up to the end), both descriptors standing at ``start``."""
    left = length
    in_kernel = True
    while left is None or left > 0:
        check()
        wanted = _RANGE_BYTES if left is None else min(left, _RANGE_BYTES)
        if in_kernel:
            try:
                copied = os.copy_file_range(source_fd, target_fd, wanted)
            except OSError as error:
                if error.errno not in _NO_RANGE:
                    raise
                in_kernel = False
                continue
        else:
            data = os.read(source_fd, min(wanted, _READ_BYTES))
            _write(target_fd, data)
            copied = len(data)
        if not copied:
            if in_kernel and os.lseek(source_fd, 0, os.SEEK_CUR) == start:
                # some file systems (proc, FUSE) answer 0 although there is something to read
                in_kernel = False
                continue
            return
        if left is not None:
            left -= copied


def _write(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])

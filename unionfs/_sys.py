"""The system calls Python lacks, as functions that raise ``OSError`` the way ``os`` does.

Invariants: nothing here keeps state or decides; ``ctypes`` is known to no other module of the package.
"""

from __future__ import annotations

import ctypes  # noqa: TID251 - this is the one module that may
import os

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

XATTR_CREATE = 1
XATTR_REPLACE = 2

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2

FICLONE = 0x40049409
"""ioctl number of ``FICLONE``, ``ioctl_ficlone(2)``."""

_libc = ctypes.CDLL(None, use_errno=True)

_renameat2 = _libc.renameat2
_renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_renameat2.restype = ctypes.c_int

_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


def renameat2(source_fd: int, source: bytes, target_fd: int, target: bytes, flags: int) -> None:
    """``source`` is now ``target``, ``renameat2(2)``."""
    if _renameat2(source_fd, source, target_fd, target, flags) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), source, None, target)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """The room of the range is as ``mode`` says, ``fallocate(2)``."""
    if _fallocate(fd, mode, offset, length) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))

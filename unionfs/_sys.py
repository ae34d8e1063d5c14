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


_fstatfs = _libc.fstatfs64 if hasattr(_libc, "fstatfs64") else _libc.fstatfs
_fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)
_fstatfs.restype = ctypes.c_int

_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_sync_file_range.restype = ctypes.c_int

_syncfs = _libc.syncfs
_syncfs.argtypes = (ctypes.c_int,)
_syncfs.restype = ctypes.c_int

EXT_FILESYSTEM = 0xEF53
XFS_FILESYSTEM = 0x58465342
OVERLAY_FILESYSTEM = 0x794C7630
"""``f_type`` of some file systems, ``fstatfs(2)``."""

_STATFS_BYTES = 256
_SYNC_RANGE_WRITE = 2
_SYNC_RANGE_WAIT_AFTER = 4


def filesystem_type(fd: int) -> int:
    """``f_type`` of the file system the open file lies on, ``fstatfs(2)``."""
    status = ctypes.create_string_buffer(_STATFS_BYTES)
    if _fstatfs(fd, status) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return ctypes.c_long.from_buffer(status).value & 0xFFFF_FFFF


def write_out(fd: int) -> None:
    """The content of the file has been written to its place, its metadata not yet, ``sync_file_range(2)``."""
    if _sync_file_range(fd, 0, 0, _SYNC_RANGE_WRITE | _SYNC_RANGE_WAIT_AFTER) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def sync_file_system(fd: int) -> None:
    """All that was written to the file system the open file lies on is on disk, ``syncfs(2)``."""
    _checked(_syncfs(fd))


def start_writing(fd: int, offset: int, length: int) -> None:
    """The range is on its way to its place, as far as it is not there yet, ``sync_file_range(2)``."""
    if _sync_file_range(fd, offset, length, _SYNC_RANGE_WRITE) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


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


# -- mounts that belong to no place yet: fsopen(2), fsconfig(2), fsmount(2), move_mount(2) ------------------------
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8
MOUNT_ATTR_NOATIME = 16

# the same numbers on every architecture (asm-generic/unistd.h)
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432

_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100

_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def fsopen(filesystem_type: str) -> int:
    """Descriptor of a new file system being configured, ``fsopen(2)``; the caller closes it."""
    return _checked(_syscall(_NR_FSOPEN, filesystem_type.encode(), _FSOPEN_CLOEXEC))


def fsconfig(fd: int, key: str, value: str | bytes | None = None) -> None:
    """The option is set, ``fsconfig(2)``; without ``value`` it is a flag."""
    if value is None:
        _checked(_syscall(_NR_FSCONFIG, fd, _FSCONFIG_SET_FLAG, key.encode(), None, 0))
    else:
        text = value if isinstance(value, bytes) else os.fsencode(value)
        _checked(_syscall(_NR_FSCONFIG, fd, _FSCONFIG_SET_STRING, key.encode(), text, 0))


def fsconfig_create(fd: int) -> None:
    """The file system exists, ``fsconfig(2)``."""
    _checked(_syscall(_NR_FSCONFIG, fd, _FSCONFIG_CMD_CREATE, None, None, 0))


def fsmount(fd: int, attributes: int) -> int:
    """Descriptor of a mount that is attached nowhere, ``fsmount(2)``.

    Closing it, while nobody has attached it, lets the mount go. The caller closes it.
    """
    return _checked(_syscall(_NR_FSMOUNT, fd, _FSMOUNT_CLOEXEC, attributes))


def move_mount(mount_fd: int, target: bytes) -> None:
    """The mount is attached at ``target``, ``move_mount(2)``."""
    _checked(_syscall(_NR_MOVE_MOUNT, mount_fd, b"", _AT_FDCWD, target, _MOVE_MOUNT_F_EMPTY_PATH))


def _checked(result: int) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


# -- ioprio_set(2), whose number each architecture has of its own ---------------------------------------------------
_NR_IOPRIO_SET = {"x86_64": 251, "i386": 289, "i686": 289}
_NR_IOPRIO_SET_GENERIC = 30
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_BEST_EFFORT_4 = 2 << 13 | 4


def keep_io_priority() -> None:
    """Reads and writes of the calling thread keep the usual class whatever its scheduling, ``ioprio_set(2)``."""
    _checked(
        _syscall(
            _NR_IOPRIO_SET.get(os.uname().machine, _NR_IOPRIO_SET_GENERIC),
            _IOPRIO_WHO_PROCESS,
            0,
            _IOPRIO_BEST_EFFORT_4,
        )
    )

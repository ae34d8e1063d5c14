"""The FUSE structures and numbers: what a request and a reply look like in bytes.

Source: ``include/uapi/linux/fuse.h``, protocol 7.31 to 7.45. Invariants: every layout is native byte order without
padding of Python's own (the kernel's structures are aligned by themselves); nothing here does I/O.
"""

from __future__ import annotations

import enum
import struct

MAJOR = 7
OLDEST_MINOR = 31
NEWEST_MINOR = 45

MAX_WRITE_BYTES = 1 << 20
BUFFER_BYTES = MAX_WRITE_BYTES + 4096
"""Room for the largest request: the header of a write and its data."""

UNKNOWN_INO = 0xFFFF_FFFF
"""Shown as ``d_ino`` where the number is not known; never 0, which some programs take for a removed entry."""


class Opcode(enum.IntEnum):
    """What the kernel asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


OPCODES = 64
"""Size of a table indexed by opcode; larger numbers are unknown."""


class InitFlag(enum.IntFlag):
    """Features the kernel offers and the server takes in INIT; bits from 32 on travel in ``flags2``."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    PASSTHROUGH = 1 << 37


class OpenFlag(enum.IntFlag):
    """How the kernel shall treat an open file (``open_flags`` of the reply to OPEN, CREATE and OPENDIR)."""

    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3
    NOFLUSH = 1 << 5
    PASSTHROUGH = 1 << 7


class SetAttrBit(enum.IntFlag):
    """Which fields of a SETATTR count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    HANDLE = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    KILL_SUIDGID = 1 << 11


class Notification(enum.IntEnum):
    """What a server may tell the kernel unasked (``error`` field of a reply to request 0)."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    INC_EPOCH = 8


OLDEST_MINOR_WITH_EPOCH = 44

GETATTR_HANDLE = 1 << 0
OPEN_KILL_SUIDGID = 1 << 0
SETXATTR_ACL_KILL_SGID = 1 << 0
FSYNC_DATASYNC = 1 << 0

# len, opcode, unique, nodeid, uid, gid, pid, length of extensions in 8 bytes, padding
IN_HEADER = struct.Struct("=IIQQIIIHH")
# len, error (negative errno, or a Notification), unique
OUT_HEADER = struct.Struct("=IiQ")

# major, minor, max_readahead, flags, flags2 (absent from old kernels)
INIT_IN = struct.Struct("=IIIII")
INIT_IN_OLD = struct.Struct("=IIII")
# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
# map_alignment, flags2, max_stack_depth, request_timeout, unused
INIT_OUT = struct.Struct("=IIIIHHIIHHIIH22x")

# ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags
_ATTR = "QQQqqqIIIIIIIIII"
# nodeid, generation, entry_valid, attr_valid, their nanoseconds, attr
ENTRY_OUT = struct.Struct("=QQQQII" + _ATTR)
# attr_valid, nanoseconds, dummy, attr
ATTR_OUT = struct.Struct("=QII" + _ATTR)

FORGET_IN = struct.Struct("=Q")
BATCH_FORGET_IN = struct.Struct("=II")
FORGET_ONE = struct.Struct("=QQ")
GETATTR_IN = struct.Struct("=IIQ")
# valid, padding, fh, size, lock_owner, atime, mtime, ctime, their nanoseconds, mode, unused, uid, gid, unused
SETATTR_IN = struct.Struct("=IIQQQqqqIIIIIIII")
MKNOD_IN = struct.Struct("=IIII")
MKDIR_IN = struct.Struct("=II")
RENAME_IN = struct.Struct("=Q")
RENAME2_IN = struct.Struct("=QII")
LINK_IN = struct.Struct("=Q")
OPEN_IN = struct.Struct("=II")
# flags, mode, umask, open_flags
CREATE_IN = struct.Struct("=IIII")
# fh, open_flags, backing_id
OPEN_OUT = struct.Struct("=QIi")
# fh, flags, release_flags, lock_owner
RELEASE_IN = struct.Struct("=QIIQ")
# fh, offset, size, flags of the request, lock_owner, flags of the file, padding
READ_IN = struct.Struct("=QQIIQII")
WRITE_IN = READ_IN
WRITE_OUT = struct.Struct("=II")
FSYNC_IN = struct.Struct("=QII")
SETXATTR_IN = struct.Struct("=IIII")
SETXATTR_IN_OLD = struct.Struct("=II")
GETXATTR_IN = struct.Struct("=II")
GETXATTR_OUT = struct.Struct("=II")
# fh, offset, length, mode, padding
FALLOCATE_IN = struct.Struct("=QQQII")
LSEEK_IN = struct.Struct("=QQII")
LSEEK_OUT = struct.Struct("=Q")
# fh_in, off_in, nodeid_out, fh_out, off_out, len, flags
COPY_FILE_RANGE_IN = struct.Struct("=QQQQQQQ")
COPY_FILE_RANGE_OUT = struct.Struct("=Q")
# blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding, spare
STATFS_OUT = struct.Struct("=QQQQQIIII24x")
# ino, off, namelen, type
DIRENT = struct.Struct("=QQII")

# ino, off, len
INVAL_INODE_OUT = struct.Struct("=Qqq")
# parent, namelen, flags
# nodeid, offset, size, padding
STORE_OUT = struct.Struct("=QQII")
INVAL_ENTRY_OUT = struct.Struct("=QII")

# ioctl on /dev/fuse; the argument of BACKING_OPEN is fd, flags, padding
BACKING_OPEN = 0x4010E501
BACKING_CLOSE = 0x4004E502
BACKING_MAP = struct.Struct("=iIQ")
BACKING_ID = struct.Struct("=I")

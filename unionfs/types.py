"""Values that the union, its transports and its commands exchange.

Invariants: every value is immutable; numbers that must not be mixed have types of their own; file names are
``bytes`` as the kernel passes them; times are integers of nanoseconds since the epoch.
"""

from __future__ import annotations

import enum
from typing import NewType

from unionfs.namedtuple import NamedTuple

Ino = NewType("Ino", int)
"""Node number: names one file inside one mount, never reused while the mount lives. The root is 1."""

HandleId = NewType("HandleId", int)
"""Number of an open file or of an open directory, unique among the open ones of a mount."""

ROOT_INO = Ino(1)


class Access(enum.Enum):
    """What may be done to a branch; the words of the original Unionfs."""

    RW = "rw"
    RO = "ro"
    NFSRO = "nfsro"


class DeleteMode(enum.Enum):
    """What unlink and rmdir do to the instances of a name (docs/semantics.md)."""

    WHITEOUT = "whiteout"
    ALL = "all"
    FIRST = "first"


class WhiteoutForm(enum.Enum):
    """The form of whiteout that is written; both forms are always understood."""

    AUFS = "aufs"
    OVERLAY = "overlay"


class CreatePolicy(enum.Enum):
    """Which writable branch gets a new entry."""

    PARENT = "parent"
    TOP = "top"
    MFS = "mfs"
    RR = "rr"


class CopyupMode(enum.Enum):
    """Owner and mode of a file that is copied up."""

    PRESERVE = "preserve"
    CURRENTUSER = "currentuser"
    MOUNTER = "mounter"


class Passthrough(enum.Enum):
    """Whose content the kernel may read and write without the union (docs/semantics.md)."""

    AUTO = "auto"
    """Where no reader can see stale content: files on a writable branch, and all when nothing can be copied up."""
    FAST = "fast"
    """Lower files too; one that is open across its copy-up keeps the old content, as with overlayfs."""
    OFF = "off"


class PermissionStore(enum.Enum):
    """Where owner and mode are kept; the words and attributes of fuse-overlayfs's ``xattr_permissions=``."""

    INODE = "0"
    """In the inode of the branch's file, as always."""
    PRIVILEGED = "1"
    """In ``security.fuseoverlayfs.override_stat``, which takes CAP_SYS_ADMIN."""
    CONTAINERS = "2"
    """In ``user.containers.override_stat``, which anybody may set on what is his."""


class IdRange(NamedTuple):
    """So many user or group ids: ``stored`` and following in the branches are ``shown`` and following in the union."""

    stored: int
    shown: int
    length: int


class Caller(NamedTuple):
    """Who asks: the ids of the process whose system call became the request."""

    uid: int
    gid: int
    pid: int
    umask: int = 0


class Attr(NamedTuple):
    """Attributes of one file.

    ``ino`` is the node number the transport speaks of; ``visible_ino`` is what ``stat(2)`` shows, which stays the
    same when a copy-up gives the file a new node.  ``mode`` holds the type bits; ``blocks`` counts 512 bytes.
    """

    ino: Ino
    visible_ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    blksize: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class SetAttr(NamedTuple):
    """Changes of attributes; None leaves a field as it is. ``mode`` holds permission bits only."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class DirEntry(NamedTuple):
    """One name of a listing.

    ``cookie`` continues the listing *after* this entry. ``attr`` is there when the listing was asked for attributes
    and the entry is still there; its node is not referenced until the transport calls ``remember``.
    ``type_bits`` is the file type as in ``st_mode`` (``S_IFMT``), 0 when unknown.
    """

    name: bytes
    cookie: int
    visible_ino: int
    type_bits: int
    attr: Attr | None


class StatFs(NamedTuple):
    """Size of a file system, ``statvfs(3)``; block counts are in units of ``frsize`` bytes."""

    bsize: int
    frsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    namelen: int


class UnionOptions(NamedTuple):
    """How a union behaves, apart from its branches (spec of the ``-o`` options in docs/cli)."""

    delete: DeleteMode = DeleteMode.WHITEOUT
    whiteouts: WhiteoutForm = WhiteoutForm.AUFS
    create: CreatePolicy = CreatePolicy.PARENT
    copyup: CopyupMode = CopyupMode.PRESERVE
    copyup_uid: int | None = None
    copyup_gid: int | None = None
    copyup_mode: int | None = None
    read_only: bool = False
    volatile: bool = False
    redirect: bool = True
    passthrough: Passthrough = Passthrough.AUTO
    sealed_branches: bool = True
    """Nobody changes the branches from outside, so that the kernel may cache entries for ever."""
    constant_branches: bool = False
    """Those that can't be written are what they are for other unions too, as long as there is a server."""
    uid_map: tuple[IdRange, ...] = ()
    gid_map: tuple[IdRange, ...] = ()
    squash_uid: int | None = None
    """Everything is shown as owned by this user."""
    squash_gid: int | None = None
    permissions: PermissionStore = PermissionStore.INODE
    stable_inodes: bool = False
    """Inode numbers are the same after the union is mounted again."""

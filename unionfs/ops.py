"""The contract between a filesystem and the transports that carry kernel requests to it.

Rules for an implementation: it is synchronous and has one caller at a time; a refusal is ``OSError`` with the errno
the kernel shall see and leaves no trace; it never touches a path of the mount it serves.
Rules for a transport: it knows this module and ``types`` and nothing else of the package; it translates and decides
nothing; it balances references: one for each ``Attr`` returned by lookup, create, mknod, mkdir, symlink, link and
tmpfile, one for each ``remember``, given back by ``forget``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from unionfs.types import Attr, Caller, DirEntry, HandleId, Ino, SetAttr, StatFs


class Notifier(Protocol):
    """What a filesystem may tell the kernel; each call is a hint that never fails."""

    def invalidate_entry(self, parent: Ino, name: bytes) -> None:
        """The kernel has forgotten what ``name`` in ``parent`` leads to."""

    def invalidate_inode(self, ino: Ino) -> None:
        """The kernel has forgotten the attributes and the cached content of ``ino``."""

    def invalidate_attributes(self, ino: Ino) -> None:
        """The kernel has forgotten the attributes of ``ino``; at once, also while it waits for an answer about it."""

    def invalidate_all(self) -> None:
        """The kernel looks every name up again (branches changed)."""

    def when_told(self, call: Callable[[], None]) -> None:
        """``call`` is made, perhaps by another thread, once the kernel has got all it was told before."""


class LongCopy(Protocol):
    """The content of a large file that a request needs copied, see ``CopyPendingError``."""

    def run(self) -> None:
        """The content is copied, or the request, asked again, says why not. Never raises.

        Called once, in any thread.
        """

    def drop(self) -> None:
        """No request waits for it any more: what was not used is gone, ``run`` returns soon. By the one caller."""


class CopyPendingError(Exception):
    """No answer yet: the same request is to be asked again once ``copy`` has run. Nothing has changed."""

    def __init__(self, copy: LongCopy) -> None:
        super().__init__("a large file is to be copied first")
        self.copy = copy


class FilesystemOps(Protocol):
    """A filesystem as the kernel sees it. Failure is ``OSError``."""

    def defer_copies(self) -> None:
        """From now on a request that needs a large file copied raises ``CopyPendingError``, instead of taking long."""

    # -- names ------------------------------------------------------------------------------------------------
    def lookup(self, parent: Ino, name: bytes, caller: Caller) -> Attr:
        """Attributes of ``name`` in ``parent``, plus one reference. Raises ENOENT."""
        ...

    def remember(self, ino: Ino) -> None:
        """``ino``, as listed, has one more reference."""

    def forget(self, ino: Ino, count: int) -> None:
        """``ino`` has ``count`` references fewer; unknown numbers are ignored. Never raises."""

    # -- attributes -------------------------------------------------------------------------------------------
    def getattr(self, ino: Ino, handle: HandleId | None) -> Attr:
        """Attributes of ``ino``; through ``handle`` when given. An unlinked open file shows nlink 0."""
        ...

    def setattr(self, ino: Ino, changes: SetAttr, handle: HandleId | None, caller: Caller) -> Attr:
        """``changes`` are applied (all or an error); the new attributes."""
        ...

    def readlink(self, ino: Ino) -> bytes:
        """Target of the symbolic link. Raises EINVAL when ``ino`` is none."""
        ...

    # -- making and removing names ----------------------------------------------------------------------------
    def mknod(self, parent: Ino, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        """A regular file, device, FIFO or socket named ``name`` exists and belongs to the caller.

        Here and in mkdir, create and tmpfile the caller's umask is taken off ``mode``, unless a default ACL says
        otherwise.
        """
        ...

    def mkdir(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> Attr:
        """An empty directory named ``name`` exists; nothing of lower branches shows in it."""
        ...

    def symlink(self, parent: Ino, name: bytes, target: bytes, caller: Caller) -> Attr:
        """A symbolic link to ``target`` named ``name`` exists."""
        ...

    def link(self, ino: Ino, parent: Ino, name: bytes) -> Attr:
        """``name`` is one more name of ``ino``."""
        ...

    def unlink(self, parent: Ino, name: bytes) -> None:
        """``name`` is removed as the delete mode says."""

    def rmdir(self, parent: Ino, name: bytes) -> None:
        """The directory ``name``, empty in the merged view, is removed. Raises ENOTEMPTY."""

    def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int) -> None:
        """``name`` is now ``new_name``; ``flags`` as in ``renameat2(2)``."""

    # -- open files -------------------------------------------------------------------------------------------
    def open(self, ino: Ino, flags: int, caller: Caller) -> HandleId:
        """An open file; copied up first when ``flags`` ask to write. O_TRUNC is honoured."""
        ...

    def create(self, parent: Ino, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Attr, HandleId]:
        """A new regular file, open. With O_EXCL raises EEXIST; without it opens what is there."""
        ...

    def tmpfile(self, parent: Ino, mode: int, flags: int, caller: Caller) -> tuple[Attr, HandleId]:
        """An unnamed regular file, open, that ``link`` may give a name (``open(2)``, O_TMPFILE)."""
        ...

    def read(self, handle: HandleId, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer only at the end of the file."""
        ...

    def write(self, handle: HandleId, offset: int, data: bytes | memoryview) -> int:
        """Number of bytes written at ``offset`` (at the end when the handle was opened O_APPEND).

        Takes setuid, setgid and capabilities away as a plain filesystem does (``inode(7)``).
        """
        ...

    def fsync(self, handle: HandleId, datasync: bool) -> None:
        """The content of the open file is on the disk of its branch."""

    def release(self, handle: HandleId) -> None:
        """The handle is gone. Never raises."""

    def fallocate(self, handle: HandleId, mode: int, offset: int, length: int) -> None:
        """``fallocate(2)`` on the open file."""

    def lseek(self, handle: HandleId, offset: int, whence: int) -> int:
        """Offset of the next data or hole (``lseek(2)``, SEEK_DATA and SEEK_HOLE only)."""
        ...

    def copy_file_range(
        self, source: HandleId, source_offset: int, target: HandleId, target_offset: int, length: int
    ) -> int:
        """Number of bytes copied between two open files of the mount."""
        ...

    def backing_fd(self, handle: HandleId) -> int | None:
        """Descriptor the kernel may read and write in place of this handle, or None.

        The same one for all handles of a node that are open together, or None for all of them. Owned by the
        filesystem and valid until the last ``release``. Never one of a branch that must not be written when
        the handle may write. None where passing through could show stale content.
        """
        ...

    def content_fd(self, handle: HandleId) -> int:
        """Descriptor that reads what this handle reads, for who asks in the same process.

        Owned by the filesystem and valid until the ``release``; its offset is nobody's.
        """
        ...

    def whole_content(self, handle: HandleId) -> bytes | None:
        """All of a small file, for a transport that gives it to the kernel's cache before anybody asks.

        None where that could disturb: another handle of the node is open, others may change the file, the handle was
        not opened for reading alone, or it was given once already.
        """
        ...

    # -- directories ------------------------------------------------------------------------------------------
    def opendir(self, ino: Ino) -> HandleId:
        """A frozen listing of the directory."""
        ...

    def readdir(self, handle: HandleId, cookie: int, attributes: bool) -> Iterator[DirEntry]:
        """Entries after ``cookie`` (0: from the start), ``.`` and ``..`` not among them.

        An entry neither added nor removed meanwhile is returned exactly once over the whole listing. With
        ``attributes`` each entry carries its Attr. Takes no references.
        """
        ...

    def releasedir(self, handle: HandleId) -> None:
        """The listing is gone. Never raises."""

    def fsyncdir(self, ino: Ino, datasync: bool) -> None:
        """The entries of the directory are on disk in its writable branches."""

    # -- the rest ---------------------------------------------------------------------------------------------
    def statfs(self) -> StatFs:
        """Size and room of the branch that new files go to."""
        ...

    def getxattr(self, ino: Ino, name: bytes) -> bytes:
        """Value of the extended attribute. Raises ENODATA."""
        ...

    def setxattr(self, ino: Ino, name: bytes, value: bytes, flags: int) -> None:
        """The extended attribute has the value; ``flags`` XATTR_CREATE or XATTR_REPLACE."""

    def listxattr(self, ino: Ino) -> list[bytes]:
        """Names of the extended attributes, the union's own marks left out."""
        ...

    def removexattr(self, ino: Ino, name: bytes) -> None:
        """The extended attribute is gone. Raises ENODATA."""

    def entries_stay_valid(self) -> bool:
        """Whether the kernel may cache names and attributes until told otherwise."""
        ...

    def close(self) -> None:
        """Every descriptor is closed; nothing may be called afterwards. Idempotent."""

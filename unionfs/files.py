"""Open files: their content, and what the kernel may read and write by itself.

Invariants: every read goes to the instance that is shown now, also when the file was copied up after the open, except
where the kernel was given the descriptor (``Passthrough.FAST``); a descriptor on a branch that must not be written is
never opened for writing; a write by anybody but the superuser takes setuid, setgid and capabilities away, as on a plain
filesystem (``inode(7)``, ``capabilities(7)``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from unionfs import _sys
from unionfs.branch import OpenBranch
from unionfs.handles import Handle, Handles, OpenFile
from unionfs.inodes import FileNode
from unionfs.lift import Lifter
from unionfs.tree import Tree, refuse
from unionfs.types import Caller, HandleId, Passthrough

_WRITING = os.O_WRONLY | os.O_RDWR
_NOT_FOR_CACHE = _WRITING | os.O_DIRECT
CACHED_BYTES = 64 << 10
"""Files up to this size are read through the kernel's cache: one request, and no more as long as it keeps them.

To pass one through costs two ioctls at each open, and a question for its attributes after each read.
"""
_UNWRITABLE = frozenset((errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY))
CAPABILITY = "security.capability"


class Files:
    """Opens nodes of a tree and carries their content."""

    def __init__(self, tree: Tree, lifter: Lifter, handles: Handles) -> None:
        self._tree = tree
        self._lifter = lifter
        self._handles = handles
        self._passthrough = tree.options.passthrough
        self._sealed = tree.options.sealed_branches

    # -- opening -----------------------------------------------------------------------------------------------
    def open(self, node: FileNode, flags: int, caller: Caller) -> HandleId:
        """A handle of ``node``. Raises ESTALE when another node took its place: look the name up again."""
        if node.successor is not None:
            refuse(errno.ESTALE)
        writes = bool(flags & (_WRITING | os.O_TRUNC))
        if writes and self._lifter.writable(node, caller, 0 if flags & os.O_TRUNC else None) is not node:
            refuse(errno.ESTALE)
        file = self.open_file(node, writes=writes)
        try:
            if flags & os.O_TRUNC:
                os.ftruncate(file.fd, 0)
            if writes:
                self._note_privileges(file)
            if flags & os.O_TRUNC and file.privileged:
                self.drop_privileges(file, trusted=caller.uid == 0)
        except BaseException:
            self._close_unused(node, file)
            raise
        return self._handles.add(node, file, flags, trusted=caller.uid == 0)

    def adopt(self, node: FileNode, fd: int, flags: int, caller: Caller, mode: int) -> HandleId:
        """A handle of the new ``node`` whose file is open, read and write, as ``fd``, which now belongs to the node."""
        node.file = OpenFile(fd, writable=True, privileged=bool(mode & (stat.S_ISUID | stat.S_ISGID)))
        node.file.bare = self._sealed
        return self._handles.add(node, node.file, flags, trusted=caller.uid == 0)

    def open_file(self, node: FileNode, *, writes: bool) -> OpenFile:
        """The file behind all handles of ``node``, able to write when asked for."""
        file = node.file
        if file is None:
            writable = node.branch.writable and (writes or self._passthrough is not Passthrough.OFF)
            fd, writable = self._open_instance(node, writable=writable, writes=writes)
            file = node.file = OpenFile(fd, writable=writable, privileged=False)
        elif writes and not file.writable:
            upper, _ = self._open_instance(node, writable=True, writes=True)
            os.dup2(upper, file.fd, inheritable=False)
            os.close(upper)
            file.writable = True
        return file

    def _open_instance(self, node: FileNode, *, writable: bool, writes: bool) -> tuple[int, bool]:
        flags = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        if node.parent is not None:
            fd, rest = node.branch.at(node.path)
            flags |= os.O_NOFOLLOW
        else:
            # an unlinked file: by its open descriptor
            unnamed = node.file.fd if node.file is not None else node.ghost
            if unnamed is None:
                refuse(errno.ESTALE)
            fd, rest = unnamed, b"/proc/self/fd/%d" % unnamed
        if writable:
            try:
                return os.open(rest, flags | os.O_RDWR, dir_fd=fd), True
            except OSError as error:
                if writes or error.errno not in _UNWRITABLE:
                    raise
        return os.open(rest, flags | os.O_RDONLY, dir_fd=fd), False

    def _close_unused(self, node: FileNode, file: OpenFile) -> None:
        if not file.handles:
            os.close(file.fd)
            node.file = None

    def _note_privileges(self, file: OpenFile) -> None:
        if os.fstat(file.fd).st_mode & (stat.S_ISUID | stat.S_ISGID):
            file.privileged = True
            return
        try:
            os.getxattr(file.fd, CAPABILITY)
        except OSError as error:
            file.bare = self._sealed and error.errno in {errno.ENODATA, errno.EOPNOTSUPP}
        else:
            file.privileged = True

    def release(self, number: HandleId) -> None:
        """The handle is gone; the last one closes the file, or leaves it for the attributes of an unlinked node."""
        handle = self._handles.pop(number)
        if handle is None:
            return
        file, node = handle.file, handle.node
        file.handles -= 1
        if file.handles:
            return
        if node.file is file:
            node.file = None
        if node.parent is None and node.successor is None and node.lookups > 0 and node.ghost is None:
            node.ghost = file.fd
        else:
            os.close(file.fd)
        self._tree.table.release(node)

    def backing_fd(self, number: HandleId) -> int | None:
        """The descriptor of the node when the kernel may use it; decided at the first open, the same for all handles.

        A node that is open without passing through stays so until its last release: the kernel refuses to mix.
        """
        handle = self._handles[number]
        file = handle.file
        if file.passes is None:
            # what the kernel writes by itself takes no setuid away
            file.passes = (
                file.handles == 1
                and not file.privileged
                and self._may_pass(handle.node.branch)
                and not (self._sealed and self._better_cached(handle))
            )
        return file.fd if file.passes else None

    def content_fd(self, number: HandleId) -> int:
        """The descriptor of the node, whether the kernel may use it or not."""
        return self._handles[number].file.fd

    def whole_content(self, number: HandleId) -> bytes | None:
        """All of a small file, once in the life of its node, while nobody else has it open; None otherwise."""
        handle = self._handles[number]
        file, node = handle.file, handle.node
        if not self._sealed or node.offered or file.handles > 1 or handle.flags & _NOT_FOR_CACHE:
            return None
        node.offered = True
        size = os.fstat(file.fd).st_size
        if not 0 < size <= CACHED_BYTES:
            return None
        content = os.pread(file.fd, size, 0)
        return content if len(content) == size else None

    @staticmethod
    def _better_cached(handle: Handle) -> bool:
        """Whether the kernel does better to keep the content: a small file that is only read."""
        return not handle.flags & _WRITING and os.fstat(handle.file.fd).st_size <= CACHED_BYTES

    def _may_pass(self, branch: OpenBranch) -> bool:
        if self._passthrough is Passthrough.AUTO:
            writable = self._tree.writable
            return branch.writable or not writable or writable[0] > branch.position
        return self._passthrough is Passthrough.FAST

    # -- content -----------------------------------------------------------------------------------------------
    def read(self, number: HandleId, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer only at the end of the file."""
        fd = self._handles[number].file.fd
        return os.pread(fd, size, offset)

    def write(self, number: HandleId, offset: int, data: bytes | memoryview) -> int:
        """Number of bytes written."""
        handle = self._handles[number]
        file = handle.file
        if not file.writable:
            refuse(errno.EBADF)
        if file.privileged:
            self.drop_privileges(file, trusted=handle.trusted)
        if handle.write_flags:
            if handle.write_flags & os.RWF_APPEND:
                offset = os.fstat(file.fd).st_size
            return os.pwritev(file.fd, [data], offset, handle.write_flags & ~os.RWF_APPEND)
        return os.pwrite(file.fd, data, offset)

    def drop_privileges(self, file: OpenFile, *, trusted: bool) -> None:
        """What content written by somebody must not carry is gone; the superuser keeps setuid and setgid."""
        file.privileged = False
        with contextlib.suppress(OSError):
            os.removexattr(file.fd, CAPABILITY)
        mode = stat.S_IMODE(os.fstat(file.fd).st_mode)
        kept = without_privileges(mode)
        if kept != mode:
            if trusted:
                file.privileged = True
            else:
                os.fchmod(file.fd, kept)

    def fallocate(self, number: HandleId, mode: int, offset: int, length: int) -> None:
        """``fallocate(2)``."""
        handle = self._writing(number)
        _sys.fallocate(handle.file.fd, mode, offset, length)

    def copy_range(
        self, source: HandleId, source_offset: int, target: HandleId, target_offset: int, length: int
    ) -> int:
        """Number of bytes copied, by the kernel where it can."""
        reading, writing = self._handles[source], self._writing(target)
        try:
            return os.copy_file_range(reading.file.fd, writing.file.fd, length, source_offset, target_offset)
        except OSError as error:
            if error.errno not in {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
        return os.pwrite(writing.file.fd, self.read(source, source_offset, min(length, 1 << 20)), target_offset)

    def _writing(self, number: HandleId) -> Handle:
        handle = self._handles[number]
        if not handle.file.writable:
            refuse(errno.EBADF)
        if handle.file.privileged:
            self.drop_privileges(handle.file, trusted=handle.trusted)
        return handle


def without_privileges(mode: int) -> int:
    """``mode`` as a write leaves it: without setuid, and without setgid when the group may execute (``inode(7)``)."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode

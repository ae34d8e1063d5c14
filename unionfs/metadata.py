"""Attributes changed: mode, owner, size, times, extended attributes.

Invariants: a change goes to a writable instance, copied up first if need be; several changes of one request are made in
the order owner, size, mode, times, since each takes away what a later one sets; the marks of unions are neither seen
nor set through the union.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from unionfs import whiteout
from unionfs.branch import OpenBranch
from unionfs.files import CAPABILITY, without_privileges
from unionfs.handles import Handles
from unionfs.inodes import DirectoryNode, FileNode, Node
from unionfs.lift import Lifter
from unionfs.policy import plan_copyup
from unionfs.tree import Tree, refuse
from unionfs.types import Caller, HandleId, SetAttr

_NOTHING = SetAttr()
"""What ``chown(2)`` with -1 twice asks for: the time of the last change is now, on Linux as on a plain filesystem."""

_CAPABILITY = CAPABILITY.encode()


class Metadata:
    """Changes attributes of nodes of a tree."""

    def __init__(self, tree: Tree, lifter: Lifter, handles: Handles) -> None:
        self._tree = tree
        self._lifter = lifter
        self._handles = handles

    def change(self, node: Node, changes: SetAttr, handle: HandleId | None, caller: Caller) -> Node:
        """``changes`` are made; the node that carries them."""
        size = changes.size if isinstance(node, FileNode) else None
        node = self.writable(node, caller, size)
        path = self._host_path(node)
        status = self._tree.stat(node)
        is_link = stat.S_ISLNK(status.st_mode)
        if changes.uid is not None or changes.gid is not None or changes == _NOTHING:
            uid = -1 if changes.uid is None else changes.uid
            gid = -1 if changes.gid is None else changes.gid
            os.chown(path, uid, gid, follow_symlinks=self._follows(node))
        if changes.size is not None:
            self._truncate(node, path, changes, handle, caller)
        if changes.mode is not None:
            if is_link:
                refuse(errno.EOPNOTSUPP)
            os.chmod(path, changes.mode)
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            atime_ns = status.st_atime_ns if changes.atime_ns is None else changes.atime_ns
            mtime_ns = self._tree.stat(node).st_mtime_ns if changes.mtime_ns is None else changes.mtime_ns
            os.utime(path, ns=(atime_ns, mtime_ns), follow_symlinks=self._follows(node))
        if isinstance(node, FileNode) and node.file is not None:
            node.file.privileged = True
        return node

    def writable(self, node: Node, caller: Caller | None = None, size_bytes: int | None = None) -> Node:
        """The node, or its successor, on a writable branch."""
        if isinstance(node, FileNode):
            return self._lifter.writable(node, caller, size_bytes)
        if not node.branch.writable:
            position = plan_copyup(self._tree.writable, node.branch.position, node.branch.position)
            self._lifter.directory(node, position)
        return node

    def _truncate(self, node: Node, path: bytes, changes: SetAttr, handle: HandleId | None, caller: Caller) -> None:
        if isinstance(node, DirectoryNode):
            refuse(errno.EISDIR)
        size = changes.size or 0
        if handle is not None and self._handles[handle].node is node and self._handles[handle].file.writable:
            fd = self._handles[handle].file.fd
            os.ftruncate(fd, size)
        else:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                os.ftruncate(fd, size)
            finally:
                os.close(fd)
        mode = stat.S_IMODE(self._tree.stat(node).st_mode)
        if changes.mode is None and caller.uid != 0 and without_privileges(mode) != mode:
            os.chmod(path, without_privileges(mode))
        with contextlib.suppress(OSError):
            os.removexattr(path, "security.capability")

    # -- extended attributes -----------------------------------------------------------------------------------
    def getxattr(self, node: Node, name: bytes) -> bytes:
        """Value of the attribute. Raises ENODATA."""
        if whiteout.is_own_xattr(name):
            refuse(errno.ENODATA)
        if name == _CAPABILITY and isinstance(node, FileNode) and node.file is not None and node.file.bare:
            # the kernel asks before the first write to each file
            refuse(errno.ENODATA)
        return os.getxattr(self._host_path(node), name, follow_symlinks=self._follows(node))

    def listxattr(self, node: Node) -> list[bytes]:
        """Names, without the marks."""
        names = os.listxattr(self._host_path(node), follow_symlinks=self._follows(node))
        return [name for name in map(os.fsencode, names) if not whiteout.is_own_xattr(name)]

    def setxattr(self, node: Node, name: bytes, value: bytes, flags: int) -> Node:
        """The attribute has the value; the node that carries it. Raises EPERM for a mark."""
        if whiteout.is_own_xattr(name):
            refuse(errno.EPERM)
        node = self.writable(node)
        os.setxattr(self._host_path(node), name, value, flags, follow_symlinks=self._follows(node))
        self._noted(node)
        return node

    def removexattr(self, node: Node, name: bytes) -> Node:
        """The attribute is gone; the node that carried it. Raises ENODATA."""
        if whiteout.is_own_xattr(name):
            refuse(errno.ENODATA)
        # asked first, so that nothing is copied up for an attribute that is not there
        self.getxattr(node, name)
        node = self.writable(node)
        os.removexattr(self._host_path(node), name, follow_symlinks=self._follows(node))
        self._noted(node)
        return node

    @staticmethod
    def _noted(node: Node) -> None:
        if isinstance(node, DirectoryNode):
            node.inherits_acl = None
        elif node.file is not None:
            node.file.privileged = True
            node.file.bare = False

    def _host_path(self, node: Node) -> bytes:
        """A host path of the instance shown; for an unlinked one it leads through a descriptor."""
        if node.parent is not None or node is self._tree.root:
            return node.branch.proc_path(node.path)
        fd = node.file.fd if isinstance(node, FileNode) and node.file is not None else node.ghost
        if fd is None:
            refuse(errno.ESTALE)
        return b"/proc/self/fd/%d" % fd

    def _follows(self, node: Node) -> bool:
        """Whether the host path of ``node`` ends in a link of /proc that must be followed."""
        return node.parent is None and node is not self._tree.root


def open_directory(branch: OpenBranch, path: bytes) -> int:
    """A descriptor of the directory that can be synced; the caller closes it."""
    fd, rest = branch.at(path)
    return os.open(rest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)

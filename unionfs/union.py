"""The union filesystem: ``FilesystemOps`` over a stack of branches.

This module only composes: numbers become nodes, the parts do the work, nodes become attributes. ``tree`` knows what is
shown, ``lift`` copies up, ``names`` and ``rename`` change names, ``files`` and ``metadata`` what they lead to.
Invariants: an operation that fails leaves what the union shows as it was; no path of the mount itself is ever touched;
everything is reached through descriptors of the branch roots, so the union may be mounted over one of its branches.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from unionfs.branch import Branch, BranchStack, OpenBranch, open_branches
from unionfs.files import Files
from unionfs.handles import Handles, Listing
from unionfs.inodes import FileNode, Node
from unionfs.lift import Lifter
from unionfs.metadata import Metadata, open_directory
from unionfs.names import Made, Maker, Names
from unionfs.ops import Notifier
from unionfs.rename import Renamer
from unionfs.resolve import CODE_KIND, SHOWN, Kind
from unionfs.restack import Wanted, change_stack
from unionfs.takeback import recover
from unionfs.tree import Tree, refuse
from unionfs.types import (
    Attr,
    Caller,
    DirEntry,
    HandleId,
    Ino,
    SetAttr,
    StatFs,
    UnionOptions,
)

if TYPE_CHECKING:
    from unionfs.constantscans import ConstantScans

_PERMISSIONS = 0o7777
_TYPE = 0o170000


class Union:
    """A union of branches. Usable without any mount; the caller ends it with ``close``.

    Raises:
        UnionError: a branch is missing, twice in the stack, or inside another.
    """

    def __init__(
        self,
        stack: BranchStack,
        options: UnionOptions | None = None,
        notifier: Notifier | None = None,
        log: Callable[[str], None] | None = None,
        scans: ConstantScans | None = None,
    ) -> None:
        """``log`` takes what nobody is answered but somebody should know. ``scans`` are shared with other unions."""
        self.options = UnionOptions() if options is None else options
        self.notifier = notifier
        branches = open_branches(stack.branches, read_only=self.options.read_only)
        self._handles = Handles()
        self._tree = Tree(stack, branches, self.options, scans)
        self._lifter = Lifter(self._tree, notifier)
        self._names = Names(self._tree, self._lifter)
        self._renamer = Renamer(self._tree, self._lifter, self._names)
        self._files = Files(self._tree, self._lifter, self._handles)
        self._metadata = Metadata(self._tree, self._lifter, self._handles)
        if log is not None:
            self._tree.log = log
        recover(self._tree)

    @property
    def stack(self) -> BranchStack:
        """The branches as they are now."""
        return self._tree.stack

    def change_branches(self, branches: Sequence[Branch]) -> BranchStack:
        """The union is that of ``branches``, top first: all changes at once, between two requests; the new stack.

        Raises:
            BranchBusyError: a branch that goes has open files, or one that becomes read-only has files open for
            writing. UnionError: a branch is missing, twice there, or inside another. Nothing has changed.
        """
        return self.restack([Wanted(branch) for branch in branches])

    def restack(self, wanted: Sequence[Wanted], commit: Callable[[], None] | None = None) -> BranchStack:
        """As ``change_branches``, of branches that may be open already; ``commit`` comes after the last check."""
        read_only = self.options.read_only
        # begun for the old stack; the requests that wait for them begin anew
        self._lifter.abandon_copies()
        stack = change_stack(self._tree, self._handles, wanted, read_only=read_only, commit=commit)
        if self.notifier is not None:
            self.notifier.invalidate_all()
        return stack

    @property
    def branches(self) -> tuple[OpenBranch, ...]:
        """The branches as they are now, open; they belong to the union."""
        return self._tree.branches

    def counts(self) -> dict[str, int]:
        """How much the union holds at the moment."""
        return {
            "generation": self.stack.generation,
            "branches": len(self._tree.branches),
            "nodes": len(self._tree.table),
            "open_files": len(self._handles.files()),
        }

    def instances(self, path: bytes) -> tuple[Branch, ...]:
        """The branches that hold an entry at ``path`` (relative, ``b""`` is the root), top first, seen or hidden."""
        holding: list[Branch] = []
        for branch in self._tree.branches:
            fd, rest = branch.at(path)
            try:
                os.stat(rest, dir_fd=fd, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue
            holding.append(branch.branch)
        return tuple(holding)

    def refresh(self) -> None:
        """What was changed in the branches from outside shows."""
        for branch in self._tree.branches:
            branch.moved()
        self._tree.reload(self._tree.root, keep_handles=False)
        if self.notifier is not None:
            for node in self._tree.table.values():
                self.notifier.invalidate_inode(node.ino)
            self.notifier.invalidate_all()

    def when_told(self, call: Callable[[], None]) -> None:
        """``call`` is made, perhaps by another thread, once the kernel knows of every change of branches before."""
        if self.notifier is None:
            call()
        else:
            self.notifier.when_told(call)

    def defer_copies(self) -> None:
        """From now on a request that needs a large file copied raises ``CopyPendingError``, instead of taking long."""
        self._lifter.copier.defers = True

    # -- names ------------------------------------------------------------------------------------------------
    def lookup(self, parent: Ino, name: bytes, caller: Caller) -> Attr:  # noqa: ARG002 - the kernel checks permissions
        """Attributes of ``name`` in ``parent``, plus one reference. Raises ENOENT."""
        node, status = self._tree.child(self._tree.directory(parent), name)
        return self._known(node, status)

    def _known(self, node: Node, status: os.stat_result) -> Attr:
        """Attributes of a node the caller gets one more reference to."""
        attr = self._tree.attr(node, status)
        node.lookups += 1
        return attr

    def remember(self, ino: Ino) -> None:
        """``ino``, as listed, has one more reference."""
        self._tree.table[ino].lookups += 1

    def forget(self, ino: Ino, count: int) -> None:
        """``ino`` has ``count`` references fewer. Never raises."""
        self._tree.table.forget(ino, count)

    # -- attributes -------------------------------------------------------------------------------------------
    def getattr(self, ino: Ino, handle: HandleId | None) -> Attr:  # noqa: ARG002 - open nodes answer from their file
        """Attributes of ``ino``."""
        return self._tree.node_attr(self._tree.node(ino))

    def setattr(self, ino: Ino, changes: SetAttr, handle: HandleId | None, caller: Caller) -> Attr:
        """``changes`` are applied; the new attributes."""
        node = self._metadata.change(self._tree.node(ino), changes, handle, caller)
        return self._tree.node_attr(node)._replace(ino=ino)

    def readlink(self, ino: Ino) -> bytes:
        """Target of the symbolic link. Raises EINVAL when ``ino`` is none."""
        node = self._tree.node(ino)
        if node.parent is None:
            if node.ghost is None:
                refuse(errno.EINVAL)
            return os.readlink(b"", dir_fd=node.ghost)
        fd, rest = node.branch.at(node.path)
        return os.readlink(rest, dir_fd=fd)

    # -- making and removing names ----------------------------------------------------------------------------
    def _make(self, parent: Ino, name: bytes, kind: Kind, mode: int | None, caller: Caller, maker: Maker) -> Made:
        permissions = None if mode is None else mode & _PERMISSIONS
        return self._names.make(self._tree.directory(parent), name, kind, permissions, caller, maker)

    def _masked(self, parent: Ino, mode: int, caller: Caller) -> int:
        """``mode`` without the bits of the caller's umask, which a default ACL overrules (``umask(2)``)."""
        if not caller.umask or self._names.inherits_acl(self._tree.directory(parent)):
            return mode
        return mode & ~caller.umask

    def mknod(self, parent: Ino, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        """A regular file, device, FIFO or socket named ``name`` exists. Raises EPERM for a device 0:0, a whiteout."""
        if stat.S_ISCHR(mode) and rdev == 0:
            refuse(errno.EPERM, name)
        mode = self._masked(parent, mode, caller)

        def maker(fd: int, path: bytes) -> int:
            os.mknod(path, mode, rdev, dir_fd=fd)
            return -1

        made = self._make(parent, name, Kind.FILE, mode, caller, maker)
        return self._known(made.node, made.status)

    def mkdir(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> Attr:
        """An empty directory named ``name`` exists; nothing of lower branches shows in it."""
        mode = self._masked(parent, mode, caller)

        def maker(fd: int, path: bytes) -> int:
            os.mkdir(path, mode & _PERMISSIONS, dir_fd=fd)
            return -1

        made = self._make(parent, name, Kind.DIRECTORY, mode, caller, maker)
        return self._known(made.node, made.status)

    def symlink(self, parent: Ino, name: bytes, target: bytes, caller: Caller) -> Attr:
        """A symbolic link to ``target`` named ``name`` exists."""

        def maker(fd: int, path: bytes) -> int:
            os.symlink(target, path, dir_fd=fd)
            return -1

        made = self._make(parent, name, Kind.FILE, None, caller, maker)
        return self._known(made.node, made.status)

    def link(self, ino: Ino, parent: Ino, name: bytes) -> Attr:
        """``name`` is one more name of ``ino``. Raises EPERM for a directory."""
        old = self._tree.node(ino)
        if not isinstance(old, FileNode):
            refuse(errno.EPERM, name)
        node = self._names.link(old, self._tree.directory(parent), name)
        return self._known(node, self._tree.stat(node))

    def unlink(self, parent: Ino, name: bytes) -> None:
        """``name`` is removed as the delete mode says."""
        self._names.unlink(self._tree.directory(parent), name)

    def rmdir(self, parent: Ino, name: bytes) -> None:
        """The directory ``name``, empty in the merged view, is removed. Raises ENOTEMPTY."""
        self._names.rmdir(self._tree.directory(parent), name)

    def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int) -> None:
        """``name`` is now ``new_name``; ``flags`` as in ``renameat2(2)``."""
        self._renamer.rename(self._tree.directory(parent), name, self._tree.directory(new_parent), new_name, flags)

    # -- open files -------------------------------------------------------------------------------------------
    def open(self, ino: Ino, flags: int, caller: Caller) -> HandleId:
        """An open file; copied up first when ``flags`` ask to write.

        Raises ESTALE once when a lower file that the kernel reads by itself is opened for writing
        (``Passthrough.FAST``): looked up again, its name leads to a new node with the same visible number.
        """
        node = self._tree.table[ino]
        if not isinstance(node, FileNode):
            refuse(errno.EISDIR)
        return self._files.open(node, flags, caller)

    def create(self, parent: Ino, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Attr, HandleId]:
        """A new regular file, open. With O_EXCL raises EEXIST; without it opens what is there."""
        directory = self._tree.directory(parent)
        if not flags & os.O_EXCL:
            node = self._tree.find(directory, name)
            if isinstance(node, FileNode):
                handle = self._files.open(node, flags, caller)
                return self._known(node, self._tree.stat(node)), handle
        mode = self._masked(parent, mode, caller)

        def maker(fd: int, path: bytes) -> int:
            return os.open(
                path,
                os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW,
                mode & _PERMISSIONS,
                dir_fd=fd,
            )

        made = self._make(parent, name, Kind.FILE, mode, caller, maker)
        return self._opened(made.node, made.status, made.fd, flags, caller)

    def _opened(self, node: Node, status: os.stat_result, fd: int, flags: int, caller: Caller) -> tuple[Attr, HandleId]:
        if not isinstance(node, FileNode):
            refuse(errno.EISDIR)
        handle = self._files.adopt(node, fd, flags, caller, status.st_mode)
        return self._known(node, status), handle

    def tmpfile(self, parent: Ino, mode: int, flags: int, caller: Caller) -> tuple[Attr, HandleId]:
        """An unnamed regular file, open, that ``link`` may give a name (``open(2)``, O_TMPFILE)."""
        mode = self._masked(parent, mode, caller)
        made = self._names.make_unnamed(self._tree.directory(parent), mode & _PERMISSIONS, caller)
        attr, handle = self._opened(made.node, made.status, made.fd, flags, caller)
        return attr, handle

    def read(self, handle: HandleId, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer only at the end of the file."""
        return self._files.read(handle, offset, size)

    def write(self, handle: HandleId, offset: int, data: bytes | memoryview) -> int:
        """Number of bytes written at ``offset`` (at the end when the handle was opened O_APPEND)."""
        return self._files.write(handle, offset, data)

    def fsync(self, handle: HandleId, datasync: bool) -> None:
        """The content of the open file is on the disk of its branch; nothing is done for a volatile union."""
        if not self.options.volatile:
            fd = self._handles[handle].file.fd
            (os.fdatasync if datasync else os.fsync)(fd)

    def release(self, handle: HandleId) -> None:
        """The handle is gone. Never raises."""
        self._files.release(handle)

    def fallocate(self, handle: HandleId, mode: int, offset: int, length: int) -> None:
        """``fallocate(2)`` on the open file."""
        self._files.fallocate(handle, mode, offset, length)

    def lseek(self, handle: HandleId, offset: int, whence: int) -> int:
        """Offset of the next data or hole (``lseek(2)``, SEEK_DATA and SEEK_HOLE only)."""
        return os.lseek(self._handles[handle].file.fd, offset, whence)

    def copy_file_range(
        self, source: HandleId, source_offset: int, target: HandleId, target_offset: int, length: int
    ) -> int:
        """Number of bytes copied between two open files of the mount."""
        return self._files.copy_range(source, source_offset, target, target_offset, length)

    def backing_fd(self, handle: HandleId) -> int | None:
        """Descriptor the kernel may read and write in place of this handle, or None.

        The same number for every handle of a node, until the last one is released, whatever they are opened for; or
        None for all of them. Asking says that the kernel will use it.
        """
        return self._files.backing_fd(handle)

    def content_fd(self, handle: HandleId) -> int:
        """Descriptor of the file that is read through this handle, valid until its release."""
        return self._files.content_fd(handle)

    def whole_content(self, handle: HandleId) -> bytes | None:
        """All of a small file that was opened for reading alone, the first time and by nobody else; None otherwise."""
        return self._files.whole_content(handle)

    # -- directories ------------------------------------------------------------------------------------------
    def opendir(self, ino: Ino) -> HandleId:
        """A frozen listing of the directory."""
        return self._handles.add_listing(self._tree.directory(ino))

    def readdir(self, handle: HandleId, cookie: int, attributes: bool) -> Iterator[DirEntry]:
        """Entries after ``cookie``; from the start the listing is made anew. Takes no references."""
        listing = self._handles.listing(handle)
        index = self._tree.index(listing.directory)
        if listing.version < 0 or (cookie == 0 and listing.version != listing.directory.version):
            listing.names = index.places()
            listing.version = listing.directory.version
        return self._entries(listing, cookie, attributes=attributes)

    def _entries(self, listing: Listing, cookie: int, *, attributes: bool) -> Iterator[DirEntry]:
        tree, directory, fresh = self._tree, listing.directory, listing.fresh
        names, children = listing.names, directory.children
        while cookie < len(names):
            name = names[cookie]
            cookie += 1
            index = directory.index
            if index is not None and not SHOWN[index.codes.get(name, 0) & CODE_KIND]:
                continue
            known = name in children
            try:
                node, status = tree.child(directory, name)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ESTALE}:
                    continue
                raise
            if not known:
                fresh.append(node.ino)
            if attributes:
                attr = tree.attr(node, status)
                yield DirEntry(name, cookie, attr.visible_ino, status.st_mode & _TYPE, attr)
            else:
                yield DirEntry(name, cookie, tree.shown_ino(status), status.st_mode & _TYPE, None)

    def releasedir(self, handle: HandleId) -> None:
        """The listing is gone, and the nodes nobody took a reference to. Never raises."""
        listing = self._handles.pop_listing(handle)
        if listing is not None:
            for ino in listing.fresh:
                self._tree.table.forget(ino, 0)

    def fsyncdir(self, ino: Ino, datasync: bool) -> None:
        """The entries of the directory are on disk in its writable branches."""
        directory = self._tree.directory(ino)
        if self.options.volatile:
            return
        for branch in directory.branches:
            if branch.writable:
                fd = open_directory(branch, directory.path)
                try:
                    (os.fdatasync if datasync else os.fsync)(fd)
                finally:
                    os.close(fd)

    # -- the rest ---------------------------------------------------------------------------------------------
    def statfs(self) -> StatFs:
        """Size and room of the topmost writable branch, of the top one when none is."""
        writable = self._tree.writable
        status = os.fstatvfs(self._tree.branches[writable[0] if writable else 0].fd)
        return StatFs(
            status.f_bsize,
            status.f_frsize,
            status.f_blocks,
            status.f_bfree,
            status.f_bavail,
            status.f_files,
            status.f_ffree,
            status.f_namemax,
        )

    def getxattr(self, ino: Ino, name: bytes) -> bytes:
        """Value of the extended attribute. Raises ENODATA."""
        return self._metadata.getxattr(self._tree.node(ino), name)

    def setxattr(self, ino: Ino, name: bytes, value: bytes, flags: int) -> None:
        """The extended attribute has the value; ``flags`` XATTR_CREATE or XATTR_REPLACE."""
        self._metadata.setxattr(self._tree.node(ino), name, value, flags)

    def listxattr(self, ino: Ino) -> list[bytes]:
        """Names of the extended attributes, the union's own marks left out."""
        return self._metadata.listxattr(self._tree.node(ino))

    def removexattr(self, ino: Ino, name: bytes) -> None:
        """The extended attribute is gone. Raises ENODATA."""
        self._metadata.removexattr(self._tree.node(ino), name)

    def entries_stay_valid(self) -> bool:
        """Whether the kernel may cache names and attributes until told otherwise."""
        return self.options.sealed_branches

    def close(self) -> None:
        """Every descriptor is closed; nothing may be called afterwards. Idempotent."""
        self._lifter.abandon_copies()
        self._handles.close()
        self._tree.table.close()
        for branch in self._tree.branches:
            branch.close()

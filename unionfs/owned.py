"""A union whose files show other owners or modes than their inodes do.

Options ask for it: ``uidmapping=``, ``gidmapping=``, ``squash_to_uid=``, ``squash_to_gid=``, ``xattr_permissions=``.
Invariants: what the kernel is told is shown, what the branches are told is stored (``ownership``); with
``xattr_permissions=`` the inodes of regular files and directories belong to the daemon and can always be opened by
it, and the kernel checks the shown mode. The attribute itself is neither seen nor set through the union.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from unionfs.branch import BranchStack
from unionfs.files import without_privileges
from unionfs.inodes import Node
from unionfs.ops import Notifier
from unionfs.ownership import (
    STORES,
    Owners,
    Stored,
    apply_stored,
    can_carry,
    decode_stored,
    encode_stored,
    inode_mode,
)
from unionfs.tree import refuse
from unionfs.types import Attr, Caller, DirEntry, HandleId, Ino, SetAttr, UnionOptions
from unionfs.union import Union

if TYPE_CHECKING:
    from unionfs.constantscans import ConstantScans

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
_SET_ID = stat.S_ISUID | stat.S_ISGID


def open_union(
    stack: BranchStack,
    options: UnionOptions,
    notifier: Notifier | None = None,
    log: Callable[[str], None] | None = None,
    scans: ConstantScans | None = None,
) -> Union:
    """The union of ``stack`` that ``options`` ask for; the caller closes it. ``log``, ``scans``: as in `Union`.

    Raises:
        UnionError: a branch is missing, twice in the stack, or inside another.
    """
    squashed = options.squash_uid is not None or options.squash_gid is not None
    if options.permissions in STORES:
        return StoringUnion(stack, options, notifier, log)
    if options.uid_map or options.gid_map or squashed:
        return MappedUnion(stack, options, notifier, log)
    return Union(stack, options, notifier, log, scans)


class MappedUnion(Union):
    """Ids are translated on their way in and out."""

    def __init__(
        self,
        stack: BranchStack,
        options: UnionOptions,
        notifier: Notifier | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(stack, options, notifier, log)
        self._owners = Owners(options)

    def _shown(self, attr: Attr) -> Attr:
        """``attr``, as it is in the inode, the way it is shown."""
        return self._owners.shown(attr)

    def lookup(self, parent: Ino, name: bytes, caller: Caller) -> Attr:
        """As shown."""
        return self._shown(super().lookup(parent, name, caller))

    def getattr(self, ino: Ino, handle: HandleId | None) -> Attr:
        """As shown."""
        return self._shown(super().getattr(ino, handle))

    def setattr(self, ino: Ino, changes: SetAttr, handle: HandleId | None, caller: Caller) -> Attr:
        """What is stored shows the ids asked for."""
        changes = self._owners.changes(changes)
        return self._shown(super().setattr(ino, changes, handle, self._owners.caller(caller)))

    def mknod(self, parent: Ino, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        """The entry belongs to the caller, as shown."""
        return self._shown(super().mknod(parent, name, mode, rdev, self._owners.caller(caller)))

    def mkdir(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> Attr:
        """The directory belongs to the caller, as shown."""
        return self._shown(super().mkdir(parent, name, mode, self._owners.caller(caller)))

    def symlink(self, parent: Ino, name: bytes, target: bytes, caller: Caller) -> Attr:
        """The link belongs to the caller, as shown."""
        return self._shown(super().symlink(parent, name, target, self._owners.caller(caller)))

    def link(self, ino: Ino, parent: Ino, name: bytes) -> Attr:
        """As shown."""
        return self._shown(super().link(ino, parent, name))

    def open(self, ino: Ino, flags: int, caller: Caller) -> HandleId:
        """The caller is known by the ids that are stored."""
        return super().open(ino, flags, self._owners.caller(caller))

    def create(self, parent: Ino, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Attr, HandleId]:
        """The file belongs to the caller, as shown."""
        attr, handle = super().create(parent, name, mode, flags, self._owners.caller(caller))
        return self._shown(attr), handle

    def tmpfile(self, parent: Ino, mode: int, flags: int, caller: Caller) -> tuple[Attr, HandleId]:
        """The file belongs to the caller, as shown."""
        attr, handle = super().tmpfile(parent, mode, flags, self._owners.caller(caller))
        return self._shown(attr), handle

    def readdir(self, handle: HandleId, cookie: int, attributes: bool) -> Iterator[DirEntry]:
        """Entries as shown."""
        for entry in super().readdir(handle, cookie, attributes):
            yield entry if entry.attr is None else entry._replace(attr=self._shown(entry.attr))


class StoringUnion(MappedUnion):
    """Owner and mode of regular files and directories are in an attribute of theirs; ids are translated too.

    An entry is made with a safe mode and gets its attribute before the request is answered; a crash between the two
    leaves it to the daemon's user, closed to all others.
    """

    def __init__(
        self,
        stack: BranchStack,
        options: UnionOptions,
        notifier: Notifier | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(stack, options, notifier, log)
        self._name = STORES[options.permissions]
        self._lifter.copier.store = os.fsdecode(self._name)
        self._daemon = Caller(os.geteuid(), os.getegid(), os.getpid())

    def _shown(self, attr: Attr) -> Attr:
        return super()._shown(self._read(self._tree.node(attr.ino), attr))

    def _read(self, node: Node, attr: Attr) -> Attr:
        """``attr`` with what is stored of ``node``."""
        if not can_carry(attr.mode):
            return attr
        try:
            value = self._metadata.getxattr(node, self._name)
        except OSError:
            return attr
        return apply_stored(attr, value)

    def _write(self, node: Node, stored: Stored) -> None:
        self._metadata.setxattr(node, self._name, encode_stored(stored), 0)

    # -- making -------------------------------------------------------------------------------------------------
    def _made(
        self, parent: Ino, mode: int, caller: Caller, make: Callable[[Caller], Attr], undo: Callable[[], None]
    ) -> Attr:
        """A new entry, made by ``make``, with the owner and mode it shall have; ``undo`` takes it away again."""
        caller = self._owners.caller(caller)
        above = self._read(self._tree.directory(parent), self._tree.node_attr(self._tree.directory(parent)))
        gid = above.gid if above.mode & stat.S_ISGID else caller.gid
        attr = make(self._daemon)
        if not can_carry(attr.mode):
            return self._shown(attr)
        if above.mode & stat.S_ISGID and stat.S_ISDIR(attr.mode):
            mode |= stat.S_ISGID
        try:
            self._write(self._tree.node(attr.ino), Stored(caller.uid, gid, mode & 0o7777))
        except BaseException:
            undo()
            self.forget(attr.ino, 1)
            raise
        return self._shown(attr)

    def mknod(self, parent: Ino, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        """A device, FIFO or socket belongs to the daemon."""
        mode = self._masked(parent, mode, caller)
        inode = stat.S_IFMT(mode) | inode_mode(mode)
        return self._made(
            parent, mode, caller,
            lambda daemon: Union.mknod(self, parent, name, inode, rdev, daemon),
            lambda: self.unlink(parent, name),
        )  # fmt: skip

    def mkdir(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> Attr:
        """The directory belongs to the caller, as shown."""
        mode = self._masked(parent, mode, caller)
        inode = inode_mode(stat.S_IFDIR | mode)
        return self._made(
            parent, mode, caller,
            lambda daemon: Union.mkdir(self, parent, name, inode, daemon),
            lambda: self.rmdir(parent, name),
        )  # fmt: skip

    def symlink(self, parent: Ino, name: bytes, target: bytes, caller: Caller) -> Attr:  # noqa: ARG002 - FilesystemOps
        """The link belongs to the daemon: it can carry no attribute."""
        return self._shown(Union.symlink(self, parent, name, target, self._daemon))

    def create(self, parent: Ino, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Attr, HandleId]:
        """The file belongs to the caller, as shown."""
        if not flags & os.O_EXCL and self._tree.find(self._tree.directory(parent), name) is not None:
            return super().create(parent, name, mode, flags, caller)
        mode = self._masked(parent, mode, caller)
        handles: list[HandleId] = []

        def make(daemon: Caller) -> Attr:
            attr, handle = Union.create(self, parent, name, inode_mode(mode), flags, daemon)
            handles.append(handle)
            return attr

        def undo() -> None:
            self.unlink(parent, name)
            self.release(handles[0])

        return self._made(parent, mode, caller, make, undo), handles[0]

    def tmpfile(self, parent: Ino, mode: int, flags: int, caller: Caller) -> tuple[Attr, HandleId]:
        """The file belongs to the caller, as shown."""
        mode = self._masked(parent, mode, caller)
        handles: list[HandleId] = []

        def make(daemon: Caller) -> Attr:
            attr, handle = Union.tmpfile(self, parent, inode_mode(mode), flags, daemon)
            handles.append(handle)
            return attr

        return self._made(parent, mode, caller, make, lambda: self.release(handles[0])), handles[0]

    # -- changing -----------------------------------------------------------------------------------------------
    def setattr(self, ino: Ino, changes: SetAttr, handle: HandleId | None, caller: Caller) -> Attr:
        """Owner and mode change in the attribute, the rest in the inode."""
        node = self._tree.node(ino)
        attr = self._tree.node_attr(node)
        if not can_carry(attr.mode):
            return super().setattr(ino, changes, handle, caller)
        changes, caller = self._owners.changes(changes), self._owners.caller(caller)
        before = self._read(node, attr)
        mode = before.mode & 0o7777 if changes.mode is None else changes.mode
        if changes.size is not None and changes.mode is None and caller.uid != 0:
            mode = without_privileges(mode)
        stored = Stored(
            before.uid if changes.uid is None else changes.uid, before.gid if changes.gid is None else changes.gid, mode
        )
        rest = changes._replace(mode=None, uid=None, gid=None)
        if rest != SetAttr() or changes == rest:
            Union.setattr(self, ino, rest, handle, caller)
        if stored != Stored(before.uid, before.gid, before.mode & 0o7777):
            self._write(self._tree.node(ino), stored)
        return self.getattr(ino, handle)._replace(ino=ino)

    def open(self, ino: Ino, flags: int, caller: Caller) -> HandleId:
        """A handle; the setuid and setgid bits of a file opened to write by anybody but the superuser go here already.

        That is earlier than a plain filesystem takes them away; nothing that is written can carry them then.
        """
        handle = super().open(ino, flags, caller)
        if flags & _WRITING and self._owners.caller(caller).uid != 0:
            node = self._handles[handle].node
            try:
                stored = decode_stored(self._metadata.getxattr(node, self._name))
                if stored is not None and stored.mode & _SET_ID:
                    self._write(node, stored._replace(mode=without_privileges(stored.mode)))
            except OSError as error:
                if error.errno not in {errno.ENODATA, errno.EOPNOTSUPP}:
                    self.release(handle)
                    raise
        return handle

    # -- the attribute itself -----------------------------------------------------------------------------------
    def getxattr(self, ino: Ino, name: bytes) -> bytes:
        """ENODATA for the store."""
        if name == self._name:
            refuse(errno.ENODATA)
        return super().getxattr(ino, name)

    def setxattr(self, ino: Ino, name: bytes, value: bytes, flags: int) -> None:
        """EPERM for the store."""
        if name == self._name:
            refuse(errno.EPERM)
        super().setxattr(ino, name, value, flags)

    def listxattr(self, ino: Ino) -> list[bytes]:
        """Names without the store."""
        return [name for name in super().listxattr(ino) if name != self._name]

    def removexattr(self, ino: Ino, name: bytes) -> None:
        """ENODATA for the store."""
        if name == self._name:
            refuse(errno.ENODATA)
        super().removexattr(ino, name)

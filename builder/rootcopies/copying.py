"""Between a plain tree and branches: a root is laid out as one, and what a command changed in it becomes a branch.

::

    branches ── lay_out ──▶ tree ── a command runs in it ──▶ tree ── take_changes ──▶ a fresh branch
                              ▲                                └── bring_forward, where branches came on top ──┐
                              └───────────────────────────────────────────────────────────────────────────────┘

Invariants: the tree is somebody's work, and nobody works in it any more when it is read: no link is followed, and names
that would be marks of a union are refused; a file that was not touched is not read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from builder import paths
from builder.rootcopies.inventory import Inventory
from builder.rootentry import RootEntry
from builder.rootfs import RootFs
from builder.trail import Attributes, attributes_below
from builder.upper import Upper
from unionfs.whiteout import foreign_xattrs, is_reserved

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_BYTES = 1 << 20
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def lay_out(root: RootFs, tree: Path) -> None:
    """The files of ``root`` are in the empty directory ``tree``, with all that belongs to them.

    Raises:
        OSError: the disk takes no more; a device that may not be made here.
    """
    top = root.lstat(b"")
    first_names: dict[tuple[int, int], bytes] = {}
    with Upper(tree, None) as target:
        if top is not None:
            target.put_directory(b"", _attributes(RootEntry(root, b"", b"", top), root))
        for entry in root.walk(b""):
            if entry.nlink > 1:
                first = first_names.setdefault(entry.file_id, entry.location)
                if first != entry.location:
                    target.put_link(entry.location, first)
                    continue
            _lay_out(root, entry, target)


def _lay_out(root: RootFs, entry: RootEntry, target: Upper) -> None:
    attributes = _attributes(entry, root)
    if stat.S_ISDIR(entry.mode):
        target.put_directory(entry.location, attributes)
    elif stat.S_ISLNK(entry.mode):
        target.put_symlink(entry.location, entry.readlink(), attributes)
    elif stat.S_ISREG(entry.mode):
        target.put_copy(entry.location, entry.open(), attributes)
    else:
        target.put_node(entry.location, stat.S_IFMT(entry.mode), entry.rdev, attributes)


def _attributes(entry: RootEntry, root: RootFs) -> Attributes:
    times_ns = (entry.atime_ns, entry.mtime_ns)
    return Attributes(stat.S_IMODE(entry.mode), entry.uid, entry.gid, times_ns, root.every_xattr(entry.location))


def bring_forward(tree: Path, added: Sequence[Path], root: RootFs) -> None:
    """``tree``, which showed what lies below the branches ``added``, top first, shows what ``root`` does.

    Raises:
        OSError: the disk takes no more; a device that may not be made here.
    """
    with Upper(tree, None) as target:
        for branch in reversed(added):
            walk = _Walk(branch)
            try:
                _bring_forward(walk, root, target)
            finally:
                walk.close()


def _bring_forward(branch: _Walk, root: RootFs, target: Upper) -> None:
    """Where ``branch`` has something, ``target`` has what ``root`` shows."""
    hidden: bytes | None = None
    first_names: dict[int, bytes] = {}
    for found in branch:
        path = found.path
        if hidden is not None and path.startswith(hidden + b"/"):
            continue
        shown = root.lstat(path)
        if found.is_directory:
            if shown is None or not stat.S_ISDIR(shown.mode):
                hidden = path
                continue
            there = target.mode_at(path)
            if there is not None and not stat.S_ISDIR(there):
                target.remove(path)
            target.put_directory(path, attributes_below(root, path))
            for name in sorted(set(target.names(path)) - root.modes(path).keys()):
                target.remove(paths.join(path, name))
        elif shown is not None and not is_reserved(found.name):
            target.remove(path)
            first = first_names.setdefault(found.status.st_ino, path) if found.status.st_nlink > 1 else path
            if first != path and not stat.S_ISDIR(shown.mode):
                target.put_link(path, first)
            else:
                _lay_out(root, RootEntry(root, path, path, shown), target)


def take_inventory(tree: Path) -> Inventory:
    """What ``tree`` holds now."""
    inventory = Inventory()
    walk = _Walk(tree)
    try:
        for found in walk:
            inventory.add(found.path, found.status, directory=found.is_directory)
    finally:
        walk.close()
    return inventory


def take_changes(tree: Path, before: Inventory, root: RootFs, upper: Path, left_out: Collection[int] = ()) -> Inventory:
    """What was changed in ``tree``, laid out from ``root`` as ``before`` says, is in the empty branch ``upper``.

    Returns what it holds now. What is ``left_out``, by inode number, is no part of it.

    Raises:
        ReservedNameError: a name, or a device, that an image can't hold.
        OSError: the disk takes no more.
    """
    after = Inventory()
    walk = _Walk(tree, left_out)
    try:
        with Upper(upper, root) as target:
            changes = _Changes(before, root, target)
            for found in walk:
                after.add(found.path, found.status, directory=found.is_directory)
                changes.see(found)
    finally:
        walk.close()
    return after


class _Changes:
    """What was changed in a tree is put into a branch, as it is seen: a directory before what is in it."""

    def __init__(self, before: Inventory, root: RootFs, target: Upper) -> None:
        self._before = before
        self._root = root
        self._target = target
        self._new: bytes | None = None
        """The directory that is new as a whole, while it is walked."""
        self._first_names: dict[int, bytes] = {}

    def see(self, found: _Found) -> None:
        """``found`` is in the branch, if it was changed."""
        if self._new is not None and not found.path.startswith(self._new + b"/"):
            self._new = None
        if found.is_directory:
            self._see_directory(found)
        elif self._new is not None or not (self._before.has_file(found.status) or self._is_as_below(found)):
            self._put(found)

    def _see_directory(self, found: _Found) -> None:
        path = found.path
        if self._new is None and self._before.is_same(path, found.status):
            if self._before.has_names(path, found.status):
                return
            found.bring(self._target)
            for name in sorted(self._root.modes(path).keys() - set(found.names)):
                self._target.hide(paths.join(path, name))
            return
        if self._new is None:
            found.bring_parent(self._target)
            if self._target.mode_at(path) is not None:
                self._target.replace(path)
            self._new = path
        found.bring(self._target)

    def _is_as_below(self, found: _Found) -> bool:
        """Whether a regular file that was touched is what lies below, as after the removal of its other names."""
        status = found.status
        below = self._root.lstat(found.path)
        if below is None or status.st_nlink > 1 or not stat.S_ISREG(status.st_mode):
            return False
        now = (status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns)
        if now != (below.mode, below.uid, below.gid, below.size, below.mtime_ns):
            return False
        if found.attributes().xattrs != self._root.every_xattr(found.path):
            return False
        ours = os.open(found.name, _FILE_FLAGS, dir_fd=found.directory_fd)
        with open(ours, "rb") as one, open(self._root.open_file(found.path), "rb") as other:
            return _is_same_content(one, other)

    def _put(self, found: _Found) -> None:
        found.bring_parent(self._target)
        try:
            self._put_there(found)
        except IsADirectoryError:
            self._target.replace(found.path)
            self._put_there(found)

    def _put_there(self, found: _Found) -> None:
        target, path, mode = self._target, found.path, found.status.st_mode
        if found.status.st_nlink > 1:
            first = self._first_names.setdefault(found.status.st_ino, path)
            if first != path:
                target.put_link(path, first)
                return
        if stat.S_ISREG(mode):
            source = os.open(found.name, _FILE_FLAGS, dir_fd=found.directory_fd)
            target.put_copy(path, source, found.attributes())
        elif stat.S_ISLNK(mode):
            target.put_symlink(path, os.readlink(found.name, dir_fd=found.directory_fd), found.attributes())
        else:
            target.put_node(path, stat.S_IFMT(mode), found.status.st_rdev, found.attributes())


def _is_same_content(one: BinaryIO, other: BinaryIO) -> bool:
    while (data := one.read(_READ_BYTES)) == other.read(_READ_BYTES):
        if not data:
            return True
    return False


class _Found:
    """Something in a tree: its path, what it is in an open directory, and its attributes."""

    __slots__ = ("_is_brought", "directory_fd", "is_directory", "name", "names", "parent", "path", "status")

    def __init__(
        self, parent: _Found | None, path: bytes, directory_fd: int, name: bytes, status: os.stat_result
    ) -> None:
        self.parent = parent
        self.path = path
        self.directory_fd = directory_fd
        self.name = name
        self.status = status
        self.is_directory = stat.S_ISDIR(status.st_mode)
        self.names: tuple[bytes, ...] = ()
        """Of a directory: what is in it, sorted."""
        self._is_brought = False

    def bring(self, target: Upper) -> None:
        """The directory is in the branch, as it is here."""
        if not self._is_brought:
            target.put_directory(self.path, self.attributes())
            self._is_brought = True

    def bring_parent(self, target: Upper) -> None:
        """The directory it is in is in the branch: what is put there leaves no trace in its times."""
        if self.parent is not None:
            self.parent.bring(target)

    def attributes(self) -> Attributes:
        """All that can be given to a copy."""
        status = self.status
        place = b"/proc/self/fd/%d/%s" % (self.directory_fd, self.name)
        xattrs = tuple((os.fsencode(name), value) for name, value in foreign_xattrs(place))
        times_ns = (status.st_atime_ns, status.st_mtime_ns)
        return Attributes(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, times_ns, xattrs)


class _Walk:
    """Everything in a tree, a directory before what is in it, itself the first, by open directories alone.

    What is ``left_out``, by inode number, is not met.
    """

    def __init__(self, tree: Path, left_out: Collection[int] = ()) -> None:
        self._tree = tree
        self._left_out = left_out
        self._open: list[int] = []

    def close(self) -> None:
        """Nothing is open. Idempotent."""
        while self._open:
            os.close(self._open.pop())

    def __iter__(self) -> Iterator[_Found]:
        self._open.append(os.open(self._tree, _DIRECTORY_FLAGS))
        top = _Found(None, b"", self._open[0], b".", os.fstat(self._open[0]))
        pending = [self._enter(top, self._open[0])]
        yield top
        while pending:
            found = next(pending[-1], None)
            if found is None:
                pending.pop()
                os.close(self._open.pop())
            elif found.is_directory:
                self._open.append(os.open(found.name, _DIRECTORY_FLAGS, dir_fd=found.directory_fd))
                pending.append(self._enter(found, self._open[-1]))
                yield found
            else:
                yield found

    def _enter(self, directory: _Found, fd: int) -> Iterator[_Found]:
        directory.names = tuple(sorted(map(os.fsencode, os.listdir(fd))))
        return self._look(directory, fd)

    def _look(self, directory: _Found, fd: int) -> Iterator[_Found]:
        for name in directory.names:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if status.st_ino not in self._left_out:
                yield _Found(directory, paths.join(directory.path, name), fd, name, status)

"""A merged directory raised whole onto one branch, so that it can be renamed there.

Every entry below it is copied up in its place and every directory made opaque once it is complete: at no instant does
the union show anything else than before. Invariants: memory is bounded by the largest directory and the depth; what was
done is in a journal on the disk, and ``Raised.undo`` takes it back; a crash leaves copies that hide their equals.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO, NamedTuple

from unionfs import whiteout
from unionfs.branch import OpenBranch
from unionfs.inodes import DirectoryNode, Node
from unionfs.lift import Lifter, restore_times
from unionfs.names import withdraw
from unionfs.resolve import CODE_KIND, CODE_SHIFT, Kind, Resolution
from unionfs.tree import Tree

_MADE = b"+"
_OPAQUE = b"o"
_WHITEOUT = b"w"
_TIMES = b"t"


class Raised:
    """A node that is whole on one branch, and what it took to get it there.

    ``node`` may be the successor of the one asked for. One of ``settle`` and ``undo`` is called in the end.
    """

    def __init__(self, tree: Tree, node: Node, branch: OpenBranch) -> None:
        self._tree = tree
        self.node = node
        self._branch = branch
        self.opaque = False
        self._journal: IO[bytes] | None = None

    def note(self, kind: bytes, path: bytes) -> None:
        """The journal says what was done to ``path``; on the disk before it can matter."""
        if self._journal is None:
            fd, name = self._branch.temporary()
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=fd)
            os.unlink(name, dir_fd=fd)
            self._journal = os.fdopen(descriptor, "w+b")
        self._journal.write(b"%c%d:%s\n" % (kind, len(path), path))

    def note_times(self, path: bytes) -> None:
        """The journal says what the times of the directory are, which is about to be filled."""
        fd, rest = self._branch.at(path)
        status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
        self.note(_TIMES, b"%d %d %s" % (status.st_atime_ns, status.st_mtime_ns, path))

    def make_opaque(self, path: bytes) -> None:
        """The directory, which is whole, is marked opaque; nothing that can be seen changes."""
        if self.opaque or whiteout.is_opaque(self._branch, path):
            self.opaque = True
            return
        self.note(_OPAQUE, path)
        fd, rest = self._branch.at(path)
        times = os.stat(rest, dir_fd=fd, follow_symlinks=False)
        whiteout.make_opaque(fd, rest, self._tree.options.whiteouts)
        os.utime(rest, ns=(times.st_atime_ns, times.st_mtime_ns), dir_fd=fd)
        self.opaque = True

    def settle(self, old_path: bytes, new_path: bytes) -> None:
        """Marks that hide nothing any more are gone from what is now at ``new_path``; the journal is closed."""
        for kind, path in self._entries():
            if kind == _WHITEOUT:
                moved = new_path + path[len(old_path) :]
                with contextlib.suppress(OSError):
                    fd, rest = self._branch.at(moved)
                    os.unlink(rest, dir_fd=fd)
        self._close()

    def undo(self) -> None:
        """Everything made is gone again, and the tree knows. Goes on where one thing cannot be undone."""
        for kind, path in self._entries():
            with contextlib.suppress(OSError):
                if kind == _OPAQUE:
                    whiteout.remove_opaque(self._branch, path)
                elif kind == _MADE:
                    withdraw(self._branch, path)
        for kind, entry in self._entries():
            if kind == _TIMES:
                atime_ns, mtime_ns, path = entry.split(b" ", 2)
                with contextlib.suppress(OSError):
                    fd, rest = self._branch.at(path)
                    os.utime(rest, ns=(int(atime_ns), int(mtime_ns)), dir_fd=fd)
        if self._journal is not None:
            self._close()
            parent = self.node.parent
            if parent is not None:
                self._tree.reload(parent, keep_handles=True)

    def _entries(self) -> Iterator[tuple[bytes, bytes]]:
        journal = self._journal
        if journal is None:
            return
        journal.flush()
        journal.seek(0)
        while head := journal.read(1):
            length = b""
            while (digit := journal.read(1)) != b":":
                length += digit
            path = journal.read(int(length))
            journal.read(1)
            yield head, path

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def raise_whole(tree: Tree, lifter: Lifter, node: DirectoryNode, position: int) -> Raised:
    """``node`` with all in it lies on the branch at ``position`` alone. On failure everything is as before."""
    raised = Raised(tree, node, tree.branches[position])
    try:
        _raise_tree(tree, lifter, raised, node, position)
    except BaseException:
        raised.undo()
        raise
    raised.opaque = True
    return raised


class _Level(NamedTuple):
    """A directory that is being raised, its state before, and the names still to come."""

    directory: DirectoryNode
    before: os.stat_result
    names: Iterator[bytes]


def _raise_tree(tree: Tree, lifter: Lifter, raised: Raised, top: DirectoryNode, position: int) -> None:
    branch = tree.branches[position]
    pending = [_begin(tree, lifter, raised, top, branch)]
    try:
        while pending:
            directory, before, names = pending[-1]
            name = next(names, None)
            if name is None:
                _complete(tree, raised, directory, branch)
                restore_times(branch, directory, before)
                pending.pop()
                tree.table.forget(directory.ino, 1)
                continue
            child = tree.find(directory, name)
            if isinstance(child, DirectoryNode):
                if not _whole(tree, child, branch):
                    pending.append(_begin(tree, lifter, raised, child, branch))
            elif child is not None:
                if tree.index(directory).codes[name] >> CODE_SHIFT != position:
                    raised.note(_MADE, directory.prefix + name)
                    child = lifter.file(child, position) if child.branch is not branch else lifter.writable(child)
                tree.table.release(child)
    finally:
        for level in reversed(pending):
            tree.table.forget(level.directory.ino, 1)


def _begin(tree: Tree, lifter: Lifter, raised: Raised, directory: DirectoryNode, branch: OpenBranch) -> _Level:
    """The directory itself lies on the branch; it is held until it is complete, whatever becomes of its children."""
    names = iter(tree.index(directory).shown())
    before = tree.stat(directory)
    if branch in directory.branches:
        raised.note_times(directory.path)
    else:
        raised.note(_MADE, directory.path)
        lifter.directory(directory, branch.position)
    directory.lookups += 1
    return _Level(directory, before, names)


def _whole(tree: Tree, directory: DirectoryNode, branch: OpenBranch) -> bool:
    tree.index(directory)
    return directory.branches == (branch,)


def _complete(tree: Tree, raised: Raised, directory: DirectoryNode, branch: OpenBranch) -> None:
    """The directory holds all it shows, so what is below may be cut off."""
    index = tree.index(directory)
    position = branch.position
    for name, code in index.codes.items():
        if code & CODE_KIND == Kind.WHITEOUT and code >> CODE_SHIFT == position:
            marked = whiteout.has_mark(branch, directory.prefix, name)
            raised.note(_WHITEOUT, directory.prefix + (whiteout.PREFIX + name if marked else name))
    raised.note(_OPAQUE, directory.path)
    fd, rest = branch.at(directory.path)
    whiteout.make_opaque(fd, rest, tree.options.whiteouts)
    directory.branches = (branch,)
    directory.branch = branch
    directory.floor = position
    if directory.parent is not None:
        resolution = Resolution(Kind.DIRECTORY, (position,), position, shadows=True)
        tree.index(directory.parent).set(directory.name, resolution)

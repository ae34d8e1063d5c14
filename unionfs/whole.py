"""A merged directory raised whole onto one branch, so that it can be renamed there.

Every entry below it is copied up in its place and every directory made opaque once it is complete: at no instant does
the union show anything else than before. Invariants: memory is bounded by the largest directory and the depth; what is
done is written down before (``journal``), ``Raised.undo`` takes it back, and after a kill the next mount does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from unionfs import whiteout
from unionfs.branch import OpenBranch
from unionfs.inodes import DirectoryNode, Node
from unionfs.journal import Deed, Journal
from unionfs.lift import Lifter, restore_times
from unionfs.namedtuple import NamedTuple
from unionfs.names import withdraw
from unionfs.resolve import CODE_KIND, CODE_SHIFT, Kind, Resolution
from unionfs.takeback import take_back
from unionfs.tree import Tree


class Raised:
    """A node that is whole on one branch, and what it took to get it there.

    ``node`` may be the successor of the one asked for. One of ``settle`` and ``undo`` is called in the end.
    """

    def __init__(self, tree: Tree, node: Node, branch: OpenBranch) -> None:
        self._tree = tree
        self.node = node
        self._branch = branch
        self.opaque = False
        self.journal = Journal(branch)

    def make_opaque(self, path: bytes) -> None:
        """The directory, which is whole, is marked opaque; nothing that can be seen changes."""
        if self.opaque or whiteout.is_opaque(self._branch, path):
            self.opaque = True
            return
        self.journal.note(Deed.OPAQUE, path)
        with self._branch.times_kept(path):
            whiteout.make_opaque(*self._branch.at(path), self._tree.options.whiteouts)
        self.opaque = True

    def settle(self, old_path: bytes, new_path: bytes) -> None:
        """Marks that hide nothing any more are gone from what is now at ``new_path``, and so is the journal."""
        for deed, path, _ in self.journal:
            if deed is Deed.HIDING:
                self._uncover(new_path + path[len(old_path) :])
        self.journal.discard()

    def _uncover(self, path: bytes) -> None:
        """No whiteout is at ``path``, nor what a union that was killed while it removed something left beside it."""
        directory, slash, name = path.rpartition(b"/")
        with contextlib.suppress(OSError), self._branch.times_kept(directory):
            withdraw(self._branch, path)
            whiteout.remove_mark(self._branch, directory + slash, name)

    def undo(self) -> None:
        """Everything made is gone again, and the tree knows. What cannot be undone is left to the next mount."""
        if self.journal.begun:
            take_back(self._tree, self.journal)


def raise_whole(tree: Tree, lifter: Lifter, node: DirectoryNode, position: int) -> Raised:
    """``node`` with all in it lies on the branch at ``position`` alone. On failure everything is as before."""
    raised = Raised(tree, node, tree.branches[position])
    if lifter.copier.copies:
        _prepare_copies(tree, lifter, node, tree.branches[position])
    lifter.journal = raised.journal
    try:
        _raise_tree(tree, lifter, raised, node, position)
    except BaseException:
        lifter.journal = None
        raised.undo()
        raise
    finally:
        lifter.journal = None
    raised.opaque = True
    return raised


def _prepare_copies(tree: Tree, lifter: Lifter, top: DirectoryNode, branch: OpenBranch) -> None:
    """The content of every large file below ``top`` is copied already: raised at once, none is waited for in between.

    Raises:
        CopyPendingError: one is not; the others stay as they are.
    """
    pending = [top]
    while pending:
        directory = pending.pop()
        for name in tree.index(directory).shown():
            child = tree.find(directory, name)
            if isinstance(child, DirectoryNode):
                pending.append(child)
            elif child is not None and not child.branch.writable:
                lifter.copier.prepare(child.branch, child.path, branch)


class _Level(NamedTuple):
    """A directory that is being raised, its state before, and the names still to come."""

    directory: DirectoryNode
    before: os.stat_result
    names: Iterator[bytes]


def _raise_tree(tree: Tree, lifter: Lifter, raised: Raised, top: DirectoryNode, position: int) -> None:
    branch = tree.branches[position]
    pending = [_begin(tree, lifter, top, branch)]
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
                    pending.append(_begin(tree, lifter, child, branch))
            elif child is not None:
                if tree.index(directory).codes[name] >> CODE_SHIFT != position:
                    child = lifter.file(child, position) if child.branch is not branch else lifter.writable(child)
                tree.table.release(child)
    finally:
        for level in reversed(pending):
            tree.table.forget(level.directory.ino, 1)


def _begin(tree: Tree, lifter: Lifter, directory: DirectoryNode, branch: OpenBranch) -> _Level:
    """The directory itself lies on the branch; it is held until it is complete, whatever becomes of its children."""
    names = iter(tree.index(directory).shown())
    before = tree.stat(directory)
    if branch not in directory.branches:
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
    for name, code in tuple(index.codes.items()):
        if code & CODE_KIND == Kind.WHITEOUT:
            if code >> CODE_SHIFT == position:
                raised.journal.note(Deed.HIDING, directory.prefix + name)
            # nothing below counts any more, and the marks go when all is settled
            index.remove(name)
    raised.journal.note(Deed.OPAQUE, directory.path)
    fd, rest = branch.at(directory.path)
    whiteout.make_opaque(fd, rest, tree.options.whiteouts)
    directory.branches = (branch,)
    directory.branch = branch
    directory.floor = position
    if directory.parent is not None:
        resolution = Resolution(Kind.DIRECTORY, (position,), position, shadows=True)
        tree.index(directory.parent).set(directory.name, resolution)

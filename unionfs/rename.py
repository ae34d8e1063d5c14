"""Rename: at every instant one of the names shows the old or the new content.

::

    source and target on one writable branch   (copied up; a directory whole, ``whole.raise_whole``)
      → the way is clear: a directory at the target is empty on the branch too; what can't be renamed over for another
    reason gave way to a whiteout in overlay form
      → one renameat2(2): plain, or RENAME_WHITEOUT where a lower instance of the old name would reappear,
        or RENAME_EXCHANGE of a directory with the whiteout at its target
      → the whiteout left at the old name gets the form that is written, or goes

Invariants: what comes before the one renameat2 changes nothing that can be seen and is undone on failure; both forms of
whiteout are understood at every step, so a crash leaves the old or the new state.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator

from unionfs import _sys, whiteout
from unionfs.branch import OpenBranch
from unionfs.inodes import DirectoryNode, FileNode, Node
from unionfs.lift import Lifter
from unionfs.listing import probe
from unionfs.namedtuple import NamedTuple
from unionfs.names import Names, withdraw
from unionfs.policy import plan_copyup, plan_rename_branch
from unionfs.resolve import CODE_KIND, CODE_SHADOWS, CODE_SHIFT, Kind, Probe, instances
from unionfs.tree import Tree, refuse
from unionfs.types import DeleteMode, WhiteoutForm
from unionfs.whole import Raised, raise_whole

_UNSUPPORTED = frozenset((errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP))


class Place(NamedTuple):
    """A name in a directory."""

    directory: DirectoryNode
    name: bytes

    @property
    def path(self) -> bytes:
        """Path in the union and in every branch."""
        return self.directory.prefix + self.name


class Renamer:
    """Renames in a tree."""

    def __init__(self, tree: Tree, lifter: Lifter, names: Names) -> None:
        self._tree = tree
        self._lifter = lifter
        self._names = names

    def rename(
        self, directory: DirectoryNode, name: bytes, new_directory: DirectoryNode, new_name: bytes, flags: int
    ) -> None:
        """``name`` is ``new_name``; ``renameat2(2)`` with RENAME_NOREPLACE or RENAME_EXCHANGE."""
        if flags not in {0, _sys.RENAME_NOREPLACE, _sys.RENAME_EXCHANGE}:
            refuse(errno.EINVAL)
        old, new = Place(directory, name), Place(new_directory, new_name)
        node = self._tree.child(directory, name)[0]
        self._names.check_name(new_directory, new_name)
        target = self._tree.find(new_directory, new_name)
        if flags == _sys.RENAME_EXCHANGE:
            if target is None:
                refuse(errno.ENOENT, new_name)
            if target is not node:
                with self._held(node, target):
                    self._exchange(old, node, new, target)
            return
        if flags == _sys.RENAME_NOREPLACE and target is not None:
            refuse(errno.EEXIST, new_name)
        self._check(node, new, target)
        if target is not node:
            with self._held(node, target):
                self._move(old, node, new, target)

    @contextlib.contextmanager
    def _held(self, *nodes: Node | None) -> Generator[None, None, None]:
        """The nodes stay in the table meanwhile, though the caller may hold no reference to them."""
        held = [node for node in nodes if node is not None]
        for node in held:
            node.lookups += 1
        try:
            yield
        finally:
            for node in held:
                self._tree.table.forget(node.ino, 1)

    def _check(self, node: Node, new: Place, target: Node | None) -> None:
        """What ``rename(2)`` refuses."""
        if isinstance(node, DirectoryNode):
            self._check_outside(node, new.directory)
            if isinstance(target, FileNode):
                refuse(errno.ENOTDIR, new.name)
        elif isinstance(target, DirectoryNode):
            refuse(errno.EISDIR, new.name)
        if isinstance(target, DirectoryNode) and target is not node:
            self._names.check_empty(target)

    @staticmethod
    def _check_outside(node: DirectoryNode, directory: DirectoryNode) -> None:
        above: DirectoryNode | None = directory
        while above is not None:
            if above is node:
                refuse(errno.EINVAL)
            above = above.parent

    # -- one name ----------------------------------------------------------------------------------------------
    def _move(self, old: Place, node: Node, new: Place, target: Node | None) -> None:
        tree = self._tree
        claim = tree.index(new.directory).codes.get(new.name, 0)
        claims = (Probe(claim >> CODE_SHIFT, Kind(claim & CODE_KIND)),) if claim else ()
        position = plan_rename_branch(tree.writable, node.branch.position, claims, new.directory.floor)
        branch = self._lifter.directory(new.directory, position)
        raised = self._raise(node, position)
        try:
            mover = raised.node
            if isinstance(mover, DirectoryNode) and claim and (claim & CODE_SHADOWS or claim >> CODE_SHIFT != position):
                raised.make_opaque(old.path)
            below = [one for one in old.directory.branches if one.position > position]
            leaves = bool(instances(tuple(probe(below, old.directory.prefix, old.name))))
            replaced = None if target is None else tree.stat(target)
            if isinstance(target, FileNode) and replaced is not None and target.extra_links > 0:
                self._lifter.keep(target, replaced)
            if target is not None and (isinstance(target, DirectoryNode) or not target.aliases):
                tree.keep_ghost(target)
            # keeping may have copied the name up
            claimed = tree.index(new.directory).codes.get(new.name, 0) >> CODE_SHIFT
            self._rename_on(branch, old, new, is_directory=isinstance(mover, DirectoryNode), leaves_whiteout=leaves)
        except BaseException:
            raised.undo()
            raise
        raised.settle(old.path, new.path)
        if target is not None and replaced is not None:
            self._lose(new, target, replaced, physical=target.branch.position == claimed == position)
            if tree.options.delete is DeleteMode.ALL:
                self._remove_below(new, position)
        self._follow(old, mover, new, branch, opaque=raised.opaque)
        self._names.show_change(old.directory, branch)
        self._names.show_change(new.directory, branch)

    def _raise(self, node: Node, position: int) -> Raised:
        """``node`` is whole on the branch at ``position``. Raises EXDEV for a merged one with ``redirect=off``."""
        tree = self._tree
        if isinstance(node, FileNode):
            if node.branch.position != position:
                node = self._lifter.file(node, position)
            elif node.extra_links > 0:
                # the name may be one that was not copied up when the file was
                self._lifter.materialize(node)
            return Raised(tree, node, tree.branches[position])
        tree.index(node)
        if node.branches == (tree.branches[position],):
            return Raised(tree, node, tree.branches[position])
        if not tree.options.redirect:
            refuse(errno.EXDEV)
        return raise_whole(tree, self._lifter, node, position)

    def _rename_on(
        self, branch: OpenBranch, old: Place, new: Place, *, is_directory: bool, leaves_whiteout: bool
    ) -> None:
        """The rename itself, in one branch that holds the source whole."""
        way = _clear_way(branch, new)
        fd, source = branch.at(old.path)
        new_fd, target = branch.at(new.path)
        try:
            if is_directory and way.hidden:
                _sys.renameat2(fd, source, new_fd, target, _sys.RENAME_EXCHANGE)
                left = True
            else:
                left = _rename(fd, source, new_fd, target, leave_whiteout=leaves_whiteout)
        except BaseException:
            way.undo(branch, new)
            raise
        way.finish(branch)
        form = self._tree.options.whiteouts
        aufs = whiteout.written_form(old.directory.prefix, old.name, form) is WhiteoutForm.AUFS
        if leaves_whiteout and (aufs or not left):
            whiteout.place(branch, old.directory.prefix, old.name, form)
        if left and (aufs or not leaves_whiteout):
            os.unlink(source, dir_fd=fd)

    def _lose(self, new: Place, target: Node, before: os.stat_result, *, physical: bool) -> None:
        """``target`` has lost the name to what was renamed over it."""
        if physical:
            self._tree.lose_instance(target, before)
        if isinstance(target, FileNode):
            if not physical:
                target.extra_links -= 1
                self._lifter.links_changed(target)
            if before.st_nlink + target.extra_links <= 1 and target.kept is None:
                self._tree.table.unlink_keys(target)
        self._tree.detach(target, new.directory, new.name)

    def _remove_below(self, new: Place, position: int) -> None:
        """Lower instances of the new name on writable branches are gone, the bottom one first.

        A directory with things in it that were hidden stays, hidden, as when the name is removed.
        """
        below = [one for one in new.directory.branches if one.position > position]
        for instance in reversed(instances(tuple(probe(below, new.directory.prefix, new.name)))):
            branch = self._tree.branches[instance.position]
            if not branch.writable or (instance.kind is Kind.DIRECTORY and whiteout.holds_entries(branch, new.path)):
                continue
            withdraw(branch, new.path)

    def _follow(self, old: Place, node: Node, new: Place, branch: OpenBranch, *, opaque: bool) -> None:
        """Nodes and indexes know the new name."""
        tree = self._tree
        old.directory.children.pop(old.name, None)
        new.directory.children[new.name] = node
        _rename_node(old, node, new)
        floor = new.directory.floor
        if isinstance(node, DirectoryNode):
            floor = branch.position if opaque else min(node.floor, new.directory.floor)
            node.floor = floor
            for one in tree.branches:
                one.moved()
        tree.enter(new.directory, new.name, branch.position, _kind(node), floor)
        tree.refresh(old.directory, old.name)
        tree.table.release(old.directory)

    # -- two names ---------------------------------------------------------------------------------------------
    def _exchange(self, old: Place, node: Node, new: Place, target: Node) -> None:
        for mover, place in ((node, new), (target, old)):
            if isinstance(mover, DirectoryNode):
                self._check_outside(mover, place.directory)
        tree = self._tree
        highest = min(node.branch.position, target.branch.position)
        position = plan_copyup(tree.writable, highest + 1, min(old.directory.floor, new.directory.floor))
        branch = tree.branches[position]
        raised = self._raise(node, position)
        other = Raised(tree, target, branch)
        try:
            other = self._raise(target, position)
            for one, place in ((raised, old), (other, new)):
                if isinstance(one.node, DirectoryNode):
                    one.make_opaque(place.path)
            fd, source = branch.at(old.path)
            new_fd, destination = branch.at(new.path)
            _sys.renameat2(fd, source, new_fd, destination, _sys.RENAME_EXCHANGE)
        except BaseException:
            raised.undo()
            other.undo()
            raise
        raised.settle(old.path, new.path)
        other.settle(new.path, old.path)
        self._swap(old, raised, new, other, branch)
        self._names.show_change(old.directory, branch)
        self._names.show_change(new.directory, branch)

    def _swap(self, old: Place, raised: Raised, new: Place, other: Raised, branch: OpenBranch) -> None:
        tree = self._tree
        node, target = raised.node, other.node
        new.directory.children[new.name] = node
        old.directory.children[old.name] = target
        _rename_node(old, node, new)
        _rename_node(new, target, old)
        for one in tree.branches:
            one.moved()
        for moved, place in ((node, new), (target, old)):
            if isinstance(moved, DirectoryNode):
                moved.floor = branch.position
            tree.enter(place.directory, place.name, branch.position, _kind(moved), branch.position)
            tree.refresh(place.directory, place.name)


class _Way(NamedTuple):
    """What was done to clear the target: ``hidden``, a whiteout stands there; ``staged`` is what stood there before."""

    hidden: bool
    staged: bytes | None = None

    def undo(self, branch: OpenBranch, new: Place) -> None:
        """What stood at the target stands there again."""
        if self.staged is not None:
            fd, rest = branch.at(new.path)
            _sys.renameat2(branch.temporary()[0], self.staged, fd, rest, _sys.RENAME_EXCHANGE)
            branch.discard(self.staged)

    def finish(self, branch: OpenBranch) -> None:
        """What stood at the target is gone."""
        if self.staged is not None:
            branch.discard(self.staged)


def _clear_way(branch: OpenBranch, new: Place) -> _Way:
    """At the target is nothing, a file or an overlay whiteout: what rename(2) or an exchange can replace."""
    fd, rest = branch.at(new.path)
    try:
        status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        status = None
    marked = whiteout.has_mark(branch, new.directory.prefix, new.name)
    is_directory = status is not None and stat.S_ISDIR(status.st_mode)
    if not marked and is_directory and whiteout.strip(branch, new.path):
        return _Way(hidden=False)
    if not marked and not is_directory:
        return _Way(status is not None and whiteout.is_whiteout(branch, new.path, status))
    temporary_fd, staged = branch.temporary()
    whiteout.make_device(temporary_fd, staged)
    if status is None:
        os.rename(staged, rest, src_dir_fd=temporary_fd, dst_dir_fd=fd)
        whiteout.remove_mark(branch, new.directory.prefix, new.name)
        return _Way(hidden=True)
    _sys.renameat2(temporary_fd, staged, fd, rest, _sys.RENAME_EXCHANGE)
    whiteout.remove_mark(branch, new.directory.prefix, new.name)
    return _Way(hidden=True, staged=staged)


def _rename(fd: int, source: bytes, new_fd: int, target: bytes, *, leave_whiteout: bool) -> bool:
    """Renamed; whether a whiteout in overlay form was left behind in the same instant."""
    if leave_whiteout:
        try:
            _sys.renameat2(fd, source, new_fd, target, _sys.RENAME_WHITEOUT)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            return True
    os.rename(source, target, src_dir_fd=fd, dst_dir_fd=new_fd)
    return False


def _kind(node: Node) -> Kind:
    return Kind.DIRECTORY if isinstance(node, DirectoryNode) else Kind.FILE


def _rename_node(old: Place, node: Node, new: Place) -> None:
    """``node`` has the new place for the old one, which may be one of several."""
    if isinstance(node, DirectoryNode) or (node.parent is old.directory and node.name == old.name):
        node.parent, node.name = new.directory, new.name
    elif node.aliases is not None:
        with contextlib.suppress(KeyError):
            node.aliases.remove((old.directory, old.name))
        node.aliases.add((new.directory, new.name))
    if isinstance(node, DirectoryNode):
        node.renamed()

"""Copy-up as the tree sees it: after it, a node lives on a writable branch.

Invariants: a copy-up changes nothing that can be seen: content, metadata, inode number, the times of the directory, the
names that lead to one file. Directories are copied alone, without what is in them. A file that is open stays the file
behind its handles (``OpenFile``) unless the kernel reads it by itself (``passes``): then those handles keep the old
content, and the names get a new node.
"""

from __future__ import annotations

import os
import stat

from unionfs.branch import OpenBranch
from unionfs.copyup import PRESERVED, Copier, Ownership
from unionfs.inodes import DirectoryNode, FileNode, Node
from unionfs.journal import Journal
from unionfs.links import Link, add_link, change_link, link_key
from unionfs.ops import Notifier
from unionfs.origins import write_origin
from unionfs.policy import plan_copyup, read_only_error
from unionfs.resolve import CODE_SHIFT, Extent, Kind, Resolution
from unionfs.tree import Tree
from unionfs.types import Caller, CopyupMode


class Lifter:
    """Brings nodes of a tree to writable branches."""

    def __init__(self, tree: Tree, notifier: Notifier | None = None) -> None:
        self._tree = tree
        self._notifier = notifier
        self._options = tree.options
        tree.restore_kept = self.restore
        self.copier = Copier(durable=not tree.options.volatile)
        self.journal: Journal | None = None
        """When set, says what is put onto its branch."""

    def writable(self, node: FileNode, caller: Caller | None = None, size_bytes: int | None = None) -> FileNode:
        """The node that may be written in place of ``node``: itself, or its successor.

        All known names of the file lead to the writable instance on the branch too. Raises EROFS.
        """
        if node.branch.writable:
            if node.aliases or node.link is not None:
                self.materialize(node)
            return node
        position = plan_copyup(self._tree.writable, node.branch.position, node.branch.position)
        return self.file(node, position, caller, size_bytes)

    def directory(self, directory: DirectoryNode, position: int) -> OpenBranch:
        """The branch at ``position``, which now holds ``directory`` and those above it."""
        branch = self._tree.branches[position]
        if branch in directory.branches:
            return branch
        parent = directory.parent
        if parent is None:
            raise read_only_error(directory.name)
        self.directory(parent, position)
        before = self._tree.stat(directory)
        name = self.copier.stage(directory.branch, directory.path, branch)
        self._sign(branch, name, before)
        self.publish(branch, name, parent, directory.name)
        directory.branches = tuple(sorted((*directory.branches, branch), key=lambda one: one.position))
        if directory.branches[0] is branch:
            shown = self._tree.shown_ino(before)
            directory.branch = branch
            after = self._tree.stat(directory)
            self._tree.origins[self._tree.identity(after)] = shown
            self._tell(directory, before, after)
        self._extend(parent, directory, position)
        return branch

    def _extend(self, parent: DirectoryNode, directory: DirectoryNode, position: int) -> None:
        """The index of ``parent`` knows that ``directory`` lies at ``position`` too."""
        index = self._tree.index(parent)
        old = self._tree.extent(parent, directory.name)
        extent = Extent(tuple(sorted((*old.positions, position))), old.floor)
        index.set(directory.name, Resolution(Kind.DIRECTORY, extent.positions, extent.floor, shadows=True))
        self._tree.touched(parent)
        if not self._tree.options.sealed_branches:
            self._tree.touched(directory)

    def file(
        self, node: FileNode, position: int, caller: Caller | None = None, size_bytes: int | None = None
    ) -> FileNode:
        """``node``, or its successor, on the branch at ``position``, which is above the one it lies on."""
        tree = self._tree
        if node.parent is None:
            return self._unnamed(node, tree.branches[position], caller, size_bytes)
        directory, name = node.parent, node.name
        branch = self.directory(directory, position)
        before = tree.stat(node)
        shown_links = tree.links(node, before)
        staged = self.copier.stage(node.branch, node.path, branch, self._ownership(caller), size_bytes)
        self._sign(branch, staged, before)
        link = self._add_link(node, before, branch, staged, shown_links - 1)
        self.publish(branch, staged, directory, name)
        fd, rest = branch.at(directory.prefix + name)
        after = os.stat(rest, dir_fd=fd, follow_symlinks=False)
        node.link = link
        tree.origins[tree.identity(after)] = tree.shown_ino(before)
        tree.enter(directory, name, position, Kind.FILE)
        moved = self._hand_over(node, branch)
        self._tell(moved, before, after)
        moved.extra_links = shown_links - 1
        if shown_links > 1:
            tree.table.know_link(moved, tree.identity(after))
            self.materialize(moved)
        return moved

    def _add_link(
        self, node: FileNode, before: os.stat_result, branch: OpenBranch, staged: bytes, left: int
    ) -> Link | None:
        """The staged copy is in the index of ``branch`` when the lower file has other names and numbers are to last."""
        if left <= 0 or not self._options.stable_inodes or node.branch.writable:
            return None
        key = link_key(node.branch, before)
        return Link(branch, key, left) if add_link(branch, staged, key, left) else None

    def links_changed(self, node: FileNode) -> None:
        """The index knows how many names of ``node`` are not copied up; when none is, it forgets the file."""
        if node.link is not None and node.link.left != node.extra_links:
            node.link = change_link(node.link, node.extra_links)

    def name(self, node: FileNode, directory: DirectoryNode, name: bytes) -> None:
        """``name``, one of those of ``node``, which lies on a writable branch, is copied up as a link."""
        position = node.branch.position
        if self._tree.index(directory).codes.get(name, 0) >> CODE_SHIFT <= position:
            return
        branch = self.directory(directory, position)
        source_fd, source = branch.at(node.path)
        temporary_fd, staged = branch.temporary()
        os.link(source, staged, src_dir_fd=source_fd, dst_dir_fd=temporary_fd, follow_symlinks=False)
        self.publish(branch, staged, directory, name)
        self._tree.enter(directory, name, position, Kind.FILE)
        node.extra_links -= 1

    def _unnamed(self, node: FileNode, branch: OpenBranch, caller: Caller | None, size_bytes: int | None) -> FileNode:
        """``node``, which has lost its last name, on ``branch``, where it has none either."""
        file = node.file
        fd = node.ghost if file is None else file.fd
        before = self._tree.stat(node)
        if fd is None or not stat.S_ISREG(before.st_mode) or (file is not None and file.passes):
            # what the kernel reads by itself cannot be given another file
            raise read_only_error()
        staged = self.copier.stage_unnamed(fd, branch, self._ownership(caller), size_bytes)
        temporary_fd = branch.temporary()[0]
        try:
            upper = os.open(staged, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=temporary_fd)
        finally:
            os.unlink(staged, dir_fd=temporary_fd)
        after = os.fstat(upper)
        self._tree.origins[self._tree.identity(after)] = self._tree.shown_ino(before)
        self._tell(node, before, after)
        os.dup2(upper, fd, inheritable=False)
        os.close(upper)
        if file is not None:
            file.writable = True
        node.branch = branch
        node.extra_links += before.st_nlink
        return node

    def _tell(self, node: Node, before: os.stat_result, after: os.stat_result) -> None:
        """The kernel asks anew for attributes that the copy does not share with what it was made of.

        They differ with ``copyup=``, and when the mounter may not give files away.
        """
        if self._notifier is not None and _rights(before) != _rights(after):
            self._notifier.invalidate_attributes(node.ino)

    def _sign(self, branch: OpenBranch, staged: bytes, before: os.stat_result) -> None:
        """The staged copy says which number it shows, where that is to outlive the mount."""
        if self._tree.options.stable_inodes:
            write_origin(b"/proc/self/fd/%d/%s" % (branch.temporary()[0], staged), self._tree.shown_ino(before))

    def _hand_over(self, node: FileNode, branch: OpenBranch) -> FileNode:
        """The node whose names lead to the copy in ``branch``: ``node``, or a successor when the kernel reads it."""
        if node.file is None:
            node.branch = branch
            return node
        if not node.file.passes:
            fd, rest = branch.at(node.path)
            upper = os.open(rest, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.dup2(upper, node.file.fd, inheritable=False)
            os.close(upper)
            node.file.writable = True
            node.branch = branch
            return node
        return self._succeed(node, branch)

    def _succeed(self, node: FileNode, branch: OpenBranch) -> FileNode:
        table = self._tree.table
        successor = table.add_file(node.parent, node.name, branch)
        successor.aliases, node.aliases = node.aliases, None
        for directory, name in successor.aliases or ():
            directory.children[name] = successor
        for key in node.link_keys or ():
            table.know_link(successor, key)
        node.link_keys = None
        successor.extra_links, node.extra_links = node.extra_links, 0
        successor.link, node.link = node.link, None
        node.parent = None
        node.successor = successor
        # the node that answers for another one stays as long as that one
        successor.lookups += 1
        return successor

    def abandon_copies(self) -> None:
        """Copies of large files that are on their way are not used."""
        for copy in self.copier.copies:
            copy.drop()

    def materialize(self, node: FileNode) -> None:
        """Every known name of the file is a name of the writable instance."""
        names = set(node.aliases or ())
        if node.parent is not None:
            names.add((node.parent, node.name))
        for directory, name in names:
            self.name(node, directory, name)
        self.links_changed(node)

    def keep(self, node: FileNode, status: os.stat_result) -> None:
        """The content of ``node``, about to lose its last copied-up name, is kept for the names not yet copied up."""
        if node.link is not None:
            return
        if node.aliases:
            self.materialize(node)
        if node.extra_links <= 0 or status.st_nlink > 1 or node.aliases or not node.branch.writable:
            return
        fd, rest = node.branch.at(node.path)
        temporary_fd, staged = node.branch.temporary()
        os.link(rest, staged, src_dir_fd=fd, dst_dir_fd=temporary_fd, follow_symlinks=False)
        node.kept = staged
        node.extra_links -= 1

    def restore(self, node: FileNode, directory: DirectoryNode, name: bytes) -> None:
        """The kept content is at ``name``, which was one of the names not yet copied up."""
        if node.kept is not None:
            branch = self.directory(directory, node.branch.position)
            self.publish(branch, node.kept, directory, name)
            node.kept = None
            self._tree.enter(directory, name, branch.position, Kind.FILE)

    def publish(self, branch: OpenBranch, staged: bytes, directory: DirectoryNode, name: bytes) -> None:
        """What was staged lies at ``name`` in ``directory``, whose times are as before. On failure nothing is left."""
        temporary_fd = branch.temporary()[0]
        parent_fd, parent = branch.at(directory.path)
        times = os.stat(parent, dir_fd=parent_fd, follow_symlinks=False)
        fd, rest = branch.at(directory.prefix + name)
        try:
            if self.journal is not None and self.journal.branch is branch:
                self.journal.made(staged, directory.prefix + name)
            os.rename(staged, rest, src_dir_fd=temporary_fd, dst_dir_fd=fd)
        except BaseException:
            branch.discard(staged)
            raise
        restore_times(branch, directory, times)

    def _ownership(self, caller: Caller | None) -> Ownership:
        """Owner and mode of a copy as ``copyup=`` says; without a caller they are preserved."""
        options = self._options
        if options.copyup is CopyupMode.MOUNTER:
            return Ownership(options.copyup_uid, options.copyup_gid, options.copyup_mode)
        if options.copyup is CopyupMode.CURRENTUSER and caller is not None:
            return Ownership(caller.uid, caller.gid)
        return PRESERVED


def _rights(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid


def restore_times(branch: OpenBranch, directory: DirectoryNode, status: os.stat_result) -> None:
    """Access and modification time of the directory in ``branch`` are those of ``status``."""
    fd, rest = branch.at(directory.path)
    os.utime(rest, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=fd)

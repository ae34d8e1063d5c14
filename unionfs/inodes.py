"""Nodes: what a mount knows about one file or directory, under a number that is never reused.

Invariants: a node's path in every branch it lies in is its path in the union, made of the ``prefix`` of its directory
and its name; names of one file (hard links) share one node; a node stays while the kernel, an open file, a child or a
count of hidden links (``extra_links``) needs it, and no longer.
"""

from __future__ import annotations

import errno
import os

from unionfs.branch import OpenBranch
from unionfs.handles import OpenFile
from unionfs.links import Link
from unionfs.resolve import Index
from unionfs.types import ROOT_INO, Ino


class DirectoryNode:
    """A directory, merged from ``branches`` (top first), of which ``branch`` is the top.

    ``branches`` are candidates until ``index`` is there: reading them may show that one is opaque, which cuts off the
    rest. ``floor`` is the lowest position at which entries can be seen. ``parent`` is None once it is removed.
    """

    __slots__ = (
        "branch",
        "branches",
        "children",
        "fingerprint",
        "floor",
        "ghost",
        "index",
        "inherits_acl",
        "ino",
        "lookups",
        "name",
        "parent",
        "prefix",
        "version",
    )

    def __init__(
        self, ino: Ino, parent: DirectoryNode | None, name: bytes, branches: tuple[OpenBranch, ...], floor: int
    ) -> None:
        self.ino = ino
        self.parent = parent
        self.name = name
        self.branches = branches
        self.branch = branches[0]
        self.floor = floor
        self.prefix: bytes = parent.prefix + name + b"/" if parent is not None else b""
        self.lookups = 0
        self.index: Index | None = None
        self.fingerprint: tuple[tuple[int, ...], ...] = ()
        self.children: dict[bytes, Node] = {}
        self.ghost: int | None = None
        self.inherits_acl: bool | None = None
        self.version = 0

    @property
    def path(self) -> bytes:
        """Path in the union and in each branch; ``b""`` is the root."""
        return self.prefix[:-1]

    def renamed(self) -> None:
        """The prefixes of this directory and of all known ones below follow its name."""
        pending: list[DirectoryNode] = [self]
        while pending:
            directory = pending.pop()
            if directory.parent is not None:
                directory.prefix = directory.parent.prefix + directory.name + b"/"
            pending += [child for child in directory.children.values() if isinstance(child, DirectoryNode)]


class FileNode:
    """Anything but a directory; ``branch`` holds the instance that is shown.

    ``parent`` and ``name`` are one of its names, ``aliases`` the other known ones; ``parent`` is None when no known
    name is left. ``extra_links`` corrects the link count of the instance for names hidden or not yet copied up.
    ``kept`` names its copied-up content among the temporary things while only names not copied up are left.
    ``link`` is the entry of its copy in the index of ``branch``, by which it can be reached whatever its names are.
    ``successor`` is the node that took the names over when an open file stayed behind on a lower branch.
    """

    __slots__ = (
        "aliases",
        "branch",
        "extra_links",
        "file",
        "ghost",
        "ino",
        "kept",
        "link",
        "link_keys",
        "lookups",
        "name",
        "offered",
        "parent",
        "successor",
    )

    def __init__(self, ino: Ino, parent: DirectoryNode | None, name: bytes, branch: OpenBranch) -> None:
        self.ino = ino
        self.parent = parent
        self.name = name
        self.branch = branch
        self.lookups = 0
        self.file: OpenFile | None = None
        self.ghost: int | None = None
        self.aliases: set[tuple[DirectoryNode, bytes]] | None = None
        self.extra_links = 0
        self.link_keys: set[int] | None = None
        self.kept: bytes | None = None
        self.offered = False
        self.link: Link | None = None
        self.successor: FileNode | None = None

    @property
    def path(self) -> bytes:
        """A path in its branch: that of its link, or of one of its names, in the union too; there must be one."""
        if self.link is not None:
            return self.link.path
        assert self.parent is not None  # noqa: S101 - callers have looked: a node without names has no path
        return self.parent.prefix + self.name


Node = DirectoryNode | FileNode


class InodeTable:
    """Nodes by number."""

    def __init__(self, root: DirectoryNode) -> None:
        self.root = root
        self._nodes: dict[int, Node] = {ROOT_INO: root}
        self._next = ROOT_INO + 1
        self.by_link: dict[int, FileNode] = {}
        """Nodes of files with several names, by what ``Tree.identity`` says about their instances."""
        self.origins: dict[int, int] = {}
        """Identity of an instance made by copy-up → the number its file is shown with."""
        self._gone: dict[int, int] = {}
        """Numbers of nodes whose instance has no name any more → its identity in ``origins``."""

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, ino: int) -> Node:
        try:
            return self._nodes[ino]
        except KeyError:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None

    def values(self) -> tuple[Node, ...]:
        """All nodes."""
        return tuple(self._nodes.values())

    def add_file(self, parent: DirectoryNode | None, name: bytes, branch: OpenBranch) -> FileNode:
        """A new node for a file, known to ``parent``."""
        ino = self._next
        self._next = ino + 1
        node = FileNode(Ino(ino), parent, name, branch)
        self._nodes[ino] = node
        if parent is not None:
            parent.children[name] = node
        return node

    def add_directory(
        self, parent: DirectoryNode, name: bytes, branches: tuple[OpenBranch, ...], floor: int
    ) -> DirectoryNode:
        """A new node for a directory, known to ``parent``."""
        ino = self._next
        self._next = ino + 1
        node = DirectoryNode(Ino(ino), parent, name, branches, floor)
        self._nodes[ino] = node
        parent.children[name] = node
        return node

    def know_link(self, node: FileNode, key: int) -> None:
        """``node`` is found by the identity ``key`` of its instance."""
        self.by_link[key] = node
        if node.link_keys is None:
            node.link_keys = set()
        node.link_keys.add(key)

    def lose_instance(self, node: Node, key: int) -> None:
        """The instance of ``node`` has lost its last name; once it is gone too, its identity may be another's."""
        if key in self.origins:
            if node.ghost is None and (isinstance(node, DirectoryNode) or node.file is None):
                del self.origins[key]
            else:
                self._gone[node.ino] = key

    def forget(self, ino: int, count: int) -> None:
        """``count`` references fewer; nodes that nobody needs are gone. Never raises."""
        node = self._nodes.get(ino)
        if node is not None:
            node.lookups -= count
            self.release(node)

    def release(self, node: Node) -> None:
        """``node`` is gone when nobody needs it, and its directory too if that was the last need for it."""
        pending: Node | None = node
        while pending is not None and self._idle(pending):
            parent = pending.parent
            self._drop(pending)
            pending = parent

    def _idle(self, node: Node) -> bool:
        if node.lookups > 0 or node is self.root or node.ino not in self._nodes:
            return False
        if isinstance(node, DirectoryNode):
            return not node.children
        pinned = node.extra_links and node.parent is not None and node.link is None
        return node.file is None and node.kept is None and not pinned

    def _drop(self, node: Node) -> None:
        del self._nodes[node.ino]
        if node.ino in self._gone:
            self.origins.pop(self._gone.pop(node.ino), None)
        if node.parent is not None:
            if node.parent.children.get(node.name) is node:
                del node.parent.children[node.name]
            if isinstance(node, FileNode):
                self._drop_aliases(node)
        if isinstance(node, FileNode):
            self.unlink_keys(node)
            if node.successor is not None:
                self.forget(node.successor.ino, 1)
        if node.ghost is not None:
            os.close(node.ghost)
            node.ghost = None

    def _drop_aliases(self, node: FileNode) -> None:
        for directory, name in node.aliases or ():
            if directory.children.get(name) is node:
                del directory.children[name]
                self.release(directory)
        node.aliases = None

    def unlink_keys(self, node: FileNode) -> None:
        """``node`` is no longer found by identities: its file is gone, or it is."""
        for key in node.link_keys or ():
            if self.by_link.get(key) is node:
                del self.by_link[key]
        node.link_keys = None

    def close(self) -> None:
        """All descriptors of nodes are closed, all nodes but the root gone."""
        for node in self._nodes.values():
            if node.ghost is not None:
                os.close(node.ghost)
                node.ghost = None
            if isinstance(node, FileNode) and node.kept is not None:
                node.branch.discard(node.kept)
        self._nodes = {ROOT_INO: self.root}
        self.root.children.clear()
        self.by_link.clear()

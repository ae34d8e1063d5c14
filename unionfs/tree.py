"""The merged tree: from names to nodes, from nodes to attributes.

Invariants: a directory's index is loaded once and then follows every change made through the union; with
``sealed_branches`` nothing else changes it, otherwise it is loaded again when the directories have changed. What a node
shows as inode number is that of the instance first seen, also after a copy-up (``origins``), and unique in the mount:
the number on its filesystem, with the place of the filesystem in the high bits.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from unionfs import listing, origins, whiteout
from unionfs.branch import BranchStack, OpenBranch
from unionfs.inodes import DirectoryNode, FileNode, InodeTable, Node
from unionfs.links import find_link, read_again, read_link
from unionfs.resolve import CODE_KIND, CODE_SHADOWS, CODE_SHIFT, SHOWN, Extent, Index, Kind, Resolution, encode, resolve
from unionfs.types import ROOT_INO, Attr, Ino, UnionOptions

if TYPE_CHECKING:
    from unionfs.constantscans import ConstantScans

_DEVICE_SHIFT = 48
_RACY_NS = 50_000_000
_NAME_BYTES = 255
_TYPE, _DIRECTORY = 0o170000, 0o040000
_EMPTY_NLINK = 2
_reasons: dict[int, str] = {}
"""What ``os.strerror`` has said: it looks for a translation each time."""


def refuse(code: int, name: bytes | None = None) -> NoReturn:
    """Raises ``OSError`` with the errno."""
    reason = _reasons.get(code)
    if reason is None:
        reason = _reasons[code] = os.strerror(code)
    raise OSError(code, reason, name)


def _nothing_kept(node: FileNode, directory: DirectoryNode, name: bytes) -> None:
    """A tree without copy-up keeps no content aside."""
    raise AssertionError(node, directory, name)


def _ignore(_text: str) -> None:
    """A tree nobody listens to."""


class Tree:
    """Nodes of one mount over one stack of open branches."""

    def __init__(
        self,
        stack: BranchStack,
        branches: tuple[OpenBranch, ...],
        options: UnionOptions,
        scans: ConstantScans | None = None,
    ) -> None:
        """``scans`` are used where ``options`` say that branches are constant."""
        self.options = options
        self.table = InodeTable(DirectoryNode(ROOT_INO, None, b"", branches, len(branches) - 1))
        self.root = self.table.root
        self.root.lookups = 1
        self.origins = self.table.origins
        self.restore_kept: Callable[[FileNode, DirectoryNode, bytes], None] = _nothing_kept
        """Puts the kept content of a node where one of its names is; who copies up sets it."""
        self.log: Callable[[str], None] = _ignore
        """Takes what nobody is answered but somebody should know."""
        self._devices: dict[int, int] = {}
        self._large: dict[tuple[int, int], int] = {}
        self._sealed = options.sealed_branches
        self._scans = scans if options.constant_branches else None
        self._stable = options.stable_inodes
        self._asked: set[int] = set()
        self.set_branches(stack, branches)

    def set_branches(self, stack: BranchStack, branches: tuple[OpenBranch, ...]) -> None:
        """The tree is that of ``branches``; nodes are not touched."""
        self.stack = stack
        self.branches = branches
        self.writable = tuple(branch.position for branch in branches if branch.writable)
        if self._stable:
            found = [origins.filesystem_of(branch.fd) for branch in reversed(branches)]
            self._devices = {device: place << _DEVICE_SHIFT for device, place in origins.plan_places(found).items()}

    # -- nodes by number ---------------------------------------------------------------------------------------
    def node(self, ino: Ino) -> Node:
        """The node, or the one that took its place. Raises ESTALE."""
        node = self.table[ino]
        while isinstance(node, FileNode) and node.successor is not None:
            node = node.successor
        return node

    def directory(self, ino: Ino) -> DirectoryNode:
        """The node, which is a directory. Raises ENOTDIR, ESTALE."""
        node = self.table[ino]
        if not isinstance(node, DirectoryNode):
            refuse(errno.ENOTDIR)
        return node

    def file(self, ino: Ino) -> FileNode:
        """The node, which is no directory. Raises EISDIR, ESTALE."""
        node = self.node(ino)
        if not isinstance(node, FileNode):
            refuse(errno.EISDIR)
        return node

    # -- names -------------------------------------------------------------------------------------------------
    def index(self, directory: DirectoryNode) -> Index:
        """What ``directory`` shows, up to date."""
        index = directory.index
        if index is None or not (self._sealed or self._unchanged(directory)):
            index = self._load(directory)
        return index

    def _load(self, directory: DirectoryNode) -> Index:
        if directory.parent is None and directory is not self.root:
            directory.index = Index({}, {})
            return directory.index
        if not self._sealed:
            self._reopen(directory)
        lowest_writable = self.writable[-1] if self.writable else -1
        loaded = listing.load(directory.branches, directory.path, directory.floor, lowest_writable, self._scans)
        directory.branches = loaded.branches
        directory.floor = loaded.floor
        directory.index = loaded.contents
        directory.version += 1
        if not self._sealed:
            directory.fingerprint = self._fingerprint(directory)
        return loaded.contents

    def _reopen(self, directory: DirectoryNode) -> None:
        """The candidates of ``directory`` are what its parent says now: something outside may have changed them."""
        parent = directory.parent
        if parent is None:
            directory.branches, directory.branch = self.branches, self.branches[0]
            directory.floor = len(self.branches) - 1
            return
        positions, floor = self.extent(parent, directory.name)
        directory.branches = tuple(self.branches[position] for position in positions)
        directory.branch, directory.floor = directory.branches[0], floor

    def _fingerprint(self, directory: DirectoryNode) -> tuple[tuple[int, ...], ...]:
        found: list[tuple[int, ...]] = []
        for branch in directory.branches:
            fd, rest = branch.at(directory.path)
            status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
            found.append((status.st_ino, status.st_mtime_ns, status.st_ctime_ns))
        return tuple(found)

    def _unchanged(self, directory: DirectoryNode) -> bool:
        """Whether nothing outside has changed the directory since it was read.

        A time stamp that was young when the directory was read proves nothing: a second change may share it.
        """
        if directory.parent is not None and not self._unchanged(directory.parent):
            self._load(directory.parent)
            return False
        try:
            now = self._fingerprint(directory)
        except OSError:
            return False
        if now != directory.fingerprint:
            return False
        newest = max(stamp for one in now for stamp in one[1:])
        racy = directory.branches and newest > self._clock_ns() - _RACY_NS
        return not racy

    @staticmethod
    def _clock_ns() -> int:
        import time  # only unions whose branches others change ask

        return time.time_ns()

    def extent(self, parent: DirectoryNode, name: bytes) -> Extent:
        """Positions and floor of the directory ``name``. Raises ENOENT, ENOTDIR."""
        index = self.index(parent)
        kind = index.kind(name)
        if kind != Kind.DIRECTORY:
            refuse(errno.ENOTDIR if kind == Kind.FILE else errno.ENOENT, name)
        extent = index.extents.get(name)
        return extent if extent is not None else Extent((index.codes[name] >> CODE_SHIFT,), parent.floor)

    def find(self, directory: DirectoryNode, name: bytes) -> Node | None:
        """The node of ``name``, or None when nothing is shown."""
        if not SHOWN[self.index(directory).kind(name)]:
            return None
        try:
            return self.child(directory, name)[0]
        except FileNotFoundError:
            return None

    def child(self, directory: DirectoryNode, name: bytes) -> tuple[Node, os.stat_result]:
        """Node and state of ``name``; the node may be new and without references. Raises ENOENT."""
        index = directory.index
        if index is None or not self._sealed:
            index = self.index(directory)
        code = index.codes.get(name, 0)
        if not SHOWN[code & CODE_KIND]:
            refuse(errno.ENAMETOOLONG if len(name) > _NAME_BYTES else errno.ENOENT, name)
        known = directory.children.get(name)
        if known is not None and (self._sealed or self._still(known, directory, code)):
            return known, self.stat(known)
        branch = self.branches[code >> CODE_SHIFT]
        path = directory.prefix + name
        fd, rest = branch.at(path)
        status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
        if self._stable:
            self._recall(branch, path, status)
        if status.st_mode & _TYPE == _DIRECTORY:
            positions, floor = self.extent(directory, name)
            branches = tuple([self.branches[position] for position in positions])
            return self.table.add_directory(directory, name, branches, floor), status
        if not status.st_size and whiteout.is_whiteout(branch, path, status):
            self.refresh(directory, name)
            return self.child(directory, name)
        if status.st_nlink > 1:
            return self._linked(directory, name, branch, status)
        return self.table.add_file(directory, name, branch), status

    def _still(self, known: Node, directory: DirectoryNode, code: int) -> bool:
        """Whether a node is still what the freshly loaded index says; if not, it has lost the name."""
        kind = Kind.DIRECTORY if isinstance(known, DirectoryNode) else Kind.FILE
        if kind == code & CODE_KIND and (kind is Kind.DIRECTORY or known.branch.position == code >> CODE_SHIFT):
            return True
        if isinstance(known, FileNode) and kind == code & CODE_KIND and self._uncopied(known, code):
            return True
        if kind is Kind.FILE and code & CODE_KIND == Kind.FILE and known.parent is directory:
            known.branch = self.branches[code >> CODE_SHIFT]
            return True
        self.detach(known, directory, known.name)
        return False

    @staticmethod
    def _uncopied(node: FileNode, code: int) -> bool:
        """Whether a name with ``code`` may be one of ``node`` that was not copied up, though the file was."""
        return node.branch.position < code >> CODE_SHIFT and (node.extra_links > 0 or node.link is not None)

    def _linked(
        self, directory: DirectoryNode, name: bytes, branch: OpenBranch, status: os.stat_result
    ) -> tuple[FileNode, os.stat_result]:
        """A file with several names has one node for all of them."""
        key = self.identity(status)
        node = self.table.by_link.get(key)
        if node is None or not (
            node.branch is branch or node.extra_links > 0 or node.kept is not None or node.link is not None
        ):
            return self._first_linked(directory, name, branch, status)
        if node.kept is not None:
            self.restore_kept(node, directory, name)
        self.add_name(node, directory, name)
        return node, self.stat(node)

    def _first_linked(
        self, directory: DirectoryNode, name: bytes, branch: OpenBranch, status: os.stat_result
    ) -> tuple[FileNode, os.stat_result]:
        """As ``_linked``, where no node is known by this instance; one may be by its copy."""
        key = self.identity(status)
        link = None
        if self._stable:
            link = find_link(self.branches[: branch.position], branch, status)
            if link is not None:
                status = os.stat(link.path, dir_fd=link.branch.fd, follow_symlinks=False)
                known = self.table.by_link.get(self.identity(status))
                if known is not None and known.link is not None and known.branch is link.branch:
                    self.table.know_link(known, key)
                    self.add_name(known, directory, name)
                    return known, self.stat(known)
                self._recall(link.branch, link.path, status)
            else:
                link = read_link(branch, directory.prefix + name, status)
        node = self.table.add_file(directory, name, branch if link is None else link.branch)
        if link is not None:
            node.link, node.extra_links = link, link.left
            self.table.know_link(node, self.identity(status))
        self.table.know_link(node, key)
        return node, status

    def add_name(self, node: FileNode, directory: DirectoryNode, name: bytes) -> None:
        """``node`` is known by one more name."""
        if node.parent is None:
            node.parent, node.name = directory, name
            if node.ghost is not None:
                os.close(node.ghost)
                node.ghost = None
        elif (node.parent, node.name) != (directory, name):
            if node.aliases is None:
                node.aliases = set()
            node.aliases.add((directory, name))
        directory.children[name] = node

    def detach(self, node: Node, directory: DirectoryNode, name: bytes) -> None:
        """``name`` leads no longer to ``node``, which lives on for those who hold it."""
        if directory.children.get(name) is node:
            del directory.children[name]
        if isinstance(node, FileNode):
            if node.aliases:
                node.aliases.discard((directory, name))
            if node.parent is directory and node.name == name:
                node.parent = None
                if node.aliases:
                    node.parent, node.name = node.aliases.pop()
        else:
            node.parent = None
            node.index = Index({}, {})
        self.table.release(node)
        self.table.release(directory)

    # -- the index follows -------------------------------------------------------------------------------------
    def refresh(self, directory: DirectoryNode, name: bytes) -> Resolution:
        """The index says about ``name`` what the branches say now."""
        resolution = resolve(tuple(listing.probe(directory.branches, directory.prefix, name)), directory.floor)
        self.index(directory).set(name, resolution)
        self.touched(directory)
        return resolution

    def hidden(self, directory: DirectoryNode, name: bytes, position: int) -> None:
        """The index says that the whiteout of ``name`` at ``position`` is the first claim on it; more are below."""
        resolution = Resolution(Kind.WHITEOUT, floor=directory.floor, shadows=True, whiteout=position)
        self.index(directory).set(name, resolution)
        self.touched(directory)

    def enter(self, directory: DirectoryNode, name: bytes, position: int, kind: Kind, floor: int | None = None) -> None:
        """The index says that ``name`` is now an instance of ``kind`` at ``position``; what it said before is below."""
        index = directory.index
        if index is None:
            return
        old = index.codes.get(name, 0)
        shadows = bool(old and (old & CODE_SHADOWS or old >> CODE_SHIFT != position))
        if kind is Kind.DIRECTORY:
            resolution = Resolution(kind, (position,), directory.floor if floor is None else floor, shadows)
            index.set(name, resolution)
        else:
            index.directories -= index.kind(name) == Kind.DIRECTORY
            index.extents.pop(name, None)
            index.codes[name] = encode(position, kind, shadows=shadows)
        self.touched(directory)

    def touched(self, directory: DirectoryNode) -> None:
        """``directory`` was changed through the union: its index is right, open listings are not."""
        directory.version += 1
        if not self._sealed and directory.parent is not None:
            directory.fingerprint = self._fingerprint(directory)

    def reload(self, top: DirectoryNode, *, keep_handles: bool) -> None:
        """All that is known of ``top`` and below is what the branches say now; directories keep their numbers.

        A file that lies on another branch now is the same file (``keep_handles``: it keeps its number, and its handles
        read from there), or another one, and then it gets a new node when it is looked up.
        """
        pending = [top]
        while pending:
            directory = pending.pop()
            directory.index = None
            self._reopen(directory)
            index = self.index(directory)
            for name, child in tuple(directory.children.items()):
                code = index.codes.get(name, 0)
                if isinstance(child, DirectoryNode):
                    if code & CODE_KIND == Kind.DIRECTORY:
                        pending.append(child)
                        continue
                elif code & CODE_KIND == Kind.FILE:
                    branch = self.branches[code >> CODE_SHIFT]
                    if child.branch is branch or keep_handles:
                        self._rebase(child, directory, name, branch)
                        continue
                self.detach(child, directory, name)

    def _rebase(self, node: FileNode, directory: DirectoryNode, name: bytes, branch: OpenBranch) -> None:
        """``node`` lies on ``branch`` now; its open handles read from there unless the kernel does it by itself."""
        if node.branch is branch or node.parent is not directory or node.name != name:
            return
        link = None if node.link is None else read_again(node.link)
        if link is not None and link.branch.position < branch.position:
            node.link, node.extra_links = link, link.left
            return
        node.link = None
        node.branch = branch
        node.extra_links = 0
        if node.file is not None and not node.file.passes:
            fd, rest = branch.at(node.path)
            access = os.O_RDWR if branch.writable else os.O_RDONLY
            opened = os.open(rest, access | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=fd)
            os.dup2(opened, node.file.fd, inheritable=False)
            os.close(opened)
            node.file.writable = branch.writable
            node.file.bare = False

    # -- attributes --------------------------------------------------------------------------------------------
    def stat(self, node: Node) -> os.stat_result:
        """State of the instance shown, from its branch. Raises ESTALE for a removed one of which nothing is left."""
        if isinstance(node, FileNode) and node.file is not None:
            return os.fstat(node.file.fd)
        if node.parent is None and node is not self.root:
            if node.ghost is None:
                refuse(errno.ESTALE)
            return os.fstat(node.ghost)
        fd, rest = node.branch.at(node.path)
        return os.stat(rest, dir_fd=fd, follow_symlinks=False)

    def identity(self, status: os.stat_result) -> int:
        """A number for the instance that no other file of the branches has while this one lives."""
        number = status.st_ino
        device = self._devices.get(status.st_dev)
        if device is None:
            device = self._devices[status.st_dev] = len(self._devices) << _DEVICE_SHIFT
        if number >> _DEVICE_SHIFT and self._stable:
            return origins.large_number(device >> _DEVICE_SHIFT, number)
        if number >> _DEVICE_SHIFT:
            key = (status.st_dev, number)
            return self._large.setdefault(key, (1 << 63) + len(self._large))
        return number | device

    def lose_instance(self, node: Node, status: os.stat_result) -> None:
        """The name of ``node``'s instance was removed when it was in the state ``status``."""
        if isinstance(node, FileNode) and (status.st_nlink > 1 or node.kept is not None or node.link is not None):
            return
        if self.origins or self._asked:
            key = self.identity(status)
            self._asked.discard(key)
            self.table.lose_instance(node, key)

    def shown_ino(self, status: os.stat_result) -> int:
        """The inode number ``stat(2)`` shows for the instance."""
        number = self.identity(status)
        return self.origins.get(number, number) if self.origins else number

    def _recall(self, branch: OpenBranch, path: bytes, status: os.stat_result) -> None:
        """It is known which number the instance says to show."""
        number = self.identity(status)
        self._asked.add(number)
        shown = origins.read_origin(branch.proc_path(path), status.st_ino)
        if shown is not None:
            self.origins[number] = shown

    def attr(self, node: Node, status: os.stat_result) -> Attr:
        """Attributes of ``node``, whose shown instance is in the state ``status``."""
        nlink = self.links(node, status) if isinstance(node, FileNode) else self._directory_nlink(node, status)
        shown = self.identity(status)
        if self._stable and shown not in self._asked and (node.parent is not None or node is self.root):
            self._recall(node.branch, node.path, status)
        if self.origins:
            shown = self.origins.get(shown, shown)
        # the constructor by fields costs twice as much
        return Attr._make((
            node.ino,
            shown,
            status.st_mode,
            nlink,
            status.st_uid,
            status.st_gid,
            status.st_rdev,
            status.st_size,
            status.st_blocks,
            status.st_blksize,
            status.st_atime_ns,
            status.st_mtime_ns,
            status.st_ctime_ns,
        ))  # fmt: skip

    @staticmethod
    def links(node: FileNode, status: os.stat_result) -> int:
        """The number of names of the file, whose shown instance is in the state ``status``."""
        return status.st_nlink + node.extra_links - (node.link is not None)

    def _directory_nlink(self, node: DirectoryNode, status: os.stat_result) -> int:
        """Two and the number of directories in it, as plain filesystems have it.

        A directory that says it holds none, and lies in one branch, need not be read.
        """
        if node.parent is None and node is not self.root:
            return 0
        if status.st_nlink == _EMPTY_NLINK and len(node.branches) == 1:
            return _EMPTY_NLINK
        return 2 + self.index(node).directories

    def node_attr(self, node: Node) -> Attr:
        """Attributes of ``node`` as they are now."""
        return self.attr(node, self.stat(node))

    def keep_ghost(self, node: Node) -> None:
        """``node``, which is about to lose its last name, can be asked for its attributes afterwards."""
        if node.ghost is None and node.lookups and not (isinstance(node, FileNode) and node.file is not None):
            fd, rest = node.branch.at(node.path)
            # without a descriptor to spare the node answers ESTALE, and the removal goes on
            with contextlib.suppress(OSError):
                node.ghost = os.open(rest, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)

"""A layer on its way into its tar, without a branch: what COPY adds, as values that name the files to be read.

A branch of its own costs a file system many times what reading costs, and the last layer of an image is rarely looked
at. So where nothing stands on a COPY, what it adds is noted here and packed from where it lies; who needs the layer as
a directory later unpacks it (``Session.ensure_unpacked``).

Invariants: the same calls as on an ``Upper`` give the same layer, up to times of directories that a name is added to;
nothing is written; memory grows with the number of files, and beyond `MOST_ENTRIES` it is refused.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from builder import paths
from builder.rootfs import RootFs
from builder.trail import Attributes, attributes_below, check_name, not_a_directory, refuse_mark
from unionfs.delta import KINDS, ChangeKind
from unionfs.namedtuple import NamedTuple
from unionfs.whiteout import is_own_xattr

if TYPE_CHECKING:
    from cache.contenthash import TreeEntry

MOST_ENTRIES = 200_000
"""About 200 MB; a larger layer is written to a branch, whose memory does not grow."""


class TooManyEntriesError(Exception):
    """The layer is to be made by way of a branch."""


class _Status(NamedTuple):
    """Of ``os.stat_result`` what a tar wants to know."""

    st_mode: int
    st_uid: int
    st_gid: int
    st_mtime_ns: int
    st_size: int = 0
    st_rdev: int = 0
    st_nlink: int = 1
    st_dev: int = 0
    st_ino: int = 0


class _Node:
    """One file of the layer, with so many ``names``; ``entry`` is read when the tar is written.

    ``merged``: a directory lies below; ``kept``: and it has the metadata of that; ``changed``: but for its time.
    """

    __slots__ = ("attributes", "changed", "content", "entry", "kept", "kind", "merged", "names", "rdev")

    def __init__(self, kind: int, attributes: Attributes) -> None:
        self.kind = kind
        self.attributes = attributes
        self.entry: TreeEntry | None = None
        self.content = b""
        self.rdev = 0
        self.names = 1
        self.merged = self.kept = self.changed = False


class Draft:
    """The layer above ``view`` (None: there is nothing below). Paths are canonical (``RootFs.resolve``).

    ``unreadable`` makes the exception for a file that can't be read.
    """

    def __init__(self, view: RootFs | None, unreadable: Callable[[OSError], Exception]) -> None:
        self._view = view
        self._unreadable = unreadable
        self._nodes: dict[bytes, _Node] = {}
        self._last: bytes | None = None
        self._below: dict[bytes, dict[bytes, int]] = {}

    def mode_at(self, path: bytes) -> int | None:
        """As ``Upper.mode_at``."""
        node = self._nodes.get(path)
        if node is not None:
            return node.kind | node.attributes.mode
        if not path:
            return stat.S_IFDIR | 0o755
        parent = path
        while parent:
            parent = parent.rpartition(b"/")[0]
            above = self._nodes.get(parent)
            if above is not None and above.kind != stat.S_IFDIR:
                return None
        found = None if self._view is None else self._view.lstat(path)
        return None if found is None else found.mode

    def directory(self, path: bytes, attributes: Attributes) -> None:
        """As ``Upper.directory``."""
        self._enter(path, attributes)

    def put_directory(self, path: bytes, attributes: Attributes) -> None:
        """As ``Upper.put_directory``."""
        node = self._enter(path, attributes)
        if node is not None:
            node.attributes = attributes
            node.kept = False

    def date_directory(self, path: bytes, times_ns: tuple[int, int]) -> None:
        """As ``Upper.date_directory``."""
        node = self._enter(path, None)
        if node is not None:
            node.attributes = node.attributes._replace(times_ns=times_ns)
            node.kept = False

    def copy_file(
        self, path: bytes, entry: TreeEntry, attributes: Callable[[int | None], Attributes], check: Callable[[], None]
    ) -> None:
        """As ``Upper.copy_file``; ``entry`` is read when the tar is written."""
        del check
        node = self._put(path, stat.S_IFREG, attributes(None))
        node.entry = entry

    def put_content(self, path: bytes, content: bytes, attributes: Attributes) -> None:
        """As ``Upper.put_content``."""
        self._put(path, stat.S_IFREG, attributes).content = content

    def put_symlink(self, path: bytes, target: bytes, attributes: Attributes) -> None:
        """As ``Upper.put_symlink``."""
        self._put(path, stat.S_IFLNK, attributes._replace(mode=0o777)).content = target

    def put_node(self, path: bytes, kind: int, rdev: int, attributes: Attributes) -> None:
        """As ``Upper.put_node``."""
        refuse_mark(path, kind, rdev)
        self._put(path, kind, attributes).rdev = rdev

    def put_link(self, path: bytes, existing: bytes) -> None:
        """As ``Upper.put_link``."""
        node = self._nodes.get(existing)
        if node is None or node.kind == stat.S_IFDIR:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), paths.shown(existing))
        self._put(path, node.kind, node.attributes)
        self._nodes[path] = node
        node.names += 1

    def changes(self, check: Callable[[], None] = lambda: None) -> Iterator[DraftedChange]:
        """The layer in the order of a tar: parents first, names in the order of their bytes.

        ``check`` is called for every entry and ends the work by raising.
        """
        now_ns = time.time_ns()
        numbers: dict[int, int] = {}
        for path in sorted(self._nodes, key=lambda path: path.replace(b"/", b"\0")):
            check()
            node = self._nodes[path]
            number = numbers.setdefault(id(node), len(numbers)) if node.names > 1 else 0
            yield DraftedChange(path, node, self._status(node, number, now_ns), self._unreadable)

    @staticmethod
    def _status(node: _Node, number: int, now_ns: int) -> _Status:
        attributes = node.attributes
        times_ns = None if node.kept and node.changed else attributes.times_ns
        size = len(node.content) if node.kind == stat.S_IFREG else 0
        return _Status(
            st_mode=node.kind | attributes.mode,
            st_uid=attributes.uid,
            st_gid=attributes.gid,
            st_mtime_ns=now_ns if times_ns is None else times_ns[1],
            st_size=size if node.entry is None else node.entry.size,
            st_rdev=node.rdev,
            st_nlink=node.names,
            st_ino=number,
        )

    def _put(self, path: bytes, kind: int, attributes: Attributes) -> _Node:
        """The new node at ``path``, whose parent is there."""
        parent, _, name = path.rpartition(b"/")
        if parent != self._last:
            self._enter(parent, None)
            self._last = parent
        check_name(path)
        before = self._nodes.get(path)
        if stat.S_ISDIR(self._mode_below(parent, name)) or (before is not None and before.kind == stat.S_IFDIR):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), paths.shown(path))
        if before is not None:
            before.names -= 1
        above = self._nodes.get(parent)
        if above is not None:
            above.changed = True
        return self._add(path, _Node(kind, attributes))

    def _add(self, path: bytes, node: _Node) -> _Node:
        if len(self._nodes) >= MOST_ENTRIES:
            raise TooManyEntriesError
        self._nodes[path] = node
        return node

    def _enter(self, path: bytes, missing: Attributes | None) -> _Node | None:
        """The directory at ``path``, None for the root; see ``Trail.enter``."""
        node = self._nodes.get(path)
        if not path or (node is not None and node.kind == stat.S_IFDIR):
            return node
        parent, _, name = path.rpartition(b"/")
        above = self._enter(parent, missing)
        check_name(path)
        below = self._mode_below(parent, name) if node is None else 0
        if node is not None or (below and not stat.S_ISDIR(below)):
            raise not_a_directory(path)
        if below:
            made = _Node(stat.S_IFDIR, attributes_below(self._view, path))
            made.merged = made.kept = True
            return self._add(path, made)
        if missing is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), paths.shown(path))
        if above is not None:
            above.changed = True
        return self._add(path, _Node(stat.S_IFDIR, missing))

    def _mode_below(self, directory: bytes, name: bytes) -> int:
        """``st_mode`` of ``name`` below ``directory``, 0 when nothing is there."""
        if self._view is None:
            return 0
        listing = self._below.get(directory)
        if listing is None:
            node = self._nodes.get(directory)
            shows = not directory or (node is not None and node.merged)
            listing = self._below[directory] = self._view.modes(directory) if shows else {}
        return listing.get(name, 0)


class DraftedChange:
    """One entry of the layer (``unionfs.tar.stream.Packable``)."""

    __slots__ = ("_node", "_unreadable", "path", "stat")

    def __init__(self, path: bytes, node: _Node, status: _Status, unreadable: Callable[[OSError], Exception]) -> None:
        self.path = path
        self.stat = status
        self._node = node
        self._unreadable = unreadable

    @property
    def kind(self) -> ChangeKind:
        """What it is."""
        return ChangeKind.DIRECTORY if self.is_directory else KINDS[self._node.kind]

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self._node.kind == stat.S_IFDIR

    def open(self) -> int:
        """A descriptor of the content, for reading; the caller closes it."""
        entry = self._node.entry
        if entry is None:
            descriptor = os.memfd_create("content", os.MFD_CLOEXEC)
            os.write(descriptor, self._node.content)
            os.lseek(descriptor, 0, os.SEEK_SET)
            return descriptor
        try:
            return entry.open()
        except OSError as error:
            raise self._unreadable(error) from error

    def link_target(self) -> bytes:
        """Target of the symbolic link."""
        return self._node.content

    def xattrs(self) -> Mapping[str, bytes]:
        """Extended attributes by name, sorted; marks of unions are left out."""
        xattrs = self._node.attributes.xattrs
        return {os.fsdecode(name): value for name, value in xattrs if not is_own_xattr(name)} if xattrs else {}

"""What was done to raise a directory is taken back: after a failure, or by the next union after a kill.

::

    every directory that was made opaque, from the top down   merges again, where that changes nothing that is shown
    every copy, from the last one back                        goes, where the same shows again from below

Each step leaves what is shown as it is, so taking back may be killed too and begins anew at the next mount. What was
changed in the branch meanwhile stays: a copy goes only while it is the file the journal speaks of, in the same state,
with the content of what it hides; a directory merges again only while each name below it is claimed in it; a file goes
with all its names or with none.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Generator

from unionfs import listing, whiteout
from unionfs.branch import OpenBranch
from unionfs.inodes import DirectoryNode
from unionfs.journal import Deed, Fingerprint, Journal, take_fingerprint
from unionfs.links import change_link, read_link
from unionfs.resolve import Kind, resolve
from unionfs.tree import Tree

_CHUNK_BYTES = 1 << 20
_NAME_AND_LINK = 2


def recover(tree: Tree) -> None:
    """What unions that were killed had begun on the branches of ``tree`` is taken back; what must stay is logged."""
    for branch in tree.branches:
        names, branch.journals = branch.journals if branch.writable else (), ()
        for name in names:
            journal = Journal(branch, name)
            changed = _Takeback(tree, journal, trusted=False).run()
            journal.discard()
            for path in changed:
                where = f"branch {os.fsdecode(branch.branch.path)!r}: {os.fsdecode(path)!r}"
                tree.log(f"{where} was copied for a rename and changed since, it stays")


def take_back(tree: Tree, journal: Journal) -> None:
    """What the journal of this union says was done is taken back; what cannot be is left to the next mount, logged."""
    left = _Takeback(tree, journal, trusted=True).run()
    if not left:
        journal.discard()
        return
    journal.close()
    for path in left:
        tree.log(f"{os.fsdecode(path)!r} cannot be taken back after a failed rename, the next mount will")


class _Takeback:
    """Takes back one journal. ``trusted``: nobody can have changed anything since."""

    def __init__(self, tree: Tree, journal: Journal, *, trusted: bool) -> None:
        self._tree = tree
        self._journal = journal
        self._branch = journal.branch
        self._trusted = trusted
        self._left: list[bytes] = []

    def run(self) -> list[bytes]:
        """All is done; the paths that stay."""
        tree = self._tree
        tree.reload(tree.root, keep_handles=True)
        names: Counter[int] = Counter()
        for deed, path, fingerprint in self._journal:
            if deed is Deed.OPAQUE:
                with self._noting(path):
                    self._merge(path)
            elif fingerprint is not None:
                names[fingerprint.number] += self._links(path, fingerprint) > 1
        for _, path, fingerprint in self._journal:
            if fingerprint is not None:
                with self._noting(path):
                    self._withdraw(path, fingerprint, names[fingerprint.number])
        tree.reload(tree.root, keep_handles=True)
        for node in tree.table.values():
            tree.table.release(node)
        return self._left

    @contextlib.contextmanager
    def _noting(self, path: bytes) -> Generator[None, None, None]:
        """What cannot be taken back stays, and the rest goes on."""
        try:
            yield
        except OSError:
            self._left.append(path)

    def _node(self, path: bytes) -> DirectoryNode | None:
        """The directory that is shown at ``path``, if one is and the branch is its top."""
        node = self._tree.root
        for name in path.split(b"/") if path else ():
            below = self._tree.find(node, name)
            if not isinstance(below, DirectoryNode):
                return None
            node = below
        self._tree.index(node)
        return node if node.branch is self._branch else None

    # -- directories that were made opaque ----------------------------------------------------------------------
    def _merge(self, path: bytes) -> None:
        """The directory merges with those below it again."""
        node = self._node(path)
        if node is None or node.parent is None or not whiteout.is_opaque(self._branch, path):
            return
        below = self._below(self._tree.extent(node.parent, node.name).positions)
        shown = listing.load(below, path, node.parent.floor).contents.shown() if below else []
        claimed = self._tree.index(node).codes
        if not (below or self._trusted) or not all(claimed.get(name) for name in shown):
            self._left.append(path)
            return
        with self._branch.times_kept(path):
            whiteout.remove_opaque(self._branch, path)
        self._tree.reload(node, keep_handles=True)

    def _below(self, positions: tuple[int, ...]) -> tuple[OpenBranch, ...]:
        return tuple(self._tree.branches[position] for position in positions if position > self._branch.position)

    # -- copies -------------------------------------------------------------------------------------------------
    def _links(self, path: bytes, fingerprint: Fingerprint) -> int:
        """The number of names of the copy that is at ``path``, 0 when it is not."""
        fd, rest = self._branch.at(path)
        try:
            status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
        except OSError:
            return 0
        return status.st_nlink if status.st_ino == fingerprint.number and not stat.S_ISDIR(status.st_mode) else 0

    def _withdraw(self, path: bytes, fingerprint: Fingerprint, names: int) -> None:
        """The copy at ``path``, a file known to have that many ``names`` or one, is gone; the same shows from below."""
        fd, rest = self._branch.at(path)
        try:
            status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return
        if status.st_ino != fingerprint.number:
            return
        is_directory = stat.S_ISDIR(status.st_mode)
        link = None if is_directory else read_link(self._branch, path, status)
        below = self._shown_below(path, status)
        known = is_directory or status.st_nlink <= max(1, names) + (link is not None)
        if below is None or not known or not (self._trusted or self._unchanged(path, fingerprint, below)):
            self._left.append(path)
            return
        # with the last name goes the entry in the index, if it holds nothing but what shows from below
        useless = link is not None and status.st_nlink == _NAME_AND_LINK and _same_content(self._branch, below, path)
        with self._branch.times_kept(path.rpartition(b"/")[0]):
            fd, rest = self._branch.at(path)
            (os.rmdir if is_directory else os.unlink)(rest, dir_fd=fd)
        if link is not None:
            change_link(link, 0 if useless else link.left + 1)

    def _shown_below(self, path: bytes, status: os.stat_result) -> OpenBranch | None:
        """The branch from which something of the same type shows at ``path`` once the copy is gone."""
        parent_path, _, name = path.rpartition(b"/")
        parent = self._node(parent_path)
        if parent is None:
            return None
        below = self._below(tuple(branch.position for branch in parent.branches))
        shown = resolve(tuple(listing.probe(below, parent.prefix, name)), parent.floor)
        if shown.kind is not (Kind.DIRECTORY if stat.S_ISDIR(status.st_mode) else Kind.FILE):
            return None
        if shown.kind is Kind.DIRECTORY and os.listdir(self._branch.proc_path(path)):
            return None
        return self._tree.branches[shown.positions[0]]

    def _unchanged(self, path: bytes, fingerprint: Fingerprint, below: OpenBranch) -> bool:
        """Whether the copy at ``path`` is as it was made."""
        now = take_fingerprint(*self._branch.at(path))
        return now == fingerprint and _same_content(self._branch, below, path)


def _same_content(branch: OpenBranch, other: OpenBranch, path: bytes) -> bool:
    fd, rest = branch.at(path)
    status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        other_fd, other_rest = other.at(path)
        return os.readlink(rest, dir_fd=fd) == os.readlink(other_rest, dir_fd=other_fd)
    if not stat.S_ISREG(status.st_mode):
        return True
    with _reading(branch, path) as one, _reading(other, path) as two:
        if os.fstat(one).st_size != os.fstat(two).st_size:
            return False
        while chunk := os.read(one, _CHUNK_BYTES):
            if os.read(two, _CHUNK_BYTES) != chunk:
                return False
    return True


@contextlib.contextmanager
def _reading(branch: OpenBranch, path: bytes) -> Generator[int, None, None]:
    """A descriptor of the regular file that reads it."""
    fd, rest = branch.at(path)
    opened = os.open(rest, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    try:
        yield opened
    finally:
        os.close(opened)

"""The change stream of one branch: what it adds to the branches below it.

This is what ``layers.pack``, ``diff`` and ``snapmerge`` read. Invariants: a parent comes before what is in it; within
a directory whiteouts come first, then the entries in the order of their bytes, each followed by all that is in it;
every path comes once; the union's own marks and its directory of temporary things are never entries. What a whiteout in
the same branch hides is not reported (``whiteout``: a mark hides in its own branch too). Nothing is kept of what was
yielded, so memory grows with the largest directory and the depth, not with the tree.
"""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from unionfs import whiteout
from unionfs.branch import Branch, OpenBranch
from unionfs.types import Access


class ChangeKind(enum.Enum):
    """What one change says about its path."""

    DIRECTORY = "directory"
    OPAQUE_DIRECTORY = "opaque directory"
    FILE = "file"
    SYMLINK = "symlink"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    FIFO = "fifo"
    SOCKET = "socket"
    WHITEOUT = "whiteout"


KINDS = {
    stat.S_IFREG: ChangeKind.FILE,
    stat.S_IFLNK: ChangeKind.SYMLINK,
    stat.S_IFCHR: ChangeKind.CHARACTER_DEVICE,
    stat.S_IFBLK: ChangeKind.BLOCK_DEVICE,
    stat.S_IFIFO: ChangeKind.FIFO,
    stat.S_IFSOCK: ChangeKind.SOCKET,
}
"""By type of file; a directory may be opaque or not."""


class Change:
    """One entry of a branch.

    ``path`` is relative to the branch, ``b""`` for its root; for a whiteout it is the hidden name, never that of the
    mark. ``stat`` is of the entry itself, of the mark for a whiteout. The methods read from the branch when called,
    while the iteration that yielded the change is still open.
    """

    __slots__ = ("_branch", "kind", "path", "stat")

    def __init__(self, branch: OpenBranch, path: bytes, kind: ChangeKind, status: os.stat_result) -> None:
        self._branch = branch
        self.path = path
        self.kind = kind
        self.stat = status

    def __repr__(self) -> str:
        return f"Change({self.path!r}, {self.kind.value})"

    @property
    def is_directory(self) -> bool:
        """Whether the entry is a directory, opaque or not."""
        return self.kind in {ChangeKind.DIRECTORY, ChangeKind.OPAQUE_DIRECTORY}

    def as_whiteout(self) -> Change:
        """The change that the entry is gone."""
        return Change(self._branch, self.path, ChangeKind.WHITEOUT, self.stat)

    def open(self) -> int:
        """A descriptor of the regular file, for reading; the caller closes it."""
        fd, rest = self._branch.at(self.path)
        return os.open(rest, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=fd)

    def link_target(self) -> bytes:
        """Target of the symbolic link."""
        fd, rest = self._branch.at(self.path)
        return os.readlink(rest, dir_fd=fd)

    def xattrs(self) -> dict[str, bytes]:
        """Extended attributes by name, sorted; marks of unions are left out, a whiteout has none."""
        if self.kind is ChangeKind.WHITEOUT:
            return {}
        host_path = self._branch.proc_path(self.path)
        names = sorted(
            name
            for name in os.listxattr(host_path, follow_symlinks=False)
            if not whiteout.is_own_xattr(os.fsencode(name))
        )
        return {name: os.getxattr(host_path, name, follow_symlinks=False) for name in names}


def iter_changes(branch_root: Path) -> Iterator[Change]:
    """Every change of the branch at ``branch_root``, its root first.

    The iterator holds a descriptor until it ends or is closed. Nothing is written to the branch.

    Raises:
        BranchMissingError: ``branch_root`` is no directory.
        OSError: the branch cannot be read.
    """
    branch = OpenBranch(Branch(os.fsencode(branch_root), Access.RO), 0)
    try:
        yield _directory(branch, b"", os.fstat(branch.fd))
        # one frame a level: the changes of a directory that are still to come
        pending = [iter(_read(branch, b""))]
        while pending:
            change = next(pending[-1], None)
            if change is None:
                pending.pop()
                continue
            yield change
            if change.is_directory:
                pending.append(iter(_read(branch, change.path)))
    finally:
        branch.close()


def _directory(branch: OpenBranch, path: bytes, status: os.stat_result) -> Change:
    opaque = whiteout.is_opaque(branch, path)
    return Change(branch, path, ChangeKind.OPAQUE_DIRECTORY if opaque else ChangeKind.DIRECTORY, status)


def _read(branch: OpenBranch, path: bytes) -> Iterator[Change]:
    """Changes directly in the directory ``path``, in order."""
    prefix = path + b"/" if path else b""
    with os.scandir(branch.proc_path(path)) as entries:
        directories = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    hidden: dict[bytes, bytes] = {}
    for name, is_directory in directories.items():
        if whiteout.is_reserved(name):
            target = whiteout.hidden_name(name, at_root=not path, is_directory=is_directory)
            if target is not None:
                hidden[target] = name
    found: list[Change] = []
    for name in sorted(directories):
        if whiteout.is_reserved(name) or name in hidden:
            continue
        fd, rest = branch.at(prefix + name)
        status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
        if whiteout.is_whiteout(branch, prefix + name, status):
            hidden[name] = name
        else:
            found.append(_entry(branch, prefix + name, status))
    for name in sorted(hidden):
        fd, rest = branch.at(prefix + hidden[name])
        status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
        yield Change(branch, prefix + name, ChangeKind.WHITEOUT, status)
    yield from found


def _entry(branch: OpenBranch, path: bytes, status: os.stat_result) -> Change:
    if stat.S_ISDIR(status.st_mode):
        return _directory(branch, path, status)
    return Change(branch, path, KINDS[stat.S_IFMT(status.st_mode)], status)

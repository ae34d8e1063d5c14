"""What differs between two states of a union, each given by its branches.

Both are merged by the rules of ``resolve`` and walked side by side; a directory that is made of the same branch
directories in both is not read. Invariants: names come in the order of their bytes, a directory before what is in it;
a directory that is gone comes alone, one that is new comes with all in it.
"""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from unionfs import listing, whiteout
from unionfs.branch import Branch, OpenBranch, open_branches
from unionfs.delta import KINDS, Change, ChangeKind
from unionfs.namedtuple import NamedTuple
from unionfs.resolve import CODE_KIND, CODE_SHIFT, SHOWN, Extent
from unionfs.tar.stream import TarStream, Write
from unionfs.types import Access

_CHUNK = 1 << 20


class Mark(enum.Enum):
    """What became of a name."""

    ADDED = "A"
    MODIFIED = "M"
    DELETED = "D"
    ENTERED = "="
    """A directory that is itself the same and may hold differences."""


class Difference(NamedTuple):
    """One name that differs; ``old`` and ``new`` are what it was and is, read while the iteration is open."""

    mark: Mark
    path: bytes
    old: Change | None
    new: Change | None


class _Entry(NamedTuple):
    """What a state shows under a name; ``extent`` of a directory."""

    change: Change
    extent: Extent


class State:
    """What a union of branches shows, read without mounting it. The caller closes it."""

    def __init__(self, branches: Sequence[Branch]) -> None:
        """Raises BranchMissingError."""
        self.branches = open_branches(tuple(Branch(branch.path, Access.RO) for branch in branches))

    def close(self) -> None:
        """The branches are closed."""
        for branch in self.branches:
            branch.close()

    def root(self) -> _Entry:
        """The root directory."""
        top = self.branches[0]
        extent = Extent(tuple(range(len(self.branches))), len(self.branches) - 1)
        return _Entry(Change(top, b"", ChangeKind.DIRECTORY, os.fstat(top.fd)), extent)

    def entries(self, path: bytes, extent: Extent) -> dict[bytes, _Entry]:
        """What the directory shows."""
        prefix = path + b"/" if path else b""
        loaded = listing.load([self.branches[position] for position in extent.positions], path, extent.floor)
        found: dict[bytes, _Entry] = {}
        for name, code in loaded.contents.codes.items():
            if SHOWN[code & CODE_KIND]:
                position = code >> CODE_SHIFT
                change = _describe(self.branches[position], prefix + name)
                if change is not None:
                    found[name] = _Entry(change, loaded.contents.extents.get(name) or Extent((position,), loaded.floor))
        return found

    def identities(self, extent: Extent) -> tuple[tuple[int, int], ...]:
        """The branches a directory is made of."""
        return tuple(self.branches[position].identity for position in extent.positions)


def _describe(branch: OpenBranch, path: bytes) -> Change | None:
    """What lies at ``path``; None for a whiteout, and for what went away meanwhile."""
    fd, rest = branch.at(path)
    try:
        status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        return Change(branch, path, ChangeKind.DIRECTORY, status)
    if whiteout.is_whiteout(branch, path, status):
        return None
    return Change(branch, path, KINDS[stat.S_IFMT(status.st_mode)], status)


def compare(old: State, new: State) -> Iterator[Difference]:
    """What differs in ``new``, the root itself left out."""
    pending = [_level(old, new, b"", old.root(), new.root())]
    while pending:
        step = next(pending[-1], None)
        if step is None:
            pending.pop()
            continue
        difference, before, after = step
        yield difference
        if after is not None and after.change.is_directory:
            pending.append(_level(old, new, difference.path, before, after))


_Step = tuple[Difference, _Entry | None, _Entry | None]


def _level(old: State, new: State, path: bytes, before: _Entry | None, after: _Entry) -> Iterator[_Step]:
    """Differences directly in one directory, which is there in ``new``."""
    there = before is not None and before.change.is_directory
    if before is not None and there and old.identities(before.extent) == new.identities(after.extent):
        return
    olds = old.entries(path, before.extent) if before is not None and there else {}
    news = new.entries(path, after.extent)
    prefix = path + b"/" if path else b""
    for name in sorted(olds.keys() | news.keys()):
        was, now = olds.get(name), news.get(name)
        mark = _judge(was, now)
        if mark is not None:
            old_change = None if was is None else was.change
            new_change = None if now is None else now.change
            yield Difference(mark, prefix + name, old_change, new_change), was, now


def _judge(was: _Entry | None, now: _Entry | None) -> Mark | None:
    if was is None:
        return Mark.ADDED
    if now is None:
        return Mark.DELETED
    if differs(was.change, now.change):
        return Mark.MODIFIED
    return Mark.ENTERED if now.change.is_directory else None


def differs(old: Change, new: Change) -> bool:
    """Whether type, owner, mode, attributes, or content differ; of anything but a directory the time too."""
    a, b = old.stat, new.stat
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino):
        return False
    if (a.st_mode, a.st_uid, a.st_gid) != (b.st_mode, b.st_uid, b.st_gid) or old.xattrs() != new.xattrs():
        return True
    if old.is_directory:
        return False
    if (a.st_mtime_ns, a.st_size, a.st_rdev) != (b.st_mtime_ns, b.st_size, b.st_rdev):
        return True
    if old.kind is ChangeKind.SYMLINK:
        return old.link_target() != new.link_target()
    return old.kind is ChangeKind.FILE and not same_content(old, new)


def same_content(old: Change, new: Change) -> bool:
    """Whether two regular files hold the same bytes. Raises OSError."""
    with open(old.open(), "rb", buffering=0) as one, open(new.open(), "rb", buffering=0) as other:
        while True:
            chunk = one.read(_CHUNK)
            if chunk != other.read(_CHUNK):
                return False
            if not chunk:
                return True


def write_tar(differences: Iterable[Difference], write: Write) -> tuple[str, ...]:
    """The differences are written as the tar of a layer upon the old state; what was left out and why.

    Raises:
        TarError: something cannot be read.
    """
    stream = TarStream(write)
    waiting: list[Change] = []
    written: set[bytes] = set()
    for difference in differences:
        while waiting and not difference.path.startswith(waiting[-1].path + b"/"):
            waiting.pop()
        if difference.mark is Mark.ENTERED:
            if difference.new is not None:
                waiting.append(difference.new)
            continue
        for directory in waiting:
            if directory.path not in written:
                # the layer says how the directories are that lead to a difference
                written.add(directory.path)
                stream.add(directory)
        if difference.new is not None:
            stream.add(difference.new)
        elif difference.old is not None:
            stream.add(difference.old.as_whiteout())
    stream.finish()
    return tuple(stream.notes)


def describe(difference: Difference) -> str:
    """One line: the mark, the path, and the types when they differ."""
    old, new = difference.old, difference.new
    line = f"{difference.mark.value} {os.fsdecode(difference.path)}"
    if old is not None and new is not None and old.kind is not new.kind:
        return f"{line} ({old.kind.value} → {new.kind.value})"
    return line


def encode(difference: Difference) -> dict[str, str | None]:
    """The difference as JSON."""
    old, new = difference.old, difference.new
    return {
        "change": difference.mark.value,
        "path": os.fsdecode(difference.path),
        "was": None if old is None else old.kind.value,
        "is": None if new is None else new.kind.value,
    }

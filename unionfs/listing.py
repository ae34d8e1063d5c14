"""What a directory holds: one scan of it in each of its branches, merged into an index.

Invariants: a scan reads a directory once and never looks at its files, except at special ones (a device 0:0 is a
whiteout); empty files with a whiteout xattr are found out when they are first shown (``Tree.child``). What lies below
an opaque directory is not read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from unionfs import whiteout
from unionfs.branch import OpenBranch
from unionfs.namedtuple import NamedTuple
from unionfs.resolve import Index, Kind, Probe, Scan, merge_scans

if TYPE_CHECKING:
    from unionfs.constantscans import ConstantScans

_FILE, _DIRECTORY = Kind.FILE, Kind.DIRECTORY


class Loaded(NamedTuple):
    """The index of a directory, the branches it is really merged from, and its floor."""

    contents: Index
    branches: tuple[OpenBranch, ...]
    floor: int


def load(
    branches: Sequence[OpenBranch],
    path: bytes,
    floor: int,
    lowest_writable: int = -1,
    constant: ConstantScans | None = None,
) -> Loaded:
    """What the directory ``path`` holds, merged from ``branches`` (top first) down to the first opaque one.

    ``lowest_writable`` is the lowest position where an entry could be made: whether the last branch is opaque matters
    to what is made below it, and is not asked for nothing. ``constant`` knows branches that can't be written.
    """
    scans: list[Scan] = []
    for branch in branches:
        last = branch is branches[-1] and branch.position >= min(lowest_writable, floor)
        known = None if branch.writable else constant
        found = scan(branch, path, last=last) if known is None else known.scan(branch, path, last=last)
        scans.append(found)
        if found.opaque:
            return Loaded(merge_scans(scans, branch.position), tuple(branches[: len(scans)]), branch.position)
    return Loaded(merge_scans(scans, floor), tuple(branches), floor)


def scan(branch: OpenBranch, path: bytes, *, last: bool = False) -> Scan:
    """What ``branch`` holds in the directory ``path``; whether the ``last`` branch is opaque by xattr is left out."""
    kinds: dict[bytes, Kind] = {}
    marks: list[os.DirEntry[bytes]] = []
    special: list[os.DirEntry[bytes]] = []
    host_path = branch.proc_path(path)
    with os.scandir(host_path) as entries:
        for entry in entries:
            name = entry.name
            if entry.is_dir(follow_symlinks=False):
                kinds[name] = _DIRECTORY
            else:
                kinds[name] = _FILE
                if not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
                    special.append(entry)
            if name[:4] == b".wh.":
                marks.append(entry)
        hidden = {entry.name for entry in special if _is_device_whiteout(entry)}
        for name in hidden:
            del kinds[name]
        opaque = _read_marks(marks, kinds, hidden, at_root=not path)
    if not opaque:
        opaque = not last and whiteout.carries_opaque_xattr(host_path)
    return Scan(branch.position, kinds, hidden, opaque)


def _is_device_whiteout(entry: os.DirEntry[bytes]) -> bool:
    status = entry.stat(follow_symlinks=False)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _read_marks(
    marks: list[os.DirEntry[bytes]], kinds: dict[bytes, Kind], hidden: set[bytes], *, at_root: bool
) -> bool:
    """The marks are no entries any more, what they hide is hidden; whether one says that the directory is opaque."""
    opaque = False
    for entry in marks:
        del kinds[entry.name]
        if entry.name in whiteout.OPAQUE_NAMES:
            opaque = True
            continue
        target = whiteout.hidden_name(entry.name, at_root=at_root, is_directory=entry.is_dir(follow_symlinks=False))
        if target is not None:
            hidden.add(target)
            kinds.pop(target, None)
    return opaque


def probe(branches: Sequence[OpenBranch], prefix: bytes, name: bytes) -> Iterator[Probe]:
    """What each branch says about ``name`` in the directory with ``prefix``, top first."""
    for branch in branches:
        yield probe_one(branch, prefix, name)


def probe_one(branch: OpenBranch, prefix: bytes, name: bytes) -> Probe:
    """What ``branch`` says about ``name`` in the directory with ``prefix``."""
    if whiteout.has_mark(branch, prefix, name):
        return Probe(branch.position, Kind.WHITEOUT)
    path = prefix + name
    fd, rest = branch.at(path)
    try:
        status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return Probe(branch.position, Kind.ABSENT)
    if stat.S_ISDIR(status.st_mode):
        return Probe(branch.position, Kind.DIRECTORY, whiteout.is_opaque(branch, path))
    if whiteout.is_whiteout(branch, path, status):
        return Probe(branch.position, Kind.WHITEOUT)
    return Probe(branch.position, Kind.FILE)

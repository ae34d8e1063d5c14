"""What branches that nobody changes hold in their directories, for several unions of one process.

The steps of a build stand on the same layers, and each has a union of its own: without this each of them would read
the same directories again.

Invariants: only branches that can't be written and never change (`UnionOptions`) are remembered; the root of each is
kept open as long as it is, so that its number can't become that of another; nobody changes what is given out.
"""

from __future__ import annotations

import os
from collections import OrderedDict

from unionfs.branch import OpenBranch
from unionfs.listing import scan
from unionfs.namedtuple import NamedTuple
from unionfs.resolve import Scan
from unionfs.whiteout import carries_opaque_xattr

_MOST_NAMES = 1 << 16


class _Known(NamedTuple):
    """A scan; ``asked``: whether it is known that an xattr makes the directory opaque, or that none does."""

    scan: Scan
    asked: bool


class _Branch:
    """The directories of one branch that were read, by path."""

    __slots__ = ("directories", "fd", "names")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.directories: dict[bytes, _Known] = {}
        self.names = 0


class ConstantScans:
    """Remembers scans; `close` gives its descriptors back. Not for several threads."""

    def __init__(self, most_names: int = _MOST_NAMES) -> None:
        """Above ``most_names`` the branches that were not asked for the longest are forgotten."""
        self._most_names = most_names
        self._names = 0
        self._branches: OrderedDict[tuple[int, int], _Branch] = OrderedDict()

    def scan(self, branch: OpenBranch, path: bytes, *, last: bool = False) -> Scan:
        """As `unionfs.listing.scan`."""
        kept = self._branches.get(branch.identity)
        if kept is None:
            kept = self._branches[branch.identity] = _Branch(os.dup(branch.fd))
        self._branches.move_to_end(branch.identity)
        known = kept.directories.get(path)
        if known is None:
            known = self._add(kept, path, _Known(scan(branch, path, last=last), asked=not last))
        elif not (known.asked or last or known.scan.opaque):
            opaque = carries_opaque_xattr(branch.proc_path(path))
            known = kept.directories[path] = _Known(known.scan._replace(opaque=opaque), asked=True)
        found = known.scan
        return found if found.position == branch.position else found._replace(position=branch.position)

    def close(self) -> None:
        """Nothing is remembered."""
        while self._branches:
            self._forget()

    def _add(self, kept: _Branch, path: bytes, known: _Known) -> _Known:
        count = len(known.scan.kinds) + len(known.scan.hidden) + 1
        if kept.names + count > self._most_names:
            return known
        kept.directories[path] = known
        kept.names += count
        self._names += count
        while self._names > self._most_names:
            self._forget()
        return known

    def _forget(self) -> None:
        _, kept = self._branches.popitem(last=False)
        self._names -= kept.names
        os.close(kept.fd)

"""Which file of which branch a file of a merged root is, so that what was read of it once is known again.

Invariant: the answer for a regular file that the merged view shows at a path is the file that is read there, or None.
It needs no look at whiteouts: whatever hides the name in a branch hides it in all branches below as well, so the file
that shows is the topmost one there is under its name. Paths have no links in them (``RootFs.resolve``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from cache.contenthash import FileState
from unionfs.types import Attr


class Backing:
    """The directories ``branches``, top first. Asks each directory once while paths come in the order of a walk."""

    def __init__(self, branches: Sequence[Path]) -> None:
        self._branches = tuple(map(os.fsencode, branches))
        self._last: tuple[bytes | None, tuple[bytes, ...]] = (None, ())

    def state(self, location: bytes, attr: Attr) -> FileState | None:
        """Identity and last change of the regular file at ``location``, whose merged attributes are ``attr``."""
        directory, _, name = location.rpartition(b"/")
        last, places = self._last
        if directory != last:
            every = [b"%s/%s" % (branch, directory) if directory else branch for branch in self._branches]
            places = tuple(place for place in every if _is_directory(place))
            # one assignment: several threads may be here
            self._last = (directory, places)
        for place in places:
            try:
                found = os.lstat(b"%s/%s" % (place, name))
            except OSError:
                continue
            if not stat.S_ISREG(found.st_mode) or (found.st_size, found.st_mtime_ns) != (attr.size, attr.mtime_ns):
                return None
            return FileState(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return None


def _is_directory(place: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(place).st_mode)
    except OSError:
        return False

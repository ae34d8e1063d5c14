"""What mounting leaves in the branch of a step beside what its command wrote: directories brought up for a mount point.

A mount point that is missing is made and removed again, and its directory has its time back; but the directory itself
has come up into the branch meanwhile, and would be an entry of the layer that says nothing.

Invariants: no link in the branch is followed, whatever the command has put there; what differs from below in anything
stays, and so do the directories above it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from builder.rootfs import RootFs, open_root
from builder.trail import Trail
from unionfs.whiteout import is_own_xattr


def forget_directories(upper: Path, lower: Sequence[Path], targets: Iterable[str]) -> None:
    """Directories above ``targets`` that hold nothing in ``upper``, and are as ``lower`` has them, are gone from it."""
    with open_root(lower) as view:
        if view is None:
            return
        with closing(Trail(upper, view)) as trail:
            for target in targets:
                _forget(trail, view, view.resolve(os.path.dirname(target)))


def _forget(trail: Trail, view: RootFs, place: bytes) -> None:
    while place:
        try:
            fd = trail.open_beneath(place)
        except FileNotFoundError:
            # never brought up, or made for the mount and gone with it
            place = place.rpartition(b"/")[0]
            continue
        except OSError:
            # the command has put something else there
            return
        try:
            same = _is_as_below(fd, view, place)
        finally:
            os.close(fd)
        if not same:
            return
        parent, _, name = place.rpartition(b"/")
        _remove(trail, parent, name)
        place = parent


def _is_as_below(fd: int, view: RootFs, place: bytes) -> bool:
    """Whether the directory open as ``fd`` is empty and has no metadata of its own."""
    below = view.lstat(place)
    if below is None or not stat.S_ISDIR(below.mode) or os.listdir(fd):
        return False
    here = os.fstat(fd)
    if (here.st_mode, here.st_uid, here.st_gid, here.st_mtime_ns) != (below.mode, below.uid, below.gid, below.mtime_ns):
        return False
    names = sorted(os.fsencode(name) for name in os.listxattr(fd))
    if any(is_own_xattr(name) for name in names):
        return False
    return tuple((name, os.getxattr(fd, name)) for name in names) == view.every_xattr(place)


def _remove(trail: Trail, parent: bytes, name: bytes) -> None:
    """The empty directory is gone, and the one above has the time it had."""
    fd = trail.open_beneath(parent)
    try:
        before = os.fstat(fd)
        os.rmdir(name, dir_fd=fd)
        os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
    finally:
        os.close(fd)

"""Where nothing can be mounted: what a step sees beside its root lies in the copy while it runs.

::

    put        what lies at a target is laid aside, what the step is to see there takes its place
    begin      the inventory of the copy knows which directories were touched by that
    take_out   each is taken out again, what was laid aside is back; the inventory knows that too

Everything is moved by rename(2) between directories of one file system, which costs nothing and copies nothing.

Invariants: targets are resolved in the copy alone, by the kernel, while nobody works in it; what comes after the step
goes by directories that were opened before it, so no link that a step has put anywhere leads out; a directory in which
something was put has its time back, and counts as changed only if the step has changed it; a kill leaves at most what
is swept with the copy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from builder.rootcopies.inventory import Inventory
from builder.sandbox import _sys
from builder.sandbox.furnish import Root
from unionfs._sys import RENAME_EXCHANGE, renameat2
from unionfs.namedtuple import NamedTuple
from unionfs.removal import remove_tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CONFINED = _sys.RESOLVE_IN_ROOT | _sys.RESOLVE_NO_MAGICLINKS


class _Placed(NamedTuple):
    """Something of ours at ``name`` in the open directory ``parent``, ``path`` in the copy.

    ``ours`` is open on it, so that nothing else gets its inode number when the step removes it. Afterwards it goes back
    to ``home``, if there is one; where it is ``exchanged`` it takes the place of what is there.
    """

    parent: int
    name: bytes
    path: bytes
    ours: int
    home: Path | None
    exchanged: bool


class Furnishing:
    """What lies in one copy for the time of a step."""

    def __init__(self, tree: Path, aside: Path) -> None:
        """``aside`` is the directory, not there yet, where what lay at targets of ``tree`` waits."""
        aside.mkdir(mode=0o700)
        self._aside = aside
        self._tree = os.fsencode(os.path.realpath(tree))
        self._root = os.open(tree, _DIRECTORY)
        self._points = Root()
        self._placed: list[_Placed] = []
        self._known: dict[bytes, tuple[int, int]] = {}
        """By path, directories in which something was put: open, and when they were changed last before the step."""
        self._laid_ns: dict[int, int] = {}
        """When what was laid aside was changed last, by its being laid aside."""

    def put(self, target: str, ours: Path, *, home: Path | None = None, exchanged: bool = False) -> None:
        """``ours`` lies at ``target``, which is made where it is missing.

        Raises:
            StageError: there can be nothing at ``target``.
            OSError: the disk takes no more.
        """
        is_directory = stat.S_ISDIR(os.lstat(ours).st_mode)
        self._points.make_points(self._root, ((target, is_directory),))
        path = self._resolve(target, is_directory=is_directory)
        directory, name = os.path.split(path)
        number = len(self._placed)
        with contextlib.ExitStack() as opened:
            parent = os.open(os.path.join(self._tree, directory), _DIRECTORY)
            opened.callback(os.close, parent)
            own = os.open(ours, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            opened.callback(os.close, own)
            before = os.fstat(parent)
            self._placed.append(_Placed(parent, name, path, own, home, exchanged))
            opened.pop_all()
        os.rename(name, self._aside / str(number), src_dir_fd=parent)
        self._laid_ns[number] = os.lstat(self._aside / str(number)).st_ctime_ns
        os.rename(ours, name, dst_dir_fd=parent)
        os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns))

    def begin(self, inventory: Inventory) -> None:
        """Everything is in place: ``inventory``, made before the first was put, knows the copy as the step finds it."""
        for fd in self._parents():
            path = self._path_of(fd)
            status = os.fstat(fd)
            if inventory.is_same(path, status):
                self._known[path] = (fd, status.st_ctime_ns)
                inventory.add(path, status, directory=True)

    def inodes(self) -> frozenset[int]:
        """What is no part of the root, wherever the step has moved it; nothing else has these numbers until `close`."""
        return frozenset(os.fstat(each.ours).st_ino for each in self._placed)

    def take_out(self, inventory: Inventory) -> bool:
        """All is taken out, by way of ``inventory`` unnoticed; whether the copy is sure to hold nothing of ours.

        To be called once, when nobody works in the copy any more.
        """
        untouched = [(path, fd) for path, (fd, ctime_ns) in self._known.items() if os.fstat(fd).st_ctime_ns == ctime_ns]
        found = [self._take(number, inventory) for number in reversed(range(len(self._placed)))]
        parents = [(path, os.dup(fd)) for path, fd in untouched]
        self._points.remove_points()
        for path, fd in parents:
            inventory.add(path, os.fstat(fd), directory=True)
            os.close(fd)
        return all(found)

    def _parents(self) -> list[int]:
        return [*(each.parent for each in self._placed), *self._points.parents()]

    def close(self) -> None:
        """Nothing is open; what is in the copy stays there. Idempotent."""
        for placed in self._placed:
            os.close(placed.parent)
            os.close(placed.ours)
        self._placed.clear()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1
            self._points.remove_points()

    def _resolve(self, target: str, *, is_directory: bool) -> bytes:
        """The path in the copy that ``target`` leads to. Raises OSError where what is there is of another kind."""
        fd = _sys.openat2(self._root, os.fsencode(target), os.O_PATH, _CONFINED)
        try:
            path = self._path_of(fd)
            fits = stat.S_ISDIR(os.fstat(fd).st_mode) == is_directory
        finally:
            os.close(fd)
        if not path or not fits:
            number = errno.EBUSY if not path else errno.ENOTDIR if is_directory else errno.EISDIR
            raise OSError(number, os.strerror(number), target)
        return path

    def _path_of(self, fd: int) -> bytes:
        """Where the open file lies in the copy; empty for the copy itself."""
        return os.readlink(b"/proc/self/fd/%d" % fd)[len(self._tree) + 1 :]

    def _take(self, number: int, inventory: Inventory) -> bool:
        """Whether ours was where it was put, and what was laid aside is there again."""
        placed = self._placed[number]
        out = self._aside / f"{number}.out"
        now = os.fstat(placed.parent)
        # a file may have another name, by which the step has reached it
        is_untouched = os.lstat(self._aside / str(number)).st_ctime_ns == self._laid_ns[number]
        try:
            with contextlib.suppress(FileNotFoundError):
                os.rename(placed.name, out, src_dir_fd=placed.parent)
            os.rename(self._aside / str(number), placed.name, dst_dir_fd=placed.parent)
        except FileNotFoundError:
            # the directory itself is gone
            is_back = False
        else:
            is_back = True
            os.utime(placed.parent, ns=(now.st_atime_ns, now.st_mtime_ns))
            if is_untouched:
                inventory.add_moved(placed.path, os.stat(placed.name, dir_fd=placed.parent, follow_symlinks=False))
        is_ours = os.path.lexists(out) and os.path.samestat(os.lstat(out), os.fstat(placed.ours))
        if is_ours and placed.home is not None:
            renameat2(_sys.AT_FDCWD, os.fsencode(out), _sys.AT_FDCWD, os.fsencode(placed.home), _flags(placed))
        remove_tree(out)
        return is_ours and is_back


def _flags(placed: _Placed) -> int:
    return RENAME_EXCHANGE if placed.exchanged else 0

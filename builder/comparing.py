"""What differs between the files of two images or steps, and what layers hold in vain.

Invariants: nothing is mounted or written; layers that both share are not read; times alone are no difference, since a
step that is run again gives its files new ones.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from unionfs.branch import Branch
from unionfs.delta import Change, ChangeKind
from unionfs.difference import Mark, State, compare, same_content
from unionfs.namedtuple import NamedTuple


class FileDifference(NamedTuple):
    """One name that differs: ``change`` is A (added), M (modified) or D (deleted).

    ``details`` are attributes with their old and new values, or the size alone of what was added or deleted.
    """

    change: str
    path: bytes
    details: tuple[tuple[str, str, str], ...] = ()


def compare_roots(old: Sequence[Path], new: Sequence[Path]) -> Iterator[FileDifference]:
    """What differs between the roots that branches (top first) make, directories before what is in them."""
    with _state(old) as before, _state(new) as after:
        for difference in compare(before, after):
            if difference.mark is Mark.ENTERED:
                continue
            details: tuple[tuple[str, str, str], ...] = ()
            if difference.old is not None and difference.new is not None:
                details = tuple(_details(difference.old, difference.new))
                if not details:
                    continue
            elif difference.new is not None:
                details = tuple(_size("", difference.new))
            elif difference.old is not None:
                details = tuple(_size(difference.old, ""))
            yield FileDifference(difference.mark.value, difference.path, details)


def wasted_bytes(branches: Sequence[Path]) -> int:
    """Bytes of files in ``branches`` that the root they make does not show, since one above has others or none."""
    held = sum(_file_bytes(branch) for branch in branches)
    if not held:
        return 0
    with TemporaryDirectory() as nothing, _state([Path(nothing)]) as before, _state(branches) as after:
        seen: dict[tuple[int, int], int] = {}
        for difference in compare(before, after):
            status = None if difference.new is None else difference.new.stat
            if status is not None and stat.S_ISREG(status.st_mode):
                seen[status.st_dev, status.st_ino] = status.st_size
    return max(0, held - sum(seen.values()))


@contextmanager
def _state(branches: Sequence[Path]) -> Generator[State]:
    """The root that ``branches`` make; without any it is empty."""
    with TemporaryDirectory() as nothing:
        state = State([Branch(os.fsencode(path)) for path in branches or [Path(nothing)]])
        try:
            yield state
        finally:
            state.close()


def _details(old: Change, new: Change) -> Iterator[tuple[str, str, str]]:
    if old.kind is not new.kind:
        yield "type", old.kind.value, new.kind.value
        return
    a, b = old.stat, new.stat
    if stat.S_IMODE(a.st_mode) != stat.S_IMODE(b.st_mode):
        yield "mode", f"{stat.S_IMODE(a.st_mode):04o}", f"{stat.S_IMODE(b.st_mode):04o}"
    if (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid):
        yield "owner", f"{a.st_uid}:{a.st_gid}", f"{b.st_uid}:{b.st_gid}"
    if old.kind is ChangeKind.FILE:
        yield from _size(old, new)
        if a.st_size == b.st_size and not same_content(old, new):
            yield "content", "", ""
    elif old.kind is ChangeKind.SYMLINK and old.link_target() != new.link_target():
        yield "target", os.fsdecode(old.link_target()), os.fsdecode(new.link_target())
    elif a.st_rdev != b.st_rdev:
        yield "device", f"{os.major(a.st_rdev)}:{os.minor(a.st_rdev)}", f"{os.major(b.st_rdev)}:{os.minor(b.st_rdev)}"
    was, now = old.xattrs(), new.xattrs()
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            yield f"attribute {name}", "" if name in was else "none", "" if name in now else "none"


def _size(old: Change | str, new: Change | str) -> Iterator[tuple[str, str, str]]:
    """The sizes, where there are any and they differ."""
    sizes = [
        str(one.stat.st_size) if isinstance(one, Change) and one.kind is ChangeKind.FILE else "" for one in (old, new)
    ]
    if sizes[0] != sizes[1]:
        yield "size", sizes[0], sizes[1]


def _file_bytes(branch: Path) -> int:
    """Bytes of all files of a layer, each once."""
    found: dict[int, int] = {}
    todo = [os.fspath(branch)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found[status.st_ino] = status.st_size
    return sum(found.values())

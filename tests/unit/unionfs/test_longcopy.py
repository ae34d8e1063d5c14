"""Large files: copied in three steps, with anything between them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.paths import ROOT, UnionPaths, tree
from unionfs import _sys, copyup
from unionfs.branch import Branch
from unionfs.ops import CopyPendingError
from unionfs.types import ROOT_INO, Access, SetAttr

LARGE = 100
CONTENT = "large " * 40


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred bytes are much, and no filesystem shares blocks."""
    monkeypatch.setattr(copyup, "LONG_BYTES", LARGE)
    monkeypatch.setattr(_sys, "FICLONE", 0)


def deferring(stand, **options: Any) -> UnionPaths:
    paths = stand.paths(**options)
    paths.ops.defer_copies()
    return paths


def pending(call: Callable[[], object]) -> Any:
    """The copy that ``call`` waits for."""
    with pytest.raises(CopyPendingError) as raised:
        call()
    return raised.value.copy


def insist(call: Callable[[], object]) -> int:
    """``call`` has come to its end, as a transport would have it; after how many copies."""
    used: list[Any] = []
    with contextlib.ExitStack() as drops:
        while True:
            try:
                call()
            except CopyPendingError as error:
                used.append(error.copy)
                drops.callback(error.copy.drop)
                error.copy.run()
            else:
                break
    assert len(set(used)) == len(used)
    return len(used)


def temporary(root: Path) -> list[str]:
    directory = root / ".wh..unionfs"
    return os.listdir(directory) if directory.exists() else []


def write(paths: UnionPaths) -> None:
    paths.write(b"d/f", b"new", flags=0)


CHANGES: dict[str, Callable[[UnionPaths], None]] = {
    "write": write,
    "chmod": lambda paths: paths.chmod(b"d/f", 0o600),
    "truncate": lambda paths: paths.truncate(b"d/f", 150),
    "xattr": lambda paths: paths.setxattr(b"d/f", b"user.x", b"1"),
    "link": lambda paths: paths.link(b"d/f", b"g"),
    "rename": lambda paths: paths.rename(b"d/f", b"g"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_change_waits_once_and_nothing_shows_before(stand, form, change):
    stand.put(1, "d/f", CONTENT)
    paths = deferring(stand, whiteouts=form)
    before = tree(paths)
    assert pending(lambda: change(paths)) is pending(lambda: change(paths))
    assert tree(paths) == before == tree(stand.paths(read_only=True))
    assert insist(lambda: change(paths)) == 1
    assert tree(paths) == tree(stand.paths(read_only=True))
    assert stand.names(0, "d")
    assert temporary(stand.roots[0]) == []


def test_what_is_small_or_shortened_does_not_wait(stand):
    stand.put(1, "d/f", CONTENT)
    stand.put(1, "small", "x" * LARGE)
    paths = deferring(stand)
    paths.chmod(b"small", 0o600)
    paths.truncate(b"d/f", LARGE)
    assert paths.stat(b"d/f").size == LARGE


def test_a_copy_that_nobody_waits_for_leaves_nothing(stand):
    stand.put(1, "d/f", CONTENT)
    paths = deferring(stand)
    never_run = pending(lambda: write(paths))
    never_run.drop()
    never_run.run()
    finished = pending(lambda: write(paths))
    finished.run()
    finished.drop()
    assert temporary(stand.roots[0]) == []
    assert insist(lambda: write(paths)) == 1


@pytest.mark.parametrize("when", ["begun", "finished"])
def test_the_name_may_go_while_the_content_is_copied(stand, when):
    stand.put(1, "d/f", CONTENT)
    paths = deferring(stand)
    with paths.node(b"d/f") as attr:
        reader = paths.ops.open(attr.ino, os.O_RDONLY, ROOT)
        copy = pending(lambda: paths.ops.setattr(attr.ino, SetAttr(size=200), None, ROOT))
        if when == "finished":
            copy.run()
        paths.unlink(b"d/f")
        if when == "begun":
            copy.run()
        assert insist(lambda: paths.ops.setattr(attr.ino, SetAttr(size=200), None, ROOT)) == 0
        assert paths.ops.read(reader, 0, 1000) == CONTENT[:200].encode()
        paths.ops.release(reader)
    copy.drop()
    assert temporary(stand.roots[0]) == []


def test_a_source_that_changed_is_copied_again(stand):
    place = stand.put(1, "d/f", CONTENT)
    paths = deferring(stand)
    pending(lambda: paths.append(b"d/f", b"")).run()
    place.write_text(CONTENT.upper())
    assert insist(lambda: paths.append(b"d/f", b"")) == 1
    assert paths.read(b"d/f") == CONTENT.upper().encode()


def test_a_full_disk_is_the_answer(stand, monkeypatch):
    stand.put(1, "d/f", CONTENT)
    paths = deferring(stand)
    copy = pending(lambda: write(paths))

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "copy_file_range", full)
        copy.run()
    with pytest.raises(OSError) as error:
        write(paths)
    assert error.value.errno == errno.ENOSPC
    assert temporary(stand.roots[0]) == []
    assert insist(lambda: write(paths)) == 1
    assert paths.read(b"d/f").startswith(b"newge ")


def test_a_change_of_branches_begins_anew(stand, tmp_path):
    stand.put(1, "d/f", CONTENT)
    (tmp_path / "new").mkdir()
    paths = deferring(stand)
    copy = pending(lambda: write(paths))
    top, bottom = stand.branches()
    paths.ops.change_branches([Branch(os.fsencode(tmp_path / "new")), top._replace(access=Access.RO), bottom])
    copy.run()
    assert temporary(stand.roots[0]) == []
    assert insist(lambda: write(paths)) == 1
    assert (tmp_path / "new/d/f").read_text().startswith("newge ")
    assert stand.names(0) == ["d"]


def test_a_union_ends_amid_a_copy(stand):
    stand.put(1, "d/f", CONTENT)
    union = stand.union()
    union.defer_copies()
    copy = pending(lambda: write(UnionPaths(union)))
    union.close()
    copy.run()


def test_a_merged_directory_with_large_files_is_renamed(stand, form):
    stand.put(0, "d/upper", "u")
    for name in ("a", "b", "s/c"):
        stand.put(1, f"d/{name}", name + CONTENT)
    stand.put(1, "d/small", "s")
    os.link(stand.roots[1] / "d/a", stand.roots[1] / "d/s/hard")
    paths = deferring(stand, whiteouts=form)
    before = tree(paths, b"d")
    assert insist(lambda: paths.rename(b"d", b"D")) == 3
    assert {b"d" + path[1:]: entry for path, entry in tree(paths, b"D").items()} == before
    assert temporary(stand.roots[0]) == []


def test_a_file_with_holes_keeps_them(stand, tmp_path):
    place = stand.put(1, "d/f", "")
    with place.open("r+b") as file:
        file.truncate(64 << 20)
        for at in (1 << 20, 32 << 20):
            file.seek(at)
            file.write(b"data" * 1000)
    paths = deferring(stand)
    with paths.node(b"d/f") as attr:
        assert insist(lambda: paths.ops.release(paths.ops.open(attr.ino, os.O_RDWR, ROOT))) == 1
    copy = stand.roots[0] / "d/f"
    assert copy.read_bytes() == place.read_bytes()
    assert copy.stat().st_blocks <= place.stat().st_blocks + 16
    assert paths.ops.lookup(ROOT_INO, b"d", ROOT).nlink == 2

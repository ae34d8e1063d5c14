"""Branches: the text of dirs=, what a stack may hold, changes while the union is in use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.paths import ROOT
from unionfs.branch import Branch, BranchStack, parse_dirs
from unionfs.errors import BranchBusyError, BranchMissingError, BranchSyntaxError, BranchTwiceError, UnionError
from unionfs.ops import Notifier
from unionfs.types import ROOT_INO, Access, Ino
from unionfs.union import Union

RW, RO, NFSRO = Access.RW, Access.RO, Access.NFSRO


@pytest.mark.parametrize(
    ("text", "branches"),
    [
        ("/a", [("/a", RW)]),
        ("/a=rw:/b=ro:/c=nfsro:/d", [("/a", RW), ("/b", RO), ("/c", NFSRO), ("/d", RW)]),
        (r"/a\:b=ro", [("/a:b", RO)]),
        (r"/a\=b:/c\,d\\e=ro", [("/a=b", RW), (r"/c,d\e", RO)]),
        (r"/x=y=ro", [("/x=y", RO)]),
        ("/a/../b/", [("/b", RW)]),
    ],
)
def test_dirs(text, branches):
    assert parse_dirs(text) == tuple(Branch(path.encode(), access) for path, access in branches)


def test_relative_paths_are_taken_from_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parse_dirs("a:b=ro")[1] == Branch(os.fsencode(tmp_path / "b"), RO)


@pytest.mark.parametrize(("text", "says"), [("", "empty"), ("/a::/b", "empty"), ("/a=rx", "'=rx'"), ("=rw", "empty")])
def test_dirs_that_cannot_be_read(text, says):
    with pytest.raises(BranchSyntaxError, match=says):
        parse_dirs(text)


def union_of(*paths: Path) -> Union:
    return Union(BranchStack(tuple(Branch(os.fsencode(path), RO) for path in paths)))


def test_a_stack_that_cannot_be_is_refused_by_name(tmp_path):
    (tmp_path / "a/inside").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "again").symlink_to("a")
    with pytest.raises(BranchMissingError, match=r"none'.*no such file"):
        union_of(tmp_path / "a", tmp_path / "none")
    with pytest.raises(BranchMissingError, match="not a directory"):
        union_of(tmp_path / "file")
    with pytest.raises(BranchTwiceError, match="already there"):
        union_of(tmp_path / "a", tmp_path / "again")
    with pytest.raises(BranchTwiceError, match="lies inside"):
        union_of(tmp_path / "a", tmp_path / "a/inside")
    with pytest.raises(UnionError, match="at least one"):
        union_of()


class Heard(Notifier):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def invalidate_entry(self, parent: Ino, name: bytes) -> None:
        self.calls.append("entry")

    def invalidate_inode(self, ino: Ino) -> None:
        self.calls.append("inode")

    def invalidate_attributes(self, ino: Ino) -> None:
        self.calls.append("attributes")

    def invalidate_all(self) -> None:
        self.calls.append("all")

    def when_told(self, call: Callable[[], None]) -> None:
        call()


def branches_of(stand, *wanted):
    return tuple(Branch(os.fsencode(stand.roots[number]), Access(word)) for number, word in wanted)


def test_branches_are_added_removed_and_moved_at_once(stand_of):
    stand = stand_of("rw ro ro")
    stand.put(0, "d/top")
    stand.put(1, "d/middle")
    stand.put(1, "f", "middle")
    stand.put(2, "d/bottom")
    stand.put(2, "f", "bottom")
    union = stand.union()
    union.notifier = heard = Heard()
    paths_before = union.lookup(ROOT_INO, b"d", ROOT)
    file = union.lookup(ROOT_INO, b"f", ROOT)
    handle = union.open(file.ino, os.O_RDONLY, ROOT)
    stack = union.change_branches(branches_of(stand, (0, "rw"), (2, "ro"), (1, "ro")))
    assert stack.generation == 1
    assert union.stack == stack
    assert heard.calls == ["all"]
    assert union.read(handle, 0, 10) == b"middle", "open files stay where they are"
    again = union.lookup(ROOT_INO, b"f", ROOT)
    assert again.ino != file.ino
    other = union.open(again.ino, os.O_RDONLY, ROOT)
    assert union.read(other, 0, 10) == b"bottom"
    union.release(other)
    with pytest.raises(BranchBusyError, match="1 open files"):
        union.change_branches(branches_of(stand, (0, "rw"), (2, "ro")))
    union.release(handle)
    union.change_branches(branches_of(stand, (0, "rw"), (2, "ro")))
    listing = union.opendir(paths_before.ino)
    assert {entry.name for entry in union.readdir(listing, 0, attributes=True)} == {b"top", b"bottom"}
    union.releasedir(listing)


def test_a_branch_that_is_written_to_is_not_made_read_only(stand):
    union = stand.union()
    attr, handle = union.create(ROOT_INO, b"f", 0o644, os.O_RDWR, ROOT)
    with pytest.raises(BranchBusyError, match="cannot be made ro"):
        union.change_branches(branches_of(stand, (0, "ro"), (1, "ro")))
    assert union.stack.generation == 0
    union.release(handle)
    union.change_branches(branches_of(stand, (0, "ro"), (1, "ro")))
    with pytest.raises(OSError):
        union.open(attr.ino, os.O_RDWR, ROOT)
    union.change_branches(branches_of(stand, (0, "rw"), (1, "ro")))
    union.release(union.open(attr.ino, os.O_RDWR, ROOT))


def test_a_change_that_cannot_be_changes_nothing(stand, tmp_path):
    union = stand.union()
    for branches in ((), branches_of(stand, (0, "rw"), (0, "ro")), (Branch(os.fsencode(tmp_path / "none")),)):
        with pytest.raises(UnionError):
            union.change_branches(branches)
    assert union.stack.generation == 0
    union.release(union.create(ROOT_INO, b"f", 0o644, os.O_RDWR, ROOT)[1])


def test_changes_from_outside_show_after_refresh(stand):
    paths = stand.paths()
    stand.put(1, "d", None)
    assert paths.list(b"") == [b"d"]
    stand.put(1, "d/f", "x")
    stand.put(1, "g", "x")
    assert paths.list(b"") == [b"d"]
    paths.ops.refresh()
    assert paths.list(b"") == [b"d", b"g"]
    assert paths.list(b"d") == [b"f"]


def test_changes_from_outside_show_at_once_in_a_union_that_owns_nothing(stand):
    paths = stand.paths(sealed_branches=False)
    assert paths.ops.entries_stay_valid() is False
    assert paths.list(b"") == []
    stand.put(1, "d/f", "x")
    assert paths.list(b"d") == [b"f"]
    stand.put(0, "d/g", "y")
    assert paths.list(b"d") == [b"f", b"g"]
    stand.put(0, "d/f", "above")
    assert paths.read(b"d/f") == b"above"
    (stand.roots[0] / "d/f").unlink()
    assert paths.read(b"d/f") == b"x"
    paths.write(b"d/new", b"through the union")
    paths.rename(b"d", b"e")
    (stand.roots[0] / "e/new").unlink()
    assert paths.list(b"e") == [b"f", b"g"]
    (stand.roots[1] / "d/f").unlink()
    (stand.roots[1] / "d").rmdir()
    stand.put(1, "d", "now a file")
    assert paths.list(b"") == [b"e"]


def test_nothing_is_open_after_close(stand):
    stand.put(1, "f", "x")
    before = len(os.listdir("/proc/self/fd"))
    union = stand.union()
    file = union.lookup(ROOT_INO, b"f", ROOT)
    union.open(file.ino, os.O_RDWR, ROOT)
    union.lookup(ROOT_INO, b"f", ROOT)
    union.unlink(ROOT_INO, b"f")
    union.close()
    union.close()
    assert len(os.listdir("/proc/self/fd")) == before

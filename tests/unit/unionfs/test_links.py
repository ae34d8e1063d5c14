"""Names of one lower file, over remounts (``inodes=stable``)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.paths import UnionPaths
from unionfs import _sys
from unionfs.branch import Branch
from unionfs.delta import iter_changes
from unionfs.types import Access

INDEX = ".wh..wh.links"


@pytest.fixture
def linked(stand):
    """``d/a``, ``d/b`` and ``c`` are names of one lower file."""
    stand.put(1, "d/a", "old")
    for name in ("d/b", "c"):
        os.link(stand.roots[1] / "d/a", stand.roots[1] / name)
    return stand


@pytest.fixture
def remount(linked, form):
    """A union of the same branches, the one before closed."""

    def mount(**options) -> UnionPaths:
        for union in linked.unions:
            union.close()
        linked.unions.clear()
        return linked.paths(**{"stable_inodes": True, "whiteouts": form, **options})

    return mount


def names_and_content(paths: UnionPaths) -> dict[bytes, tuple[bytes, int]]:
    found = [name for name in (b"c", b"n") if name in paths.list(b"")]
    found += [b"d/" + name for name in paths.list(b"d")]
    return {path: (paths.read(path), paths.stat(path).nlink) for path in found}


def indexed(stand) -> list[str]:
    directory: Path = stand.roots[0] / INDEX
    return os.listdir(directory) if directory.exists() else []


def test_names_that_were_not_copied_up_show_what_was_written(linked, remount):
    paths = remount()
    paths.write(b"d/a", b"new")
    number = paths.ino(b"d/a")
    assert linked.names(0) == [INDEX, "d"]
    for _ in range(2):
        paths = remount()
        assert names_and_content(paths) == {b"c": (b"new", 3), b"d/a": (b"new", 3), b"d/b": (b"new", 3)}
        assert {paths.ino(name) for name in (b"c", b"d/a", b"d/b")} == {number}
    assert linked.names(0, "d") == ["a"], "looking changes nothing"
    paths = remount()
    paths.append(b"c", b"er")
    assert {content for content, _ in names_and_content(paths).values()} == {b"newer"}
    assert linked.names(0) == [INDEX, "c", "d"]
    assert {content for content, _ in names_and_content(remount(read_only=True)).values()} == {b"newer"}


def test_the_content_outlives_its_names(linked, remount):
    paths = remount()
    paths.write(b"d/a", b"new")
    paths.unlink(b"d/a")
    assert names_and_content(paths) == {b"c": (b"new", 2), b"d/b": (b"new", 2)}
    paths = remount()
    assert names_and_content(paths) == {b"c": (b"new", 2), b"d/b": (b"new", 2)}
    paths.unlink(b"c")
    paths = remount()
    assert names_and_content(paths) == {b"d/b": (b"new", 1)}
    assert len(indexed(linked)) == 1
    paths.unlink(b"d/b")
    assert names_and_content(paths) == {}
    assert not (linked.roots[0] / INDEX).exists()


def test_the_index_forgets_a_file_whose_names_are_all_copied_up(linked, remount):
    paths = remount()
    paths.write(b"d/a", b"new")
    paths = remount()
    paths.list(b"d")
    paths.list(b"")
    with paths.node(b"d/b"), paths.node(b"c"):
        paths.chmod(b"d/b", 0o600)
    assert not (linked.roots[0] / INDEX).exists()
    assert names_and_content(remount()) == {b"c": (b"new", 3), b"d/a": (b"new", 3), b"d/b": (b"new", 3)}


@pytest.mark.parametrize("again", [False, True], ids=["same mount", "next mount"])
@pytest.mark.parametrize("flags", [0, _sys.RENAME_EXCHANGE], ids=["rename", "exchange"])
def test_a_name_that_was_not_copied_up_is_renamed(linked, remount, again, flags):
    paths = remount()
    paths.write(b"other", b"other")
    paths.write(b"d/a", b"new")
    if again:
        paths = remount()
    paths.rename(b"c", b"other" if flags else b"n", flags)
    for _ in range(2):
        assert paths.read(b"other" if flags else b"n") == b"new"
        assert paths.read(b"d/b") == b"new"
        assert (b"c" in paths.list(b"")) == bool(flags)
        paths = remount()


@pytest.mark.parametrize("stable", [True, False])
def test_a_name_looked_up_after_the_copy_up_is_renamed(linked, form, stable):
    paths = linked.paths(stable_inodes=stable, whiteouts=form)
    paths.chmod(b"d/a", 0o600)
    paths.rename(b"c", b"n")
    assert {paths.stat(name).mode & 0o777 for name in (b"n", b"d/a", b"d/b")} == {0o600}
    assert paths.stat(b"n").nlink == 3


def test_a_merged_directory_takes_its_names_along(linked, remount):
    paths = remount()
    paths.write(b"c", b"new")
    paths = remount()
    paths.rename(b"d", b"e")
    paths = remount()
    assert [(paths.read(name), paths.stat(name).nlink) for name in (b"c", b"e/a", b"e/b")] == [(b"new", 3)] * 3
    assert not (linked.roots[0] / INDEX).exists()


def test_a_name_that_is_replaced_is_one_fewer(linked, remount):
    paths = remount()
    paths.write(b"d/a", b"new")
    paths = remount()
    paths.write(b"n", b"other")
    paths.rename(b"n", b"c")
    assert names_and_content(remount()) == {b"c": (b"other", 1), b"d/a": (b"new", 2), b"d/b": (b"new", 2)}


def test_a_snapshot_keeps_its_names_together(linked, remount, tmp_path):
    paths = remount()
    paths.write(b"d/a", b"new")
    (tmp_path / "newer").mkdir()
    top, bottom = linked.branches()
    stack = [Branch(os.fsencode(tmp_path / "newer")), top._replace(access=Access.RO), bottom]
    paths.forget_all()
    paths.ops.change_branches(stack)
    assert {content for content, _ in names_and_content(paths).values()} == {b"new"}
    paths.write(b"c", b"newest")
    assert {content for content, _ in names_and_content(paths).values()} == {b"newest"}
    assert (linked.roots[0] / "d/a").read_text() == "new"
    again = remount()
    assert {content for content, _ in names_and_content(again).values()} == {b"new"}
    again.ops.change_branches(stack)
    assert {content for content, _ in names_and_content(again).values()} == {b"newest"}


def test_a_lower_file_that_changed_is_another_one(linked, remount):
    paths = remount()
    paths.write(b"d/a", b"new")
    paths.ops.close()
    (linked.roots[1] / "c").write_text("changed below")
    paths = remount()
    assert (paths.read(b"d/a"), paths.read(b"c")) == (b"new", b"changed below")


def test_no_layer_holds_the_index(linked, remount):
    remount().write(b"d/a", b"new")
    assert [change.path for change in iter_changes(linked.roots[0])] == [b"", b"d", b"d/a"]


def test_without_lasting_numbers_there_is_no_index(linked, form):
    linked.paths(whiteouts=form).write(b"d/a", b"new")
    assert linked.names(0) == ["d"]

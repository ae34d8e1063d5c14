"""Rename on the branches: where it takes place, what stays behind, what a failure leaves."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from harness.paths import ROOT, tree
from unionfs import _sys, whiteout
from unionfs.types import ROOT_INO, DeleteMode, Passthrough, WhiteoutForm


def test_a_lower_file_is_copied_up_and_hidden_under_its_old_name(stand, form):
    stand.put(1, "f", "x")
    paths = stand.paths(whiteouts=form)
    paths.rename(b"f", b"g")
    assert stand.names(0) == ([".wh.f", "g"] if form is WhiteoutForm.AUFS else ["f", "g"])
    assert stand.paths().list(b"") == [b"g"]


def test_an_upper_file_leaves_no_whiteout(stand):
    stand.put(0, "f", "x")
    stand.put(1, "g", "y")
    paths = stand.paths()
    paths.rename(b"f", b"g")
    assert stand.names(0) == ["g"]
    paths.rename(b"g", b"h")
    assert stand.names(0) == [".wh.g", "h"]


def test_a_whole_directory_on_a_lower_writable_branch_is_renamed_there(stand_of):
    stand = stand_of("rw rw ro")
    stand.put(1, "d/e/f", "x")
    paths = stand.paths()
    paths.rename(b"d", b"D")
    assert stand.names(0) == []
    assert (stand.roots[1] / "D/e/f").read_text() == "x"


def test_a_target_hidden_above_takes_the_rename_up(stand_of):
    stand = stand_of("rw rw")
    stand.put(1, "f", "x")
    stand.put(0, ".wh.g")
    stand.put(1, "g", "lower")
    paths = stand.paths()
    paths.rename(b"f", b"g")
    assert paths.read(b"g") == b"x"
    assert stand.names(0) == [".wh.f", "g"]


def test_lower_instances_of_the_target_go_when_all_are_deleted(stand_of):
    stand = stand_of("rw rw")
    stand.put(0, "f", "x")
    stand.put(1, "g", "lower")
    paths = stand.paths(delete=DeleteMode.ALL)
    paths.rename(b"f", b"g")
    assert (stand.names(0), stand.names(1)) == (["g"], [])


def test_a_merged_directory_is_raised_whole(stand, form):
    stand.put(0, "d/upper", "u")
    stand.put(0, "d/.wh.gone")
    stand.put(1, "d/gone", "x")
    stand.put(1, "d/lower", "l")
    stand.put(1, "d/sub/deep/f", "deep")
    (stand.roots[1] / "d/link").symlink_to("lower")
    os.link(stand.roots[1] / "d/lower", stand.roots[1] / "d/sub/hard")
    os.utime(stand.roots[1] / "d/sub", ns=(1, 2_000_000_002))
    paths = stand.paths(whiteouts=form)
    before = tree(paths, b"d")
    numbers = {path: paths.ino(path) for path in before}
    paths.rename(b"d", b"D")
    after = tree(paths, b"D")
    assert {b"d" + path[1:]: entry for path, entry in after.items()} == before
    assert {path: paths.ino(b"D" + path[1:]) for path in before} == numbers
    assert paths.stat(b"D/sub").mtime_ns == 2_000_000_002
    assert os.stat(stand.roots[0] / "D/lower").st_nlink == 2
    assert not (stand.roots[0] / "D/.wh.gone").exists(), "a mark that hides nothing is gone"
    assert {path: entry[:-1] for path, entry in tree(stand.paths(), b"D").items()} == {
        path: entry[:-1] for path, entry in after.items()
    }


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_a_killed_union_left_beside_a_whiteout_stays_hidden(stand, form, kind):
    stand.put(1, "d/gone", "x")
    stand.put(0, "d/gone/below" if kind == "directory" else "d/gone", "removed, but for the last step")
    stand.put(0, "d/.wh.gone")
    os.utime(stand.roots[0] / "d", ns=(1, 2_000_000_002))
    paths = stand.paths(whiteouts=form)
    paths.rename(b"d", b"D")
    assert stand.paths().list(b"D") == []
    assert paths.stat(b"D").mtime_ns == 2_000_000_002


def test_a_name_of_a_copied_file_is_replaced(stand, form):
    stand.put(1, "a", "x")
    stand.put(1, "other", "o")
    os.link(stand.roots[1] / "a", stand.roots[1] / "b")
    paths = stand.paths(whiteouts=form)
    with paths.node(b"a") as attr:
        paths.chmod(b"a", 0o600)
        with paths.node(b"b") as same:
            assert same.ino == attr.ino
            paths.rename(b"other", b"b")
        assert paths.stat(b"a").nlink == 1
    assert (paths.read(b"a"), paths.read(b"b")) == (b"x", b"o")


def test_renaming_back_and_forth(stand, form):
    stand.put(1, "d/f", "x")
    stand.put(1, "e", None)
    paths = stand.paths(whiteouts=form)
    for _ in range(3):
        paths.rename(b"d", b"e")
        paths.rename(b"e", b"d")
        paths.mkdir(b"e")
    assert paths.list(b"") == [b"d", b"e"]
    assert paths.read(b"d/f") == b"x"
    assert paths.list(b"e") == []


def test_redirect_off_gives_exdev_for_merged_directories_only(stand):
    stand.put(1, "d/f", "x")
    stand.put(1, "f", "x")
    paths = stand.paths(redirect=False)
    with pytest.raises(OSError) as error:
        paths.rename(b"d", b"D")
    assert error.value.errno == errno.EXDEV
    paths.rename(b"f", b"g")
    paths.mkdir(b"own")
    paths.rename(b"own", b"mine")
    assert paths.list(b"") == [b"d", b"g", b"mine"]


def test_an_open_lower_file_follows_the_renamed_directory(stand):
    stand.put(1, "d/f", "old")
    union = stand.union(passthrough=Passthrough.OFF)
    directory = union.lookup(ROOT_INO, b"d", ROOT)
    file = union.lookup(directory.ino, b"f", ROOT)
    reader = union.open(file.ino, os.O_RDONLY, ROOT)
    union.rename(ROOT_INO, b"d", ROOT_INO, b"D", 0)
    writer = union.open(file.ino, os.O_RDWR, ROOT)
    union.write(writer, 0, b"new")
    assert union.read(reader, 0, 3) == b"new"
    assert (stand.roots[0] / "D/f").read_text() == "new"
    union.release(reader)
    union.release(writer)


@pytest.mark.parametrize("after", [0, 1, 3, 6])
def test_a_directory_that_cannot_be_raised_stays_as_it_was(stand, form, monkeypatch, after):
    for name in ("a", "b", "s/c", "s/t/d"):
        stand.put(1, f"d/{name}", name)
    os.link(stand.roots[1] / "d/a", stand.roots[1] / "d/s/hard")
    stand.put(0, "d/s/upper", "u")
    stand.put(0, "d/s/.wh.c")
    paths = stand.paths(whiteouts=form)
    with paths.node(b"d/s/t/d") as attr:
        reader = paths.ops.open(attr.ino, os.O_RDONLY, ROOT)
    before = tree(paths)
    times = {path: paths.stat(path).mtime_ns for path in before}
    numbers = {path: paths.ino(path) for path in before}
    copy = os.copy_file_range
    calls = []

    def full(*args):
        calls.append(args)
        if len(calls) > after or after == 6:
            raise OSError(errno.ENOSPC, "no space")
        return copy(*args)

    def refuse(*_args):
        raise OSError(errno.ENOSPC, "no space")

    if after < 3:
        monkeypatch.setattr(os, "copy_file_range", full)
    else:
        monkeypatch.setattr(_sys, "renameat2", refuse)
    with pytest.raises(OSError) as error:
        paths.rename(b"d", b"D")
    assert error.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert tree(paths) == before
    assert {path: paths.stat(path).mtime_ns for path in before if path != b"d"} == {
        path: time for path, time in times.items() if path != b"d"
    }
    assert {path: paths.ino(path) for path in before} == numbers
    assert paths.ops.read(reader, 0, 10) == b"s/t/d"
    paths.ops.release(reader)
    assert tree(stand.paths()) == before
    assert sorted(os.listdir(stand.roots[0] / "d")) == ["s"]
    assert sorted(os.listdir(stand.roots[0] / "d/s")) == [".wh.c", "upper"]
    paths.rename(b"d", b"D")
    assert paths.read(b"D/s/t/d") == b"s/t/d"


def test_an_empty_directory_with_marks_is_replaced(stand, form):
    stand.put(1, "target/x", "x")
    stand.put(1, "d/f", "f")
    paths = stand.paths(whiteouts=form)
    paths.unlink(b"target/x")
    paths.rename(b"d", b"target")
    assert tree(paths).keys() == {b"target", b"target/f"}
    assert tree(stand.paths()).keys() == {b"target", b"target/f"}


@pytest.mark.parametrize("xattrs", [True, False], ids=["xattrs", "no xattrs"])
def test_a_failed_replacement_of_a_directory_is_undone(stand, form, xattrs, monkeypatch):
    stand.put(1, "target/x", "x")
    stand.put(0, "d/f", "f")
    paths = stand.paths(whiteouts=form)
    paths.unlink(b"target/x")
    before = tree(paths)
    real = _sys.renameat2
    calls = []

    def last_fails(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.EIO, "broken")
        real(*args)

    def fails(*_args, **_keywords):
        raise OSError(errno.EIO, "broken")

    if xattrs:
        monkeypatch.setattr(os, "rename", fails)
    else:
        monkeypatch.setattr(whiteout, "strip", lambda _branch, _path: False)
        monkeypatch.setattr(_sys, "renameat2", last_fails)
    with pytest.raises(OSError):
        paths.rename(b"d", b"target")
    monkeypatch.undo()
    assert tree(paths) == before
    assert tree(stand.paths()) == before


def test_a_filesystem_without_rename_whiteout(stand, form, monkeypatch):
    stand.put(1, "f", "x")
    stand.put(1, "d/g", "y")
    real = _sys.renameat2

    def plain(fd, source, new_fd, target, flags):
        if flags == _sys.RENAME_WHITEOUT:
            raise OSError(errno.EINVAL, "not here")
        real(fd, source, new_fd, target, flags)

    monkeypatch.setattr(_sys, "renameat2", plain)
    paths = stand.paths(whiteouts=form)
    paths.rename(b"f", b"F")
    paths.rename(b"d", b"D")
    assert paths.list(b"") == [b"D", b"F"]
    assert stand.paths().list(b"") == [b"D", b"F"]


def test_the_old_name_is_hidden_in_the_form_that_is_written(stand, form):
    long_name = "l" * 255
    stand.put(1, long_name, "x")
    stand.put(1, "d/x", "x")
    paths = stand.paths(whiteouts=form)
    paths.rename(os.fsencode(long_name), b"short")
    paths.rename(b"d", b"D")
    assert stat.S_ISCHR(os.lstat(stand.roots[0] / long_name).st_mode)
    assert (stand.roots[0] / ".wh.d").exists() == (form is WhiteoutForm.AUFS)
    assert stand.paths().list(b"") == [b"D", b"short"]


def test_what_a_mark_hid_is_forgotten_once_the_directory_is_raised(stand, form):
    stand.put(1, "d/sub/gone/x", "x")
    stand.put(1, "d/sub/f", "f")
    paths = stand.paths(whiteouts=form)
    paths.unlink(b"d/sub/gone/x")
    paths.rmdir(b"d/sub/gone")
    paths.rename(b"d", b"D")
    paths.mkdir(b"D/sub/gone")
    assert os.listdir(stand.roots[0] / "D/sub/gone") == []
    assert not any("opaque" in name for name in os.listxattr(stand.roots[0] / "D/sub/gone"))

"""unlink and rmdir: the examples of the delete modes, and a failure midway (every state is in test_tables.py)."""

from __future__ import annotations

import errno
import os

import pytest

from unionfs.types import DeleteMode


def test_the_example_of_the_specification(stand):
    for name in ("a", "d", "b"):
        stand.put(1, name)
    for name in ("b", "c"):
        stand.put(0, name)
    paths = stand.paths(delete=DeleteMode.ALL)
    for name in (b"a", b"b", b"c", b"d"):
        paths.unlink(name)
    assert stand.names(0) == [".wh.a", ".wh.b", ".wh.d"]
    assert stand.names(1) == ["a", "b", "d"]


def test_all_on_writable_branches_leaves_nothing(stand_of):
    stand = stand_of("rw rw")
    stand.put(0, "b")
    stand.put(1, "b")
    paths = stand.paths(delete=DeleteMode.ALL)
    paths.unlink(b"b")
    assert (stand.names(0), stand.names(1)) == ([], [])


def test_first_lets_the_next_one_show_through(stand):
    stand.put(0, "f", "new")
    stand.put(1, "f", "old")
    paths = stand.paths(delete=DeleteMode.FIRST)
    paths.unlink(b"f")
    assert paths.read(b"f") == b"old"
    with pytest.raises(OSError) as error:
        paths.unlink(b"f")
    assert error.value.errno == errno.EROFS


def test_a_directory_is_empty_when_only_whiteouts_are_in_it(stand, form):
    stand.put(0, "d/upper")
    stand.put(1, "d/lower")
    stand.put(1, "d/sub/x")
    paths = stand.paths(whiteouts=form)
    for name in (b"d/upper", b"d/lower", b"d/sub/x"):
        paths.unlink(name)
    paths.rmdir(b"d/sub")
    paths.rmdir(b"d")
    assert paths.list(b"") == []
    assert len(stand.names(0)) == 1
    assert stand.paths().list(b"") == []


def test_a_removal_that_fails_changes_nothing_that_shows(stand_of, monkeypatch):
    stand = stand_of("rw rw")
    stand.put(0, "f", "top")
    stand.put(1, "f", "bottom")
    paths = stand.paths(delete=DeleteMode.ALL)
    unlink = os.unlink
    calls = []

    def second_fails(path, *args, **options):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.EIO, "broken")
        unlink(path, *args, **options)

    monkeypatch.setattr(os, "unlink", second_fails)
    with pytest.raises(OSError):
        paths.unlink(b"f")
    monkeypatch.undo()
    assert paths.read(b"f") == b"top"
    assert stand.names(1) == []

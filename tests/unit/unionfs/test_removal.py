"""Trees that go as a whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from unionfs.removal import remove_tree


def remove_at(base: Path, name: str) -> None:
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        remove_tree(name, dir_fd=fd)
    finally:
        os.close(fd)


def test_a_tree_deeper_than_any_stack(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deep", dir_fd=fd)
        os.close(os.open("beside", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        inner = os.open("deep", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    remove_at(tmp_path, "deep")
    assert os.listdir(tmp_path) == ["beside"]


def test_a_wide_tree_and_what_links_lead_to(tmp_path: Path) -> None:
    kept = tmp_path / "kept/sub"
    kept.mkdir(parents=True)
    (kept / "file").touch()
    for number in range(30):
        inner = tmp_path / f"tree/{number}/same/same"
        inner.mkdir(parents=True)
        (inner / "to-kept").symlink_to(kept)
        (inner / "file").touch(mode=0)
        os.mkfifo(inner / "fifo")
    (tmp_path / "tree/link").symlink_to(kept)
    (tmp_path / "single").symlink_to(kept)
    remove_at(tmp_path, "tree")
    remove_at(tmp_path, "single")
    assert sorted(os.listdir(tmp_path)) == ["kept"]
    assert os.listdir(kept) == ["file"]
    remove_at(tmp_path, "tree")


@pytest.mark.owners("becomes somebody who has no right to write")
def test_directories_that_even_their_owner_may_not_write_to(tmp_path: Path) -> None:
    for name in ("tree/a/b", "tree/c", "tree/a/d"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
    pid = os.fork()  # noqa: TID251 - a child that gives its rights up, in a process without threads
    if pid == 0:
        status = 1
        try:
            fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
            for directory, _, _ in os.walk(tmp_path, topdown=False):
                os.chown(directory, 1234, 1234)
            os.setresgid(1234, 1234, 1234)
            os.setresuid(1234, 1234, 1234)
            for name in ("tree/a/b", "tree/a/d", "tree/a", "tree/c", "tree"):
                os.chmod(name, 0o500 if name == "tree/a/b" else 0, dir_fd=fd)
            remove_tree("tree", dir_fd=fd)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert os.listdir(tmp_path) == []


def test_a_directory_that_is_moved_away_meanwhile_is_not_left_upwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "tree/inner"
    (inner / "full").mkdir(parents=True)
    (inner / "full/file").touch()
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "inner").mkdir(parents=True)
    (elsewhere / "other").touch()
    unlink = os.unlink

    def moving(*args: Any, **kwargs: Any) -> None:
        unlink(*args, **kwargs)
        os.rename(inner / "full", elsewhere / "full")

    monkeypatch.setattr(os, "unlink", moving)
    with pytest.raises(OSError, match="Stale") as refused:
        remove_tree(tmp_path / "tree")
    assert refused.value.errno == errno.ESTALE
    assert sorted(os.listdir(elsewhere)) == ["full", "inner", "other"]

"""Files of outputs: whole or not there, links followed, what is no regular file written to as it lies."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from builder.destination import destination
from builder.errors import BuildError
from layers.ownership import temporary_name, this_process

UNNAMED = os.O_TMPFILE


@pytest.fixture(params=["unnamed files", "none"], autouse=True)
def filesystem(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without files that have no name; there the system call fails as it does on such a filesystem."""
    if request.param == "none":
        really = os.open

        def refusing(path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
            if flags & UNNAMED == UNNAMED:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
            return really(path, flags, *arguments, **keywords)

        monkeypatch.setattr(os, "open", refusing)


def write(path: Path, content: bytes = b"new") -> None:
    with destination(str(path)) as out:
        out.write(content)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    write(file)
    assert file.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_what_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def fail() -> None:
        with destination(str(file)) as out:
            out.write(b"half")
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        fail()
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_stays_and_leads_to_the_new_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_fifo_is_written_to(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    write(fifo)
    reader.join()
    assert read == [b"new"]
    assert fifo.is_fifo()


@pytest.mark.parametrize("path", ["absent/file", "directory"])
def test_a_place_where_no_file_can_be_is_an_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(BuildError, match=path):
        write(tmp_path / path)
    assert os.listdir(tmp_path) == ["directory"]


def test_what_killed_processes_left_is_gone_and_nothing_else(tmp_path: Path) -> None:
    owner = this_process()
    dead, living = temporary_name(owner._replace(start=owner.start + 1)), temporary_name(owner)
    kept = {f"file.{living}.partial", f"other.{dead}.partial", "file.partial", "file.x.partial", f"file.{dead}"}
    for name in (*kept, f"file.{dead}.partial"):
        (tmp_path / name).touch()
    write(tmp_path / "file")
    assert set(os.listdir(tmp_path)) == {*kept, "file"}


def test_it_has_the_mode_that_new_files_have(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640

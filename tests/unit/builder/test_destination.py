"""Files of outputs: whole or not there, links followed, what is no regular file written to as it lies."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from builder.destination import destination
from builder.errors import BuildError


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

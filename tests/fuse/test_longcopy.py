"""A large file is copied up while others go on: on mounts, with a kill and an unmount meanwhile."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from fuse.conftest import wait_until
from harness.unions import mounted, start

pytestmark = pytest.mark.fuse

MEGABYTE = os.urandom(1 << 20)
MEGABYTES = 160
SIZE = MEGABYTES << 20


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("top", "bottom", "root"):
        (tmp_path / name).mkdir()
    with (tmp_path / "bottom/large").open("wb") as file:
        for _ in range(MEGABYTES):
            file.write(MEGABYTE)
    (tmp_path / "bottom/small").write_bytes(b"small")
    return tmp_path


def overwrite(path: Path) -> int:
    """The first bytes are written in place; how many bytes the file has."""
    with path.open("r+b") as file:
        file.write(b"new")
    return path.stat().st_size


@contextlib.contextmanager
def copying(place: Path, path: Path) -> Iterator[Future[int]]:
    """The file is opened for writing by a thread, and its copy has begun."""
    temporary = place / "top/.wh..unionfs"
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(overwrite, path)
        wait_until(lambda: writer.done() or (temporary.exists() and bool(os.listdir(temporary))), "the copy begins")
        yield writer


@pytest.mark.parametrize("options", ["", "whiteouts=overlay", "transport=pyfuse3"])
def test_others_are_answered_meanwhile(options: str, place: Path) -> None:
    root = place / "root"
    with mounted([place / "top", place / "bottom"], root, options), copying(place, root / "large") as writer:
        assert (root / "small").read_bytes() == b"small"
        answered = 0
        while not writer.done():
            assert not os.path.lexists(root / f"none {answered}")
            answered += not writer.done()
        overwrite(root / "large")
        assert writer.result() == SIZE
        with (root / "large").open("rb") as file:
            assert file.read(1 << 20) == b"new" + MEGABYTE[3:]
            assert all(file.read(1 << 20) == MEGABYTE for _ in range(MEGABYTES - 1))
    assert answered > 10
    assert not (place / "top/.wh..unionfs").exists()


def test_writers_wait_for_one_copy_and_readers_see_what_they_write(place: Path) -> None:
    root = place / "root"
    with mounted([place / "top", place / "bottom"], root), (root / "large").open("rb") as reader:
        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(overwrite, root / "large") for _ in range(4)]
            assert {writer.result() for writer in writers} == {SIZE}
        assert reader.read(3) == b"new"
    assert os.listdir(place / "top") == ["large"]


def test_the_daemon_is_killed_amid_a_copy(place: Path) -> None:
    root, branches = place / "root", [place / "top", place / "bottom"]
    daemon = start(branches, root)
    with copying(place, root / "large") as writer:
        daemon.kill()
        daemon.communicate()
        with contextlib.suppress(OSError):
            writer.result()
        subprocess.run(["umount", "-l", root], check=True)
    with mounted(branches, root):
        assert (root / "large").stat().st_size == SIZE
        with (root / "large").open("rb") as file:
            assert file.read(3) in {MEGABYTE[:3], b"new"}
        assert overwrite(root / "large") == SIZE
    assert os.listdir(place / "top") == ["large"]


def test_the_union_is_unmounted_amid_a_copy(place: Path) -> None:
    root = place / "root"
    daemon = start([place / "top", place / "bottom"], root)
    descriptor = os.open(root, os.O_PATH)
    try:
        with copying(place, root / "large") as writer:
            subprocess.run(["umount", "-l", root], check=True)
            # stat by path goes below the mount point now
            with contextlib.suppress(FileNotFoundError):
                writer.result()
    finally:
        os.close(descriptor)
    assert (daemon.communicate(timeout=20)[1], daemon.returncode) == ("", 0)
    assert os.listdir(place / "top") == ["large"]

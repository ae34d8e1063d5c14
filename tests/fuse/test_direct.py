"""The plain loop itself: defects that stay small, references given back, caches that are told."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loopback import Loopback
from unionfs.mounting import MountOptions, attach, mount_detached, open_device
from unionfs.transport.direct.connection import Connection, Settings
from unionfs.transport.direct.notify import KernelNotifier
from unionfs.transport.handoff import Handoff
from unionfs.transport.loop import Loop
from unionfs.types import ROOT_INO, Attr, Caller, HandleId, Ino

pytestmark = pytest.mark.fuse


class Serving:
    """A mount served by a thread, with what it logged."""

    def __init__(self, ops: Loopback, root: Path, settings: Settings, handoff: Handoff) -> None:
        self.ops = ops
        self.log: list[str] = []
        self.device_fd = open_device()
        self.notifier = KernelNotifier(self.device_fd, handoff.start)
        self.mount_fd = mount_detached(self.device_fd, MountOptions())
        self.connection = Connection(self.device_fd, ops, self.notifier, settings, handoff, self.log.append)
        self.loop = Loop(handoff)
        self.thread = threading.Thread(target=lambda: self.loop.run(while_mounted=True))
        self.loop.add(self.connection, lambda: None)
        self.connection.serve()
        attach(self.mount_fd, os.fsencode(root))
        os.close(self.mount_fd)


@contextmanager
def serving(
    ops: Loopback, root: Path, settings: Settings | None = None, handoff: Handoff | None = None
) -> Iterator[Serving]:
    root.mkdir()
    mount = Serving(ops, root, settings or Settings(), handoff or Handoff())
    mount.thread.start()
    try:
        yield mount
    finally:
        subprocess.run(["umount", root], check=True)
        mount.thread.join()
        mount.connection.close()
        mount.loop.close()


class Broken(Loopback):
    """A filesystem with a defect: whoever asks for ``bad`` meets it."""

    def lookup(self, parent: Ino, name: bytes, caller: Caller) -> Attr:
        if name == b"bad":
            raise ZeroDivisionError("a defect")
        return super().lookup(parent, name, caller)


class Talkative(Loopback):
    """A filesystem that gives more than was asked for."""

    def read(self, handle: HandleId, offset: int, size: int) -> bytes:
        return b"x" * (size + 1)


def test_reply_the_kernel_refuses_is_an_error_of_one_request(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with serving(Talkative(os.fsencode(tree)), root) as mount:
        with pytest.raises(OSError, match="Input/output error"):
            (root / "file").read_bytes()
        assert sorted(os.listdir(root)) == ["file", "sub"]
    assert "is refused by the kernel" in mount.log[0]


def test_defect_is_an_error_of_one_request(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with serving(Broken(os.fsencode(tree)), root) as mount:
        with pytest.raises(OSError, match="Input/output error"):
            os.stat(root / "bad")
        assert (root / "file").read_bytes() == b"content"
    assert len(mount.log) == 1
    assert mount.log[0].startswith("LOOKUP of node 1 failed unexpectedly, answered EIO\nTraceback")
    assert "a defect" in mount.log[0]


def test_unknown_requests_are_refused(tree: Path, tmp_path: Path) -> None:
    import fcntl

    root = tmp_path / "root"
    with serving(Loopback(os.fsencode(tree)), root), open(root / "file", "rb") as file:
        with pytest.raises(OSError, match="Inappropriate ioctl"):
            fcntl.ioctl(file, 0x5401)
        assert file.read() == b"content"


@pytest.mark.parametrize(
    "passthrough", [False, pytest.param(True, marks=pytest.mark.root("has the kernel read by itself"))]
)
def test_references_and_handles_are_given_back(tree: Path, tmp_path: Path, passthrough: bool) -> None:
    root = tmp_path / "root"
    for number in range(300):
        (tree / f"sub/{number}").write_bytes(b"x")
    ops = Loopback(os.fsencode(tree), pass_through=passthrough)
    with serving(ops, root, Settings(passthrough=passthrough)) as mount:
        for path in [*sorted((root / "sub").iterdir()), root / "file"]:
            path.read_bytes()
        # the kernel may give some back by itself, when it is short of memory
        assert ops.known_nodes > 10
        for number in range(300):
            (root / f"sub/{number}").unlink()
        assert _eventually(lambda: ops.known_nodes < 10)
        # the kernel tells of closed files in its own time, and not at all once it has unmounted
        assert _eventually(lambda: ops.open_handles == 0)
    assert ops.closed
    counts = mount.connection.counts()
    assert counts["OPEN"] == counts["RELEASE"]
    assert ("READ" in counts) is not passthrough


def test_shared_backing_file_over_several_opens(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    ops = Loopback(os.fsencode(tree), pass_through=True)
    with serving(ops, root, Settings(passthrough=True)):
        with open(root / "file", "rb") as one, open(root / "file", "r+b", buffering=0) as two:
            two.write(b"CON")
            with open(root / "file", "rb") as three:
                assert one.read() == three.read() == b"CONtent"
        assert (root / "file").read_bytes() == b"CONtent"


def test_kernel_remembers_until_it_is_told(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with serving(Loopback(os.fsencode(tree)), root) as mount:
        assert not (root / "late").exists()
        assert (root / "file").stat().st_size == 7
        (tree / "late").write_bytes(b"")
        (tree / "file").write_bytes(b"more content")
        assert not (root / "late").exists()
        assert (root / "file").stat().st_size == 7
        mount.notifier.invalidate_entry(ROOT_INO, b"late")
        mount.notifier.invalidate_inode(mount.ops.lookup(ROOT_INO, b"file", Caller(0, 0, 0)).ino)
        assert _eventually((root / "late").exists)
        assert _eventually(lambda: (root / "file").read_bytes() == b"more content")


def test_everything_is_looked_up_again(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with serving(Loopback(os.fsencode(tree)), root) as mount:
        assert sorted(os.listdir(root)) == ["file", "sub"]
        assert not (root / "late").exists()
        (tree / "late").write_bytes(b"")
        mount.notifier.invalidate_all()
        assert _eventually((root / "late").exists)
        assert "late" in os.listdir(root)


def test_changes_from_outside_show_when_files_are_shared(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with serving(Loopback(os.fsencode(tree), owned=False), root, Settings(timeout_seconds=0)):
        assert not (root / "late").exists()
        assert (root / "file").read_bytes() == b"content"
        (tree / "late").write_bytes(b"late")
        (tree / "file").write_bytes(b"other")
        assert (root / "late").read_bytes() == b"late"
        assert (root / "file").read_bytes() == b"other"
        assert sorted(os.listdir(root)) == ["file", "late", "sub"]


def test_listings_come_from_the_kernel_the_second_time(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with serving(Loopback(os.fsencode(tree)), root) as mount:
        os.listdir(root)
        before = mount.connection.counts()
        assert sorted(os.listdir(root)) == ["file", "sub"]
        after = mount.connection.counts()
    listing = ("READDIR", "READDIRPLUS")
    assert [before.get(name) for name in listing] == [after.get(name) for name in listing]


class Recording(Loopback):
    """Remembers how files were opened and synced."""

    def __init__(self, root: bytes) -> None:
        super().__init__(root)
        self.synced = 0

    def fsync(self, handle: HandleId, datasync: bool) -> None:
        self.synced += 1
        super().fsync(handle, datasync)


@pytest.mark.parametrize(("volatile", "synced"), [(False, 2), (True, 0)])
def test_volatile_mount_syncs_nothing(tree: Path, tmp_path: Path, volatile: bool, synced: int) -> None:
    root = tmp_path / "root"
    ops = Recording(os.fsencode(tree))
    with serving(ops, root, Settings(volatile=volatile)), open(root / "file", "r+b") as file:
        os.fsync(file)
        os.fdatasync(file)
    assert ops.synced == synced


def _eventually(condition: Callable[[], bool]) -> bool:
    import time

    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("second", "aborted"), [(errno.ENODEV, False), (errno.ECONNABORTED, True)], ids=["let go", "aborted"]
)
def test_mount_let_go_while_a_request_is_taken_is_not_aborted(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: int, aborted: bool
) -> None:
    """Met once in 3,000 mounts whose last files are closed just before, on a busy machine."""
    root = tmp_path / "root"
    with serving(Loopback(os.fsencode(tree)), root) as mount:
        pass
    answers = iter((errno.ECONNABORTED, second))

    def readv(_fd: int, _buffers: object) -> int:
        number = next(answers)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "readv", readv)
    assert not mount.connection.serve()
    assert mount.connection.aborted is aborted

"""The socket of a daemon, and the way from a path to the daemon behind it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from unionfs import control, wire
from unionfs.caller import walk
from unionfs.control import ControlError, ControlSocket
from unionfs.transport.courier import Courier

DEVICE = (0, 4095)
NAME = "0-4095.sock"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # longer than the path of a socket may be
    directory = tmp_path / ("d" * 120) / "unionfs"
    monkeypatch.setattr(control, "socket_directories", lambda _uid: [str(tmp_path / "file/none"), str(directory)])
    (tmp_path / "file").touch()
    return directory


def test_roots_of_user_namespaces_have_directories_of_their_own(project_root: Path) -> None:
    """There is a user 0 of every plain user's namespace, and one /tmp: each has that of who he is outside."""
    script = "from unionfs.control import socket_directories; print(*socket_directories(0))"
    python = f'PYTHONPATH={project_root} exec "$0" -c "{script}"'
    user = os.geteuid()
    words = ["unshare", "--user", "--map-root-user", "sh", "-c", python, sys.executable]
    done = subprocess.run(words, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True)
    *usual, last = done.stdout.split()
    assert usual == ["/run/unionfs", f"/run/user/{user}/unionfs", f"/tmp/unionfs-{user}"]
    assert last.startswith(f"/tmp/unionfs-{user}-")


def test_a_socket_comes_and_goes(directory: Path) -> None:
    one = ControlSocket(DEVICE, lambda message: message)
    assert os.listdir(directory) == [NAME]
    assert (directory.stat().st_mode & 0o777, (directory / NAME).stat().st_mode & 0o777) == (0o700, 0o600)
    one.close()
    one.close()
    assert os.listdir(directory) == []


def test_a_late_end_leaves_the_successors_socket(directory: Path) -> None:
    first = ControlSocket(DEVICE, lambda message: message)
    second = ControlSocket(DEVICE, lambda message: message)
    first.close()
    assert os.listdir(directory) == [NAME]
    second.close()
    assert os.listdir(directory) == []


def test_what_the_dead_left_is_swept_and_the_living_stay(directory: Path) -> None:
    living = ControlSocket((0, 1), lambda message: message)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        fd = os.open(directory, os.O_PATH)
        dead.bind(f"/proc/self/fd/{fd}/0-2.sock")
        os.close(fd)
    (directory / "other").touch()
    new = ControlSocket(DEVICE, lambda message: message)
    assert sorted(os.listdir(directory)) == ["0-1.sock", NAME, "other"]
    for one in (living, new):
        one.close()
    assert os.listdir(directory) == ["other"]


def test_a_directory_that_others_may_write_to_is_not_used(directory: Path) -> None:
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    with pytest.raises(ControlError, match="belongs to somebody else"):
        ControlSocket(DEVICE, lambda message: message)
    assert os.listdir(directory) == []


LINKS = {b"/a/l": b"../b", b"/b/m": b"/c", b"/loop": b"loop"}
WALKS = {
    b"/": b"/",
    b"/a": b"/a",
    b"//a/./x/": b"/a/x",
    b"/a/../c": b"/c",
    b"/..": b"/",
    b"/a/l": b"/b",
    b"/a/l/..": b"/",
    b"/a/l/m/d": b"/c/d",
    b"/a/l/m/../a/l": b"/b",
}


def look(path: bytes, *, last: bool) -> bytes | None:
    return LINKS.get(path)


@pytest.mark.parametrize(("path", "place"), WALKS.items())
def test_walk(path: bytes, place: bytes) -> None:
    assert walk(path, look) == place


def test_walk_in_a_circle() -> None:
    with pytest.raises(OSError, match="Too many levels"):
        walk(b"/loop/x", look)


def test_an_answer_waits_until_the_kernel_was_told(directory: Path) -> None:
    waiting: list[Callable[[], None]] = []
    one = ControlSocket(DEVICE, lambda message: {"was": message["do"]}, waiting.append)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            fd = os.open(directory, os.O_PATH)
            caller.connect(f"/proc/self/fd/{fd}/{NAME}")
            os.close(fd)
            wire.send(caller, {"do": "refresh"})
            one.serve()
            caller.settimeout(0)
            with pytest.raises(BlockingIOError):
                caller.recv(1)
            waiting.pop()()
            caller.settimeout(None)
            received = wire.receive(caller)
            assert received is not None
            assert received.message == {"was": "refresh"}
    finally:
        one.close()


def test_a_courier_makes_a_call_after_what_was_posted_before() -> None:
    courier, done, held = Courier(), list[str](), threading.Event()
    courier.after(lambda: done.append("nothing is on its way"))
    assert done == ["nothing is on its way"]
    courier.post(lambda: (held.wait(), done.append("posted")))
    courier.after(lambda: done.append("after"))
    assert len(done) == 1
    held.set()
    assert courier.finish(10)
    assert done[1:] == ["posted", "after"]

"""Mounts for the tests: made by the union server with the loopback double, or by the commands."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.unions import socket_of
from loopback_server import COMMAND
from unionfs.branch import Branch
from unionfs.client import DetachedMount, UnionServer
from unionfs.mounting import attach
from unionfs.types import UnionOptions

PROJECT = Path(__file__).resolve().parents[2]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def server() -> Iterator[UnionServer]:
    """A union server that serves the loopback double."""
    with UnionServer.start(COMMAND) as server:
        yield server


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with something in it."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "file").write_bytes(b"content")
    (tree / "sub/inner").write_bytes(b"inner")
    return tree


def detached(server: UnionServer, tree: Path, passthrough: str = "fast") -> DetachedMount:
    """The tree as a mount attached nowhere."""
    return server.mount([Branch(os.fsencode(tree))], UnionOptions(), passthrough=passthrough)


def statistics(mount: DetachedMount) -> dict[str, Any] | None:
    """What the end of a mount tells; None when the server died before. Waits for it."""
    with os.fdopen(mount.ended, "rb") as stream:
        told = stream.read()
    return json.loads(told) if told else None


@contextlib.contextmanager
def attached(server: UnionServer, tree: Path, root: Path, passthrough: str = "fast") -> Iterator[Path]:
    """The tree mounted at ``root``."""
    root.mkdir(exist_ok=True)
    mount = detached(server, tree, passthrough)
    attach(mount.fd, os.fsencode(root))
    os.close(mount.fd)
    try:
        yield root
    finally:
        subprocess.run(["umount", root], check=True)
        assert statistics(mount) is not None


@pytest.fixture
def command(project_root: Path) -> Command:
    """Runs one of the package's commands to its end."""

    def run(name: str, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(project_root)}
        return subprocess.run(
            [sys.executable, "-m", f"unionfs.cli.{name}", *map(str, words)],
            env=environment, capture_output=True, text=True, check=False, **options,
        )  # fmt: skip

    return run


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Returns once ``condition`` holds; fails when it does not in ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


def mount_lines(path: Path) -> list[str]:
    """What this process sees of mounts at or below ``path``."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return [line for line in file if line.split(" ")[4].startswith(str(path))]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Branches ``top`` and ``low`` and a mount point ``m``; whatever is mounted there goes at the end."""
    for name in ("top", "low/dir", "m", "work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "top/in-top").write_text("top")
    (tmp_path / "low/in-low").write_text("low")
    (tmp_path / "low/dir/deep").write_text("deep")
    yield tmp_path
    for name in ("m", "low"):
        unmount(tmp_path / name)


def unmount(root: Path) -> None:
    """Nothing is mounted at ``root`` and the daemon behind it is gone."""
    lines = mount_lines(root)
    if not lines:
        return
    path = socket_of(lines[-1].split(" ")[2])
    number = identity(path)
    subprocess.run(["umount", root], check=True)
    # the next mount, anybody's, may get the same device number
    wait_until(lambda: identity(path) != number or number is None, "the daemon ends")


def identity(path: str) -> tuple[int, int] | None:
    """Which file lies there, None when none does."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def attempt(place: Path, script: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    """The script has run in ``place`` with the commands installed, in a mount namespace of its own or that of ``prefix``."""
    programs = place / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("unionmount", "unionctl"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nPYTHONPATH={PROJECT} exec {sys.executable} -m unionfs.cli.{name} "$@"\n')
        program.chmod(0o755)
    # where mount.fuse3 looks, whatever PATH says
    script = f"mount --bind {programs} /usr/local/sbin\nPATH=$PATH:/usr/local/sbin\n{script}"
    return subprocess.run(
        [*(prefix or ("unshare", "--mount")), "sh", "-euc", script],
        cwd=place, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def shell(place: Path, script: str, *prefix: str) -> str:
    """What the script prints (``attempt``); it succeeds and says nothing on stderr."""
    done = attempt(place, script, *prefix)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout

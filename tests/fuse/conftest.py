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

from loopback_server import COMMAND
from unionfs.branch import Branch
from unionfs.client import DetachedMount, UnionServer
from unionfs.mounting import attach
from unionfs.types import UnionOptions

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

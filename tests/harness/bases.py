"""Base images and base roots for tests, made by scripts/bases.py and kept outside the checkout."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.abilities import missing_for_ids, refuse

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bases.py"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pybuild-demo"


def made(name: str, *options: str) -> Path:
    """The path scripts/bases.py prints for a base; a base that cannot be made fails the test with its one line."""
    lacking = missing_for_ids() if name != "busybox" else None
    if lacking is not None:
        refuse(f"makes Debian, whose files have many owners: {lacking}")
    done = subprocess.run([sys.executable, SCRIPT, *options, name], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(done.stderr.strip(), pytrace=False)
    return Path(done.stdout.strip())


def unpacked(name: str) -> Path:
    """The root of a base as a directory, unpacked once by GNU tar (root keeps owners and devices)."""
    tar = made(name, "--tar")
    root = CACHE / f"{tar.name.removesuffix('.rootfs.tar')}.root"
    with open(CACHE / f".{name}-root.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            partial = CACHE / f".{name}-{os.getpid()}.root"
            partial.mkdir()
            subprocess.run(["tar", "--extract", "--file", tar, "--directory", partial, "--xattrs"], check=True)
            partial.rename(root)
    return root


@pytest.fixture(scope="session")
def base_archive() -> Callable[[str], Path]:
    """``base_archive("busybox")``: the docker archive of a base."""
    return made


@pytest.fixture(scope="session")
def busybox_root() -> Path:
    """A busybox root filesystem as a directory. Tests read it, or stack a branch above it; they never write there."""
    return unpacked("busybox")


@pytest.fixture(scope="session")
def debian_archive() -> Path:
    """The docker archive of debian:bookworm."""
    return made("debian")


@pytest.fixture(scope="session")
def debian_root() -> Path:
    """A minimal Debian root filesystem as a directory. Tests never write there."""
    return unpacked("debian")

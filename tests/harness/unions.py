"""Unions mounted by unionmount in the foreground, for tests that look after the daemon themselves."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from unionfs.control import socket_directories

PROJECT = Path(__file__).resolve().parents[2]


def start(branches: Sequence[Path], root: Path, options: str = "", *, writable: int = 1) -> subprocess.Popen[str]:
    """The daemon of a union of ``branches``, as many of them ``writable`` from the top, mounted at ``root`` when this returns.

    The caller unmounts, and waits for the daemon, whose stderr is a pipe.
    """
    directories = ":".join(
        f"{branch}={'rw' if position < writable else 'ro'}" for position, branch in enumerate(branches)
    )
    words = ["-f", "-o", ",".join(filter(None, (f"dirs={directories}", options))), str(root)]
    daemon = subprocess.Popen(
        [sys.executable, "-m", "unionfs.cli.unionmount", *words],
        env={**os.environ, "PYTHONPATH": str(PROJECT)}, stderr=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip
    while not os.path.ismount(root):
        assert daemon.poll() is None, daemon.communicate()[1]
        time.sleep(0.005)
    return daemon


def socket_of(device: str) -> str:
    """The socket of this user's daemon whose mount has the device number ``MAJOR:MINOR``."""
    directories = socket_directories(os.geteuid())
    directory = next((each for each in directories if os.access(each, os.W_OK)), directories[0])
    return f"{directory}/{device.replace(':', '-')}.sock"


@contextlib.contextmanager
def mounted(
    branches: Sequence[Path], root: Path, options: str = "", *, writable: int = 1
) -> Iterator[subprocess.Popen[str]]:
    """The union, unmounted at the end; the daemon has then ended well and had nothing to say."""
    daemon = start(branches, root, options, writable=writable)
    try:
        yield daemon
    finally:
        subprocess.run(["umount", root], check=True)
        said = daemon.communicate(timeout=20)[1]
        assert (daemon.returncode, said) == (0, "")

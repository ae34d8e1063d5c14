"""Where the POSIX cases run: a plain directory, and unions behind every transport."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from conformance.posix_cases import ALL, Case
from unionfs.branch import Branch
from unionfs.client import UnionServer
from unionfs.mounting import attach
from unionfs.types import Access, UnionOptions

Target = Callable[[Path], contextlib.AbstractContextManager[Path]]
"""Makes a filesystem below a directory; its root. ``lower`` beside it is seen through it."""


@contextlib.contextmanager
def plain(base: Path) -> Iterator[Path]:
    """A directory as it is, the known-good one."""
    yield base / "lower"


@contextlib.contextmanager
def direct(base: Path, passthrough: str) -> Iterator[Path]:
    """The union, served by the union server."""
    upper, root = base / "upper", base / "root"
    upper.mkdir()
    root.mkdir()
    branches = [Branch(os.fsencode(upper)), Branch(os.fsencode(base / "lower"), Access.RO)]
    with UnionServer.start() as server:
        mount = server.mount(branches, UnionOptions(), passthrough=passthrough)
        attach(mount.fd, os.fsencode(root))
        os.close(mount.fd)
        try:
            yield root
        finally:
            subprocess.run(["umount", root], check=True)
            ended = os.read(mount.ended, 1 << 16)
            os.close(mount.ended)
            assert ended, "the server did not end the mount in order"


@contextlib.contextmanager
def pyfuse3(base: Path) -> Iterator[Path]:
    """The union, served by unionmount through pyfuse3."""
    upper, root = base / "upper", base / "root"
    upper.mkdir()
    root.mkdir()
    options = f"dirs={upper}=rw:{base / 'lower'}=ro,transport=pyfuse3"
    command = [sys.executable, "-m", "unionfs.cli.unionmount", "-f", "-o", options, str(root)]
    with subprocess.Popen(command) as daemon:
        while not os.path.ismount(root):
            assert daemon.poll() is None, "unionmount ended"
            time.sleep(0.01)
        try:
            yield root
        finally:
            subprocess.run(["umount", root], check=True)
            assert daemon.wait(10) == 0


class Where(NamedTuple):
    """One target and which cases it is known to fail."""

    name: str
    make: Target
    gaps: dict[str, str]
    """Name of a case → why it cannot hold."""


_NO_SUCH_REQUEST = "pyfuse3 has no such request"

TARGETS = [
    Where("plain", plain, {}),
    Where("direct-off", lambda base: direct(base, "off"), {}),
    Where("direct-auto", lambda base: direct(base, "auto"), {}),
    Where("direct-fast", lambda base: direct(base, "fast"), {}),
    Where(
        "pyfuse3",
        pyfuse3,
        {
            f"{origin}:{name}": _NO_SUCH_REQUEST
            for origin in ("new", "lower")
            for name in (
                "seek_data_and_hole",
                "fallocate_extends",
                "fallocate_punches_a_hole",
                "unnamed_file",
            )
        }
        | {
            f"{origin}:default_access_control_list_is_inherited": "libfuse takes the umask off before it asks"
            for origin in ("new", "lower")
        },
    ),
]


def origins(where: Where) -> list[str]:
    """Where the seed of a case comes from: made through the filesystem, or there from below."""
    return {"plain": ["new"], "direct-auto": ["lower"], "direct-fast": ["lower"]}.get(where.name, ["new", "lower"])


def seed_lower(base: Path, where: Where) -> None:
    """The seeds of all cases that start with files from below, before anything is mounted."""
    lower = base / "lower"
    lower.mkdir()
    lower.chmod(0o755)
    if "lower" in origins(where):
        for one in ALL:
            directory = lower / f"lower-{one.name}"
            directory.mkdir()
            one.seed(directory)


def run(root: Path, origin: str, one: Case) -> None:
    """The case holds, or raises."""
    directory = root / f"{origin}-{one.name}"
    if origin == "new":
        directory.mkdir()
        one.seed(directory)
    one.run(directory)

"""U1 and U3: cold `find -ls` and `tar` of 20,000 small files through the union, beside fuse-overlayfs and overlayfs.

Each round mounts afresh, so that the kernel knows nothing of the union yet; the branches' own pages are warm. The files
lie in 200 directories of the lower branch, 1 to 16 KiB each.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measure import Contender, Goal, alternate, arguments, report

from unionfs.branch import Branch
from unionfs.client import UnionServer
from unionfs.mounting import attach
from unionfs.types import Access, UnionOptions

DIRECTORIES = 200
FILES = 100
GOAL = 1.0


class Mounted:
    """A mount point that holds a fresh mount before each run."""

    def __init__(self, base: Path, mount: Callable[[Path, Path, Path], None]) -> None:
        self.root = base / "root"
        self._base = base
        self._mount = mount
        self._round = 0

    def fresh(self) -> None:
        self.unmount()
        self._round += 1
        upper = self._base / f"upper-{self._round}"
        work = self._base / f"work-{self._round}"
        upper.mkdir()
        work.mkdir()
        self.root.mkdir(exist_ok=True)
        self._mount(upper, work, self.root)

    def unmount(self) -> None:
        if os.path.ismount(self.root):
            subprocess.run(["umount", self.root], check=True)


def make_tree(lower: Path) -> None:
    chance = random.Random(1)
    for directory in range(DIRECTORIES):
        (lower / f"dir-{directory:03}").mkdir(parents=True)
        for file in range(FILES):
            size = chance.randrange(1 << 10, 16 << 10)
            (lower / f"dir-{directory:03}/file-{file:03}").write_bytes(chance.randbytes(size))


def union(server: UnionServer, lower: Path, passthrough: str) -> Callable[[Path, Path, Path], None]:
    def mount(upper: Path, _work: Path, root: Path) -> None:
        branches = [Branch(os.fsencode(upper)), Branch(os.fsencode(lower), Access.RO)]
        made = server.mount(branches, UnionOptions(), passthrough=passthrough)
        attach(made.fd, os.fsencode(root))
        os.close(made.fd)
        os.close(made.ended)

    return mount


def peer(lower: Path, *command: str) -> Callable[[Path, Path, Path], None]:
    def mount(upper: Path, work: Path, root: Path) -> None:
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        subprocess.run([*command, "-o", options, root], check=True, stderr=subprocess.DEVNULL)

    return mount


def find(root: Path) -> None:
    subprocess.run(["find", root, "-ls"], stdout=subprocess.DEVNULL, check=True)


def tar(root: Path) -> None:
    # to a pipe: GNU tar does not read files when it sees that the archive is /dev/null
    with subprocess.Popen(["tar", "-C", root, "-cf", "-", "."], stdout=subprocess.PIPE) as archiver:
        assert archiver.stdout is not None
        while os.read(archiver.stdout.fileno(), 1 << 20):
            pass
    assert archiver.returncode == 0


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=7)
    met = True
    absent = [] if shutil.which("fuse-overlayfs") else ["fuse-overlayfs"]
    with tempfile.TemporaryDirectory(prefix="union-tree-") as name, UnionServer.start() as server:
        base = Path(name)
        make_tree(base / "lower")
        kinds = {"union": union(server, base / "lower", "fast"), "union-off": union(server, base / "lower", "off")}
        if not absent:
            kinds["fuse-overlayfs"] = peer(base / "lower", "fuse-overlayfs")
        kinds["overlayfs"] = peer(base / "lower", "mount", "-t", "overlay", "overlay")
        mounts = {}
        with contextlib.ExitStack() as stack:
            for kind, mount in kinds.items():
                (base / kind).mkdir()
                mounts[kind] = Mounted(base / kind, mount)
                stack.callback(mounts[kind].unmount)
            for title, work in (("U1 cold find -ls of 20,000 files", find), ("U3 cold tar of 20,000 files", tar)):
                contenders = [
                    Contender(kind, lambda one=one, work=work: work(one.root), one.fresh)
                    for kind, one in mounts.items()
                ]
                rows = alternate(contenders, options)
                met &= report(title, rows, goals=[Goal("fuse-overlayfs", GOAL)], absent=absent)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

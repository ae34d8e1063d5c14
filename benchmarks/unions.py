"""Unions that show the same branches: ours with and without passthrough, the FUSE peers, kernel overlayfs.

Each round mounts afresh, so that the kernel knows nothing of the union yet ("cold"), with an empty upper branch; the
branches' own pages and inodes are warm for everybody. Peers take part where they are installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from measure import Contender, Goal, Row, alternate

from unionfs.branch import Branch
from unionfs.client import UnionServer
from unionfs.mounting import attach
from unionfs.types import Access, UnionOptions

OURS, OURS_OFF, COMMAND, KERNEL = "union", "union, passthrough off", "unionmount", "overlayfs"
FUSE_PEERS = ("fuse-overlayfs", "unionfs-fuse", "mergerfs")
COPYING_PEERS = FUSE_PEERS[:2]
"""Those that copy up and hide what lies below; mergerfs does neither."""

Mount = Callable[[Path, Path, Path], int | None]
"""Attaches a union of an upper branch, with a directory for work, at a root.

Perhaps a descriptor that ends once the union has let its branches go.
"""


class Mounted:
    """A mount point that holds a fresh mount, with an upper branch of its own, after each `fresh`."""

    def __init__(self, base: Path, mount: Mount) -> None:
        base.mkdir()
        self.root = base / "root"
        self.root.mkdir()
        self.upper = self._work = self._base = base
        self._mount = mount
        self._round = 0
        self._ended: int | None = None

    def fresh(self, fill: Callable[[Path], None] | None = None) -> None:
        """The mount is new; ``fill`` has put things into its upper branch before."""
        self.renew()
        if fill is not None:
            fill(self.upper)
        self.attach()

    def renew(self) -> None:
        """Nothing is mounted, the upper branch is new."""
        self.unmount()
        self._round += 1
        self.upper = self._base / f"upper-{self._round}"
        self._work = self._base / f"work-{self._round}"
        self.upper.mkdir()
        self._work.mkdir()

    def attach(self) -> None:
        """The mount is there and answers."""
        self._ended = self._mount(self.upper, self._work, self.root)
        os.stat(self.root)

    def unmount(self) -> None:
        """Nothing is mounted, what was written is gone."""
        if os.path.ismount(self.root):
            subprocess.run(["umount", self.root], check=True)
        if self._ended is not None:
            while os.read(self._ended, 1 << 16):
                pass
            os.close(self._ended)
            self._ended = None
        for left in (*self._base.glob("upper-*"), *self._base.glob("work-*")):
            shutil.rmtree(left, ignore_errors=True)  # a daemon may be taking its own things away


class Unions(NamedTuple):
    """All unions over the same lower branches, ours first."""

    mounts: dict[str, Mounted]
    absent: list[str]

    def measure(
        self,
        options: Namespace,
        work: Callable[[Path], object],
        *,
        before: Callable[[Path], object] | None = None,
        fill: Callable[[Path], None] | None = None,
        without: Sequence[str] = (),
    ) -> list[Row]:
        """Seconds ``work`` takes in the root of each fresh union, ``before`` having been done there unmeasured."""

        def prepare(one: Mounted) -> None:
            one.fresh(fill)
            if before is not None:
                before(one.root)

        contenders = [
            Contender(name, lambda one=one: work(one.root), lambda one=one: prepare(one))
            for name, one in self.mounts.items()
            if name not in without
        ]
        rows = alternate(contenders, options)
        for one in self.mounts.values():
            one.unmount()
        return rows


def best(rows: Sequence[Row], ratio: float, *, peers: Sequence[str] = FUSE_PEERS, of: str = "") -> list[Goal]:
    """The goal to be as fast as the fastest of ``peers``; none where no peer took part."""
    here = [row for row in rows if row.name in peers]
    return [Goal(min(here, key=lambda row: row.median).name, ratio, of)] if here else []


def ours(server: UnionServer, lowers: Sequence[Path], passthrough: str) -> Mount:
    """The project's union, served by a server that runs already."""

    def mount(upper: Path, _work: Path, root: Path) -> int:
        branches = [Branch(os.fsencode(upper)), *(Branch(os.fsencode(lower), Access.RO) for lower in lowers)]
        made = server.mount(branches, UnionOptions(), passthrough=passthrough)
        attach(made.fd, os.fsencode(root))
        os.close(made.fd)
        return made.ended

    return mount


def _unionmount(lowers: Sequence[Path]) -> Mount:
    program = Path(sys.executable).parent / "unionmount"

    def mount(upper: Path, _work: Path, root: Path) -> None:
        dirs = ":".join([f"{upper}=rw", *(f"{lower}=ro" for lower in lowers)])
        subprocess.run([program, "-o", f"dirs={dirs},passthrough=fast", root], check=True)

    return mount


def _overlay(lowers: Sequence[Path], *command: str) -> Mount:
    """A program that takes the options of overlayfs."""
    # short relative paths: mount(2) takes one page of options
    parent = lowers[0].parent
    names = ":".join(os.path.relpath(lower, parent) for lower in lowers)

    def mount(upper: Path, work: Path, root: Path) -> None:
        options = f"lowerdir={names},upperdir={upper},workdir={work}"
        subprocess.run([*command, "-o", options, root], check=True, cwd=parent, stderr=subprocess.DEVNULL)

    return mount


def _unionfs_fuse(lowers: Sequence[Path]) -> Mount:
    def mount(upper: Path, _work: Path, root: Path) -> None:
        branches = ":".join([f"{upper}=RW", *(f"{lower}=RO" for lower in lowers)])
        subprocess.run(["unionfs-fuse", "-o", "cow", branches, root], check=True)

    return mount


def _mergerfs(lowers: Sequence[Path]) -> Mount:
    def mount(upper: Path, _work: Path, root: Path) -> None:
        branches = ":".join([f"{upper}=RW", *(f"{lower}=RO" for lower in lowers)])
        subprocess.run(["mergerfs", "-o", "category.create=ff,minfreespace=0", branches, root], check=True)

    return mount


@contextlib.contextmanager
def unions(
    base: Path, lowers: Sequence[Path], *, without: Sequence[str] = (), command: bool = False
) -> Iterator[Unions]:
    """Every union that is here over ``lowers``, top first; their mounts are gone at the end. Needs root.

    ``command``: ours by ``unionmount`` too, with a daemon of its own each time.
    """
    makers: dict[str, Callable[[], Mount]] = {
        "fuse-overlayfs": lambda: _overlay(lowers, "fuse-overlayfs"),
        "unionfs-fuse": lambda: _unionfs_fuse(lowers),
        "mergerfs": lambda: _mergerfs(lowers),
    }
    absent = [name for name in makers if not shutil.which(name)]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(UnionServer.start())
        kinds = {OURS: ours(server, lowers, "fast"), OURS_OFF: ours(server, lowers, "off")}
        if command:
            kinds[COMMAND] = _unionmount(lowers)
        kinds |= {name: make() for name, make in makers.items() if name not in absent}
        kinds[KERNEL] = _overlay(lowers, "mount", "-t", "overlay", "overlay")
        area = stack.enter_context(tempfile.TemporaryDirectory(prefix="unions-", dir=base))
        mounts: dict[str, Mounted] = {}
        for number, (name, mount) in enumerate(kinds.items()):
            if name not in without:
                mounts[name] = Mounted(Path(area, str(number)), mount)
                stack.callback(mounts[name].unmount)
        yield Unions(mounts, absent)

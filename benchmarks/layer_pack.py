"""B4: a tree of 1 GiB becomes a compressed layer, beside buildah: with gzip, also by ISA-L, and with zstd.

Ours packs the tree as a COPY packs its layer, puts its archive into a store and its compressed form beside it: what a
build and a push do before anything is sent. Where the build knows of the push it is one pass; "in two passes" is what a
later push does. buildah's is ``commit`` of a container that holds the tree, into its storage, and ``push`` of that to a
layout; and its ``commit --disable-compression=false`` to a layout at once, which has gzip alone and is in one pass too.
Pages are warm. Ours syncs both archives to disk, buildah what it writes into the layout. What came out is printed for
each: compressors are compared by what they make, too.

Further rows show that bytes do not depend on threads: 1, 2 and 8, with each compressor.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from builders import remove_storage
from layer_content import fill
from measure import Contender, Goal, alternate, arguments, report
from registry_push_pull import report_memory, run_watched

from layers.registry.compress import choose

TOTAL_BYTES = 1 << 30
CHECKED_BYTES = 96 << 20
PEER_GOAL = 0.7

OURS = """
import sys
from pathlib import Path
from layers import media
from layers.registry import compressed
from layers.registry.compress import choose
from layers.store import Store
from layers.packing import pack_changes
from unionfs.delta import iter_changes
root, tree, compression, when = sys.argv[1:]
compressor = choose(compression)
with Store(root) as store:
    packed = pack_changes(store, iter_changes(Path(tree)), compressor=compressor if when == "at once" else None)
    packed.settle()
    compressed.compress(store, packed.layer.descriptor, compressor)
"""


class Work:
    """One tree, a store of ours and a storage of buildah's that holds it in a container."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tree = directory / "tree"
        self.peaks: dict[str, list[int]] = {}
        self.buildah_base = ["buildah", "--root", f"{directory}/containers", "--runroot", f"{directory}/run"]
        self.buildah_base += ["--storage-driver", "overlay"]
        self.container = ""

    def make(self) -> None:
        """The tree is there, in buildah's container too, and in memory."""
        fill(self.tree, TOTAL_BYTES)
        if shutil.which("buildah"):
            self.container = self._buildah("from", "scratch")
            mounted = self._buildah("mount", self.container)
            subprocess.run(["cp", "-a", f"{self.tree}/.", mounted], check=True)
            self._buildah("umount", self.container)
        os.sync()

    def close(self) -> None:
        """Nothing of buildah's is mounted."""
        if self.container:
            self._buildah("rm", self.container)
        remove_storage(self.directory)

    def empty(self) -> None:
        """Nothing has been packed."""
        shutil.rmtree(self.directory / "store", ignore_errors=True)
        shutil.rmtree(self.directory / "layout", ignore_errors=True)
        if self.container and self._buildah("images", "--quiet"):
            self._buildah("rmi", "--all", "--force")
        os.sync()

    def ours(self, compression: str, when: str = "at once") -> None:
        """Tree to blob by pybuild; ``when`` is "at once" or "later"."""
        command = [sys.executable, "-c", OURS, str(self.directory / "store"), str(self.tree), compression, when]
        self._watched("pybuild", command)

    def commit_and_push(self, compression: str) -> None:
        """Container to storage to layout by buildah."""
        storage = [*self.buildah_base, "commit", "--quiet", self.container, "packed:1"]
        self._watched("buildah", storage)
        target = f"oci:{self.directory}/layout:1"
        push = [*self.buildah_base, "push", "--quiet", "--compression-format", compression, "packed:1", target]
        self._watched("buildah", push)

    def commit(self) -> None:
        """Container to layout by buildah, which compresses with gzip on the way."""
        target = f"oci:{self.directory}/layout:1"
        commit = [*self.buildah_base, "commit", "--quiet", "--disable-compression=false", self.container, target]
        self._watched("buildah", commit)

    def made_bytes(self) -> int:
        """The size of the compressed layer that was made last."""
        layout, store = self.directory / "layout", self.directory / "store"
        sizes = sorted(path.stat().st_size for root in (layout, store) for path in root.glob("blobs/sha256/*"))
        # the store has the plain archive besides
        return sizes[-2] if store.exists() else sizes[-1]

    def _buildah(self, *arguments: str) -> str:
        done = subprocess.run([*self.buildah_base, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def _watched(self, name: str, command: list[str]) -> None:
        self.peaks.setdefault(name, []).append(run_watched(name, command))


def same_for_threads(tree: Path, compression: str) -> bool:
    """Whether 1, 2 and 8 threads give the same bytes, of the first 96 MiB of the tree's files."""
    content = bytearray()
    for path in sorted(tree.rglob("*")):
        if len(content) < CHECKED_BYTES and path.is_file() and not path.is_symlink():
            content += path.read_bytes()
    compressor = choose(compression)
    if compressor is None:
        raise ValueError(compression)
    found: set[bytes] = set()
    for threads in (1, 2, 8):
        digest = hashlib.sha256()
        for piece in compressor.compress(io.BytesIO(content), threads):
            digest.update(piece)
        found.add(digest.digest())
    print(f"  {compression:<10} with 1, 2 and 8 threads: {'the same bytes' if len(found) == 1 else 'OTHER BYTES'}")
    return len(found) == 1


def measured(work: Work, compression: str, options: argparse.Namespace) -> bool:
    """Whether the goals of one compression are reached."""
    ways: dict[str, Callable[[], None]] = {"pybuild": partial(work.ours, compression)}
    ways["pybuild, in two passes"] = partial(work.ours, compression, "later")
    if compression == "gzip":
        ways["pybuild, gzip:isal"] = partial(work.ours, "gzip:isal")
    if work.container:
        ways["buildah commit, push"] = partial(work.commit_and_push, compression)
    if work.container and compression == "gzip":
        ways["buildah commit"] = work.commit
    sizes: dict[str, int] = {}

    def noted(name: str) -> None:
        ways[name]()
        sizes[name] = work.made_bytes()

    rows = alternate([Contender(name, partial(noted, name), work.empty) for name in ways], options)
    goals = [Goal(name, PEER_GOAL) for name in ways if name.startswith("buildah")]
    reached = report(f"pack and compress 1 GiB, {compression}", rows, goals=goals, cpu=True)
    for name, size in sizes.items():
        print(f"  {name:<24} made {size / (1 << 20):.1f} MiB")
    return reached


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=3)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        work = Work(Path(name))
        try:
            work.make()
            reached = [measured(work, compression, options) for compression in ("gzip", "zstd")]
            reached += [same_for_threads(work.tree, compression) for compression in ("gzip", "gzip:isal", "zstd")]
        finally:
            work.close()
    reached.append(report_memory("peak memory of packing", work.peaks))
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())

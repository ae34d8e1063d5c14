"""A Debian image in a layout becomes a root filesystem, beside umoci and skopeo with buildah's storage.

The layout holds Debian as made by mmdebstrap, gzip as registries have it (made by skopeo, so by no contender's own
compressor alone), one layer. Ours opens the layout as a store and unpacks the layer into it, digests of blob and
content compared. umoci's are ``raw unpack``, files alone, and ``unpack``, which makes a bundle: a list of all files
with their digests besides. skopeo's is ``copy`` into the storage that buildah works on, with the driver ``overlay``.
A second layout has one layer of 1 GiB of all sorts (`layer_content`).

None of them syncs the files to disk. Whole commands; what was unpacked before is removed in between. The layout's
pages are warm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from builders import remove_storage
from layer_content import fill
from measure import Contender, Goal, alternate, arguments, report
from registry_push_pull import report_memory, run_watched

from harness.bases import made

LARGE_BYTES = 1 << 30
NAME = "base:1"

OURS = """
import sys
from layers.ensure import ensure_unpacked
from layers.store import Store
with Store(sys.argv[1]) as store:
    image = store.image("base:1")
    ensure_unpacked(store, image.manifest, image.config)
"""


class Work:
    """One layout, four ways to unpack it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.layout = directory / "layout"
        self.peaks: dict[str, list[int]] = {}

    def empty(self) -> None:
        """Nothing has been unpacked."""
        remove_storage(self.directory)
        shutil.rmtree(self.directory / "bundle", ignore_errors=True)
        shutil.rmtree(self.layout / "layers", ignore_errors=True)
        os.sync()

    def ours(self) -> None:
        """pybuild's way."""
        self._watched("pybuild", [sys.executable, "-c", OURS, str(self.layout)])

    def umoci(self, *command: str) -> None:
        """umoci's way."""
        bundle = str(self.directory / "bundle")
        self._watched(" ".join(("umoci", *command)), ["umoci", *command, "--image", f"{self.layout}:{NAME}", bundle])

    def skopeo(self) -> None:
        """skopeo's and buildah's way."""
        storage = f"containers-storage:[overlay@{self.directory}/containers+{self.directory}/run]base:1"
        self._watched("skopeo", ["skopeo", "copy", "-q", f"oci:{self.layout}:{NAME}", storage])

    def contenders(self) -> list[Contender]:
        """Those that are here."""
        ways = {"pybuild": self.ours}
        if shutil.which("umoci"):
            ways["umoci raw unpack"] = partial(self.umoci, "raw", "unpack")
            ways["umoci unpack"] = partial(self.umoci, "unpack")
        if shutil.which("skopeo"):
            ways["skopeo, storage"] = self.skopeo
        return [Contender(name, run, self.empty) for name, run in ways.items()]

    def _watched(self, name: str, command: list[str]) -> None:
        self.peaks.setdefault(name, []).append(run_watched(name, command))


def debian(work: Work) -> None:
    """The layout is Debian."""
    _copy(f"docker-archive:{made('debian')}", work.layout)


def large(work: Work) -> None:
    """The layout is 1 GiB of all sorts."""
    tree, archive = work.directory / "tree", work.directory / "tree.tar"
    fill(tree, LARGE_BYTES)
    subprocess.run(["tar", "--create", "--file", archive, "--directory", tree, "--numeric-owner", "."], check=True)
    shutil.rmtree(tree)
    subprocess.run(["umoci", "init", "--layout", work.layout], check=True)
    image = f"{work.layout}:{NAME}"
    subprocess.run(["umoci", "new", "--image", image], check=True)
    subprocess.run(["umoci", "raw", "add-layer", "--image", image, archive], check=True)
    archive.unlink()


def _copy(source: str, layout: Path) -> None:
    subprocess.run(["skopeo", "copy", "-q", source, f"oci:{layout}:{NAME}"], check=True)


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=5)
    absent = [name for name in ("umoci", "skopeo") if shutil.which(name) is None]
    if absent:
        sys.exit(f"{' and '.join(absent)} must be there: they make the layouts")
    reached: list[bool] = []
    peaks: dict[str, list[int]] = {}
    for title, make in {"unpacking of Debian": debian, "unpacking of 1 GiB": large}.items():
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
            work = Work(Path(name))
            work.peaks = peaks
            make(work)
            contenders = work.contenders()
            goals = [Goal(contender.name, 1.0) for contender in contenders[1:]]
            reached.append(report(title, alternate(contenders, options), goals=goals, cpu=True))
            work.empty()
    reached.append(report_memory("peak memory of unpacking", peaks))
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())

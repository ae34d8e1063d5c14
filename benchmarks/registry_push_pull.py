"""B5: push and pull of 1 GiB in 8 layers, to and from a docker-registry on loopback, beside skopeo.

Four pieces of work: push of uncompressed layers (compressed on the way), push of compressed ones, push when the
registry has it all, pull into an empty directory. Both read the same image layout; both are whole commands. Memory is
the peak resident set of the command, in the same runs. Both sync each blob they store to disk; ours syncs the
directory besides.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from measure import ROOT, Contender, Goal, Row, alternate, arguments, report

from layers import media
from layers.config import ImageConfig, RootFS
from layers.manifest import Manifest
from layers.store import Store
from layers.testing.docker_registry import DockerRegistry

LAYERS = 8
LAYER_BYTES = 128 << 20
BLOCK_BYTES = 1 << 20
_LOOK_SECONDS = 0.01
MEMORY_LIMIT_MIB = 128
NAME = "large:1"

OURS = """
import sys
from layers.registry import transfer
from layers.store import Store
act, root, name = sys.argv[1:]
with Store(root) as store:
    transfer.push(store, "large:1", name) if act == "push" else transfer.pull(store, name)
"""


class Work:
    """One registry, one image, two commands; peaks of memory by contender."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.plain = directory / "plain"
        self.compressed = directory / "compressed"
        self.registry = DockerRegistry(directory / "registry")
        self.peaks: dict[str, list[int]] = {"pybuild": [], "skopeo": []}

    def make(self) -> None:
        """The image lies uncompressed in one layout, and as it comes from a registry in another."""
        with Store(self.plain) as store:
            layers = [store.blobs.put(_content(number), media_type=media.OCI_LAYER) for number in range(LAYERS)]
            config = ImageConfig(architecture="amd64", rootfs=RootFS(tuple(layer.digest for layer in layers)))
            manifest = Manifest.create(store.blobs.put(config.to_bytes(), media_type=media.OCI_CONFIG), layers)
            store.blobs.put(manifest.raw)
            store.tag(NAME, manifest.descriptor())
        self.ours("push", self.plain)
        self.ours("pull", self.compressed)
        with Store(self.compressed) as store:
            store.tag(NAME, store.image(self.target).descriptor)

    @property
    def target(self) -> str:
        return f"{self.registry.host}/bench/large:1"

    def empty_registry(self) -> None:
        """Nothing is in the registry, and no compressed layer is remembered."""
        self.registry.stop()
        shutil.rmtree(self.registry.directory / "data", ignore_errors=True)
        self.registry.start()
        memory = self.plain / "compressed.json"
        if memory.exists():
            memory.unlink()
            with Store(self.plain) as store:
                image = store.image(NAME)
                kept = {layer.digest for layer in image.manifest.layers} | {image.id, image.descriptor.digest}
                for digest in store.blobs:
                    if digest not in kept:
                        store.blobs.remove(digest)

    def empty_target(self) -> None:
        """Nothing has been pulled."""
        shutil.rmtree(self.directory / "pulled", ignore_errors=True)

    def ours(self, act: str, store: Path) -> None:
        """pybuild's way, as a command of its own."""
        self._run("pybuild", [sys.executable, "-c", OURS, act, str(store), self.target])

    def skopeo(self, source: str, target: str) -> None:
        """skopeo's way."""
        self._run(
            "skopeo", ["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", source, target]
        )

    def _run(self, name: str, command: list[str]) -> None:
        self.peaks[name].append(run_watched(name, command))


def run_watched(name: str, command: list[str]) -> int:
    """The command has been run; its peak resident set in KiB."""
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    # not wait4(2): its peak begins with that of this process
    peak = 0
    while process.poll() is None:
        peak = max(peak, _peak_kib(process.pid))
        time.sleep(_LOOK_SECONDS)
    if process.returncode != 0:
        sys.exit(f"{name} failed")
    return peak


def report_memory(title: str, peaks: Mapping[str, Sequence[int]]) -> bool:
    """The highest of the peaks of each, in KiB, is printed and kept; whether the first one's is within the limit."""
    rows = [Row(name, [float(max(found))]) for name, found in peaks.items() if found]
    return report(title, rows, limit=MEMORY_LIMIT_MIB, ratios=False, unit="MiB", scale=1 / 1024)


def _peak_kib(pid: int) -> int:
    """The peak resident set of a process since its execve(2), 0 when it is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found.group(1)) if found else 0


def _content(number: int) -> Iterator[bytes]:
    """Programs and libraries of this machine, as an image has them, no two blocks alike."""
    made = 0
    files = [path for path in sorted(Path("/usr/lib").rglob("*.so*")) if path.is_file()]
    for turn in range(1000):
        for path in files[number::LAYERS]:
            with open(path, "rb") as file:
                while content := file.read(min(BLOCK_BYTES, LAYER_BYTES - made)):
                    yield turn.to_bytes(4, "big") + content[4:] if len(content) > 4 else content
                    made += len(content)
            if made == LAYER_BYTES:
                return


def pair(ours: Callable[[], object], skopeo: Callable[[], object], prepare: Callable[[], object]) -> list[Contender]:
    """Both ways, prepared alike."""
    return [Contender("pybuild", ours, prepare), Contender("skopeo", skopeo, prepare)]


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=3)
    if shutil.which("skopeo") is None or shutil.which("docker-registry") is None:
        sys.exit("skopeo and docker-registry are needed")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        work = Work(Path(name))
        with work.registry:
            work.make()
            registry = f"docker://{work.target}"
            rows = {
                "push of 1 GiB, compressed on the way": pair(
                    partial(work.ours, "push", work.plain),
                    partial(work.skopeo, f"oci:{work.plain}:{NAME}", registry),
                    work.empty_registry,
                ),
                "push of 1 GiB, compressed before": pair(
                    partial(work.ours, "push", work.compressed),
                    partial(work.skopeo, f"oci:{work.compressed}:{NAME}", registry),
                    work.empty_registry,
                ),
                "push of what the registry has": pair(
                    partial(work.ours, "push", work.compressed),
                    partial(work.skopeo, f"oci:{work.compressed}:{NAME}", registry),
                    lambda: None,
                ),
                "pull of 1 GiB": pair(
                    partial(work.ours, "pull", work.directory / "pulled"),
                    partial(work.skopeo, registry, f"oci:{work.directory}/pulled:1"),
                    work.empty_target,
                ),
            }
            goals = (Goal("skopeo", 1.0),)
            reached = []
            for title, pairs in rows.items():
                # no goal for what does nothing: it shows what a start costs
                due = () if "has" in title else goals
                reached.append(report(title, alternate(pairs, options), goals=due, cpu=True))
        reached.append(report_memory("peak memory of push and pull", work.peaks))
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Pull of a Debian base from a docker-registry on loopback into a root filesystem that can be used, beside buildah.

Ours is ``pybuild pull`` into an empty store: fetched, compared, unpacked as it comes. buildah's is ``buildah pull``
with overlay storage, which unpacks too. Both are whole commands. Memory is the peak of the command, in the same runs.
The base is Debian made by mmdebstrap, gzip as registries have it. Ours syncs what it stores to disk, buildah does not.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from builders import made, pybuild_command, remove_storage
from measure import ROOT, Contender, Goal, alternate, arguments, report
from registry_push_pull import report_memory, run_watched

sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

from layers.load import load
from layers.registry import transfer
from layers.store import Store
from layers.testing.docker_registry import DockerRegistry


class Work:
    """One registry with the base, two commands."""

    def __init__(self, directory: Path, registry: DockerRegistry) -> None:
        self.directory = directory
        self.name = f"{registry.host}/debian:12"
        self.peaks: dict[str, list[int]] = {"pybuild": [], "buildah": []}
        # buildah's storage and settings are its own, so that the machine's do not count
        self.storage = ["--root", str(directory / "containers"), "--runroot", str(directory / "run")]

    def empty(self) -> None:
        """Nothing has been pulled."""
        shutil.rmtree(self.directory / "store", ignore_errors=True)
        remove_storage(self.directory)
        os.sync()

    def ours(self) -> None:
        """pybuild's way."""
        command = [str(pybuild_command()), "pull", "-q", "--root", str(self.directory / "store")]
        self.peaks["pybuild"].append(run_watched("pybuild", [*command, self.name]))

    def buildah(self) -> None:
        """buildah's way."""
        command = ["buildah", *self.storage, "--storage-driver", "overlay", "pull", "-q", "--tls-verify=false"]
        self.peaks["buildah"].append(run_watched("buildah", [*command, self.name]))


def push_base(name: str, store: Path) -> None:
    """The registry has the base, compressed as registries have it."""
    with Store(store) as opened:
        with open(made("debian"), "rb") as archive:
            (image,) = load(opened, archive)
        transfer.push(opened, image.names[0], name, compression="gzip:zlib")


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=5)
    if shutil.which("buildah") is None or shutil.which("docker-registry") is None:
        sys.exit("buildah and docker-registry are needed")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        directory = Path(name)
        with DockerRegistry(directory / "registry") as registry:
            work = Work(directory, registry)
            push_base(work.name, directory / "source")
            contenders = [
                Contender("pybuild", work.ours, work.empty),
                Contender("buildah", work.buildah, work.empty),
            ]
            reached = [
                report(
                    "pull of Debian into a usable root",
                    alternate(contenders, options),
                    goals=(Goal("buildah", 1.0),),
                    cpu=True,
                )
            ]
            work.empty()
        reached.append(report_memory("peak memory", work.peaks))
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())

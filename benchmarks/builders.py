"""Builders that do the same build: pybuild, buildah, dockerd's BuildKit. Peers take part where they are installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from measure import ROOT, Contender

from harness.bases import made
from harness.dockerd import Dockerd, DockerdError, running_dockerd


def _quietly(*command: str | Path, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=env)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")


def _attempt(*command: str | Path) -> None:
    subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)


class Builder(NamedTuple):
    """``build`` takes a context and further flags; after ``forget`` the next build finds nothing of earlier ones.

    The bases are there, unpacked, as an image that was pulled is with docker and buildah.
    """

    build: Callable[..., None]
    forget: Callable[[], None]


class Builders(NamedTuple):
    """The builders that are here, by name; ``absent`` names the others."""

    here: dict[str, Builder]
    absent: list[str]

    def contenders(self, context: Path, *flags: str) -> list[Contender]:
        """Builds with what earlier ones left."""
        return [Contender(name, lambda one=one: one.build(context, *flags)) for name, one in self.here.items()]

    def newcomers(self, context: Path, *flags: str) -> list[Contender]:
        """Builds that find nothing."""
        return [one._replace(prepare=self.here[one.name].forget) for one in self.contenders(context, *flags)]


def remove_storage(directory: Path) -> None:
    """``containers`` and ``run`` in the directory, a storage of buildah's and skopeo's, are gone.

    With the driver ``overlay`` part of it is mounted onto itself.
    """
    # os.path.ismount does not see a mount of the same filesystem
    _attempt("umount", directory / "containers" / "overlay")
    shutil.rmtree(directory / "containers", ignore_errors=True)
    shutil.rmtree(directory / "run", ignore_errors=True)


def pybuild_command() -> str:
    """The command as users have it, beside the Python that runs this."""
    return str(Path(sys.executable).parent / "pybuild")


def _pybuild(directory: Path) -> Builder:
    root = str(directory / "pybuild")
    uses = directory / "uses-bases"
    uses.mkdir()
    (uses / "Dockerfile").write_text("FROM busybox\nRUN true\nFROM debian:bookworm\nRUN true\n")
    for base in ("busybox", "debian"):
        _quietly(pybuild_command(), "load", "--root", root, "-i", made(base))

    def build(context: Path, *flags: str) -> None:
        _quietly(pybuild_command(), "build", "--root", root, "-t", "bench", *flags, context)

    def forget() -> None:
        _attempt(pybuild_command(), "rmi", "--root", root, "bench")
        _quietly(pybuild_command(), "cache", "prune", "--root", root, "--all")
        unpack()

    def unpack() -> None:
        for target in ("0", "1"):
            _quietly(pybuild_command(), "build", "--root", root, "--target", target, uses)

    unpack()
    return Builder(build, forget)


def _buildah(directory: Path) -> Builder:
    base = ["buildah", "--root", f"{directory}/buildah", "--runroot", f"{directory}/buildah-run"]
    for name, tag in (("busybox", "busybox:latest"), ("debian", "debian:bookworm")):
        _quietly(*base, "pull", "--quiet", f"docker-archive:{made(name)}:{tag}")
    short = directory / "registries.conf"
    short.write_text('unqualified-search-registries = ["docker.io"]\n')
    env = {**os.environ, "CONTAINERS_REGISTRIES_CONF": str(short)}

    def build(context: Path, *flags: str) -> None:
        command = ["build", "--layers", "--isolation", "chroot", "--pull-never", "-t", "bench"]
        _quietly(*base, *command, *flags, context, env=env)

    def forget() -> None:
        _attempt(*base, "rmi", "--force", "bench")
        _quietly(*base, "rmi", "--prune", "--force")

    return Builder(build, forget)


def _dockerd(daemon: Dockerd) -> Builder:
    def forget() -> None:
        with contextlib.suppress(pytest.fail.Exception):
            daemon.run("rmi", "--force", "bench")
        daemon.run("builder", "prune", "--all", "--force")

    return Builder(lambda context, *flags: daemon.build(context, "bench", *flags), forget)


@contextlib.contextmanager
def builders(directory: Path) -> Iterator[Builders]:
    """Every builder that is here, ready, with both bases; what they stored is gone at the end."""
    here = {"pybuild": _pybuild(directory)}
    absent = []
    with contextlib.ExitStack() as stack:
        if shutil.which("buildah"):
            here["buildah"] = _buildah(directory)
            stack.callback(
                subprocess.run,
                ["buildah", "--root", f"{directory}/buildah", "--runroot", f"{directory}/buildah-run", "rm", "--all"],
                capture_output=True,
                check=False,
            )
        else:
            absent.append("buildah")
        try:
            daemon = stack.enter_context(running_dockerd())
            here["BuildKit (dockerd)"] = _dockerd(daemon)
        except (DockerdError, FileNotFoundError):
            absent.append("BuildKit (dockerd)")
        yield Builders(here, absent)


def example(name: str) -> Path:
    """The directory of one example."""
    return ROOT / "examples" / "Dockerfiles" / name

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

from measure import ROOT, Contender

from harness.bases import made
from harness.dockerd import DockerdError, running_dockerd


def _quietly(*command: str | Path, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=env)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")


class Builders(NamedTuple):
    """Each entry of ``build`` is (name, function of context and further flags); ``absent`` names those not here."""

    build: dict[str, Callable[..., None]]
    absent: list[str]

    def contenders(self, context: Path, *flags: str) -> list[Contender]:
        return [Contender(name, lambda build=build: build(context, *flags)) for name, build in self.build.items()]


def pybuild_command() -> str:
    """The command as users have it, beside the Python that runs this."""
    return str(Path(sys.executable).parent / "pybuild")


def _pybuild(directory: Path) -> Callable[..., None]:
    root = str(directory / "pybuild")
    for base in ("busybox", "debian"):
        _quietly(pybuild_command(), "load", "--root", root, "-i", made(base))

    def build(context: Path, *flags: str) -> None:
        _quietly(pybuild_command(), "build", "--root", root, "-t", "bench", *flags, context)

    return build


def _buildah(directory: Path) -> Callable[..., None]:
    base = ["buildah", "--root", f"{directory}/buildah", "--runroot", f"{directory}/buildah-run"]
    for name, tag in (("busybox", "busybox:latest"), ("debian", "debian:bookworm")):
        _quietly(*base, "pull", "--quiet", f"docker-archive:{made(name)}:{tag}")
    short = directory / "registries.conf"
    short.write_text('unqualified-search-registries = ["docker.io"]\n')
    env = {**os.environ, "CONTAINERS_REGISTRIES_CONF": str(short)}

    def build(context: Path, *flags: str) -> None:
        command = ["build", "--layers", "--isolation", "chroot", "--pull-never", "-t", "bench"]
        _quietly(*base, *command, *flags, context, env=env)

    return build


@contextlib.contextmanager
def builders(directory: Path) -> Iterator[Builders]:
    """Every builder that is here, ready, with both bases; what they stored is gone at the end."""
    build: dict[str, Callable[..., None]] = {"pybuild": _pybuild(directory)}
    absent = []
    with contextlib.ExitStack() as stack:
        if shutil.which("buildah"):
            build["buildah"] = _buildah(directory)
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
            build["BuildKit (dockerd)"] = lambda context, *flags: daemon.build(context, "bench", *flags)
        except (DockerdError, FileNotFoundError):
            absent.append("BuildKit (dockerd)")
        yield Builders(build, absent)


def example(name: str) -> Path:
    """The directory of one example."""
    return ROOT / "examples" / "Dockerfiles" / name

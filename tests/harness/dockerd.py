"""A private dockerd for differential tests: its own directories and socket, no bridge, no firewall rules."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.abilities import is_root_of_the_machine, refuse
from harness.bases import made

START_SECONDS = 60
# the client that was packaged with the daemon: a newer one elsewhere on PATH may lack its buildx component
DOCKER = shutil.which("docker", path=f"/usr/bin:{os.environ.get('PATH', '')}") or "docker"


class Dockerd(NamedTuple):
    """A running daemon, reached by the docker command."""

    host: str

    def run(self, *arguments: str | os.PathLike[str], **options: object) -> subprocess.CompletedProcess[str]:
        """The docker command against this daemon; a failure fails the test with its output."""
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
        environment["DOCKER_CONFIG"] = str(Path(self.host.removeprefix("unix://")).parent)
        done = subprocess.run(
            [DOCKER, *arguments], env=environment, capture_output=True, text=True, check=False, **options
        )
        if done.returncode != 0:
            pytest.fail(f"docker {arguments[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}", pytrace=False)
        return done

    def build(self, context: Path, tag: str, *arguments: str) -> None:
        """``docker build`` with BuildKit on the host's network."""
        self.run("build", "--network", "host", "--tag", tag, *arguments, context)

    def export_tree(self, image: str, target: Path) -> None:
        """The file tree of an image lies in ``target``; what docker itself adds to a container is still in it."""
        container = self.run("create", image, "-").stdout.strip()
        archive = target.with_suffix(".tar")
        self.run("export", "--output", archive, container)
        self.run("rm", container)
        target.mkdir()
        subprocess.run(["tar", "--extract", "--file", archive, "--directory", target, "--xattrs"], check=True)
        archive.unlink()


def _start(directory: Path, driver: str) -> subprocess.Popen[bytes] | None:
    """A daemon that answers, or None when this storage driver does not work here."""
    socket = directory / "docker.sock"
    command = ["dockerd", "--data-root", directory / "data", "--exec-root", directory / "exec"]
    command += ["--pidfile", directory / "pid", "--host", f"unix://{socket}", "--storage-driver", driver]
    command += ["--bridge=none", "--iptables=false", "--ip6tables=false"]
    with open(directory / "log", "ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        answer = subprocess.run(
            [DOCKER, "--host", f"unix://{socket}", "version"], capture_output=True, check=False, cwd=directory
        )
        if answer.returncode == 0:
            return process
        time.sleep(0.1)
    _stop(process)
    return None


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _remove(directory: Path) -> None:
    """The daemon's directories are gone, with what it left mounted there."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    points = [line.split(" ")[4] for line in mounts]
    for point in reversed([point for point in points if point.startswith(f"{directory}/")]):
        subprocess.run(["umount", "--lazy", point], check=False)
    shutil.rmtree(directory, ignore_errors=True)


class DockerdError(Exception):
    """No daemon could be started here; the message holds the end of its log."""


@contextlib.contextmanager
def running_dockerd() -> Iterator[Dockerd]:
    """A private dockerd that knows debian:bookworm and busybox, with overlay2 where that works; stopped at the end."""
    directory = Path(tempfile.mkdtemp(prefix="d", dir=Path("/var/tmp")))
    try:
        for driver in ("overlay2", "vfs"):
            process = _start(directory, driver)
            if process is not None:
                break
        else:
            raise DockerdError((directory / "log").read_text()[-2000:])
        try:
            daemon = Dockerd(f"unix://{directory / 'docker.sock'}")
            for name in ("busybox", "debian"):
                daemon.run("load", "--input", made(name))
            yield daemon
        finally:
            _stop(process)
    finally:
        _remove(directory)


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    """A private dockerd that serves the whole session."""
    if not is_root_of_the_machine():
        refuse("dockerd needs root of the machine")
    try:
        with running_dockerd() as daemon:
            yield daemon
    except DockerdError as error:
        pytest.fail(f"dockerd did not start:\n{error}", pytrace=False)

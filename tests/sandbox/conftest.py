"""A busybox root of each test's own, a sandbox server, and ``run``, which runs a command in both."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.sandbox.client import SandboxServer
from harness.abilities import NOBODY
from harness.portable import place_client
from harness.sandbox import Ran, Reader, run_in

DIRECTORIES = ("proc", "sys", "dev", "etc", "tmp", "root", "bin", "srv")
PROBES = Path(__file__).parent / "probes"


@pytest.fixture(scope="session")
def busybox_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is not installed"
    root = tmp_path_factory.mktemp("busybox")
    for name in DIRECTORIES:
        (root / name).mkdir()
    root.chmod(0o755)
    (root / "tmp").chmod(0o1777)
    shutil.copy2(busybox, root / "bin/busybox")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    for name in ("resolv.conf", "hosts", "hostname"):
        (root / "etc" / name).touch()
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    return root


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``probe("syscalls")``: the static program compiled from probes/syscalls.c."""
    directory = tmp_path_factory.mktemp("probes")

    def compiled(name: str, *options: str) -> Path:
        target = directory / name
        if not target.exists():
            command = ["gcc", "-static", "-O1", "-Wall", "-Werror", *options, "-o", target, PROBES / f"{name}.c"]
            subprocess.run(command, check=True)
        return target

    return compiled


@pytest.fixture
def rootfs(busybox_template: Path, tmp_path: Path) -> Path:
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", busybox_template, root], check=True)
    return root


@pytest.fixture
def open_root(rootfs: Path) -> Iterator[Path]:
    """The root where a plain user reaches it, and owns it; ``placed_client`` runs steps there."""
    directory = Path(tempfile.mkdtemp(prefix="pyb-rootless-", dir="/tmp"))
    try:
        directory.chmod(0o755)
        root = directory / "root"
        subprocess.run(["cp", "-a", rootfs, root], check=True)
        place_client(root)
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", directory], check=True)
        yield root
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer.start() as started:
        yield started


@pytest.fixture
def run(server: SandboxServer, rootfs: Path) -> Callable[..., Ran]:
    """``run("sh", "-c", "…", user=…)``: the step has ended."""

    def ran(*argv: str, root: Path = rootfs, **fields: Any) -> Ran:
        return run_in(server, root, *argv, **fields)

    return ran


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.close()

"""The weakest level, where a root is a directory: what a step may not do there all the same, and what it shares."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.sandbox.client import SandboxServer
from builder.sandbox.spec import User
from harness.sandbox import Ran, Reader, run_in, start
from harness.waiting import processes_running, wait_until

pytestmark = pytest.mark.sandbox

Probe = Callable[[str], Path]
MARK = f"sleep {30_000_000 + os.getpid()}"
# what docs/sandbox.md tells
SHARED = {"process", "shared-memory", "abstract-socket"}


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer.start(isolation="no-namespaces") as server:
        yield server


@pytest.fixture(autouse=True)
def null(rootfs: Path) -> None:
    os.mknod(rootfs / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))


@pytest.fixture
def run(server: SandboxServer, rootfs: Path) -> Callable[..., Ran]:
    return lambda *argv, **fields: run_in(server, rootfs, *argv, network="host", **fields)


def test_what_a_step_is(server: SandboxServer, run: Callable[..., Ran], probe: Probe, rootfs: Path) -> None:
    shutil.copy(probe("inherited"), rootfs / "bin/inherited")
    assert server.level == "no-namespaces"
    # root of a machine may install a filter
    assert run("inherited").lines() == ["bounding a80025fb", "no_new_privs 0", "seccomp 2", "descriptors 0 1 2"]


def test_root_cannot_be_left(run: Callable[..., Ran], rootfs: Path, probe: Probe) -> None:
    (rootfs / "marker").touch()
    assert (
        run("sh", "-c", "ls -d /../../../marker && cd .. && cd ../.. && ls -d marker").out
        == "/../../../marker\nmarker\n"
    )
    ran = run(
        "sh", "-c", "chroot / true; chroot /tmp true; mount -t proc proc /proc; unshare -m true; ls /proc | wc -l"
    )
    assert (ran.out, ran.err.count("ermitted"), ran.err.count("denied")) == ("0\n", 3, 1), ran.err


def test_a_capability_of_a_file_brings_none_back(run: Callable[..., Ran], rootfs: Path) -> None:
    """The file says that whoever runs it may chroot; the bounding set says that nobody may."""
    program = rootfs / "bin/busybox-own"
    shutil.copy(rootfs / "bin/busybox", program)
    os.setxattr(program, "security.capability", bytes.fromhex("010000020000040000000000" + "00" * 8))
    ran = run("busybox-own", "chroot", "/", "/bin/busybox", "true", user=User(1000, 1000))
    assert ran.result.error == 'error executing "busybox-own": operation not permitted'
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        outside = shutil.copy2(program, directory)
        assert subprocess.run([outside, "chroot", "/", "/bin/true"], user=1000, group=1000, check=False).returncode == 0


@pytest.fixture
def words(probe: Probe) -> Iterator[list[str]]:
    """As in test_escapes.py: the machine's disk, a process, a segment of shared memory and a socket."""
    key, name = str(0x6000_0000 + os.getpid()), f"pybuild-{uuid.uuid4().hex}"
    disk = os.stat("/").st_dev
    subprocess.run([probe("escape"), "make", key], check=True)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"\0{name}")
            listening.listen()
            yield [*map(str, (os.major(disk), os.minor(disk))), str(os.getpid()), key, name]
    finally:
        subprocess.run([probe("escape"), "remove", key], check=True)


def test_nothing_but_what_is_told_is_in_reach(
    run: Callable[..., Ran], rootfs: Path, probe: Probe, words: list[str]
) -> None:
    shutil.copy(probe("escape"), rootfs / "bin/escape")
    got = {name: int(number) for name, number in map(str.split, run("escape", *words).lines())}
    assert len(got) > 28
    assert {name for name, number in got.items() if number == 0} == SHARED


def test_builder_cannot_be_traced(run: Callable[..., Ran], rootfs: Path, probe: Probe, server: SandboxServer) -> None:
    """Neither what holds more capabilities, nor what may not be looked at; a process of its own can be."""
    shutil.copy(probe("trace"), rootfs / "bin/trace")
    ran = run("trace", str(os.getpid()), str(server.pid))
    assert ran.lines() == ["1 1 1 1", "1 1 1 1", "own 0"], ran.err


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"network": "none"}, "network 'none' can't be had with isolation no-namespaces: only 'host' can"),
        ({"security": "insecure"}, "security 'insecure' can't be had with isolation no-namespaces"),
        ({"cap_add": ("SYS_PTRACE",)}, "capability SYS_PTRACE can't be had with isolation no-namespaces"),
        ({"cap_add": ("SYS_CHROOT",)}, "capability SYS_CHROOT can't be had with isolation no-namespaces"),
        ({"read_only_root": True}, "a root that can't be written can't be had with isolation no-namespaces"),
        ({"ignore_chown": True}, "chown that is ignored can't be had with isolation no-namespaces"),
    ],
)
def test_what_takes_mounts_or_would_lead_out_is_refused(
    server: SandboxServer, rootfs: Path, fields: dict[str, object], told: str
) -> None:
    ran = run_in(server, rootfs, "true", **{"network": "host", **fields})
    assert (ran.status, ran.result.error) == (125, told)


def test_nothing_outlives_a_step(run: Callable[..., Ran]) -> None:
    script = f"(setsid sh -c '{MARK} & {MARK}' </dev/null >/dev/null 2>&1 &); {MARK} & sleep 0.1; exit 3"
    assert run("sh", "-c", script).status == 3
    assert processes_running(MARK) == []
    # its first process, which reaps for it, may be killed by a step that is root
    assert run("sh", "-c", f"(setsid {MARK} &); kill -9 $PPID; {MARK}").status == 137
    wait_until(lambda: not processes_running(MARK), "the step is gone")


@pytest.mark.parametrize("end", ["closed", "server killed"])
def test_nothing_outlives_who_asked_for_it(rootfs: Path, reader: Reader, end: str) -> None:
    script = f"trap '' TERM INT HUP; (setsid {MARK} &); echo ready; {MARK}; {MARK}"
    with (
        SandboxServer.start(isolation="no-namespaces") as server,
        start(server, rootfs, ("sh", "-c", script), stdout=reader.write_fd, network="host") as running,
    ):
        reader.started()
        reader.wait_for(b"ready")
        wait_until(lambda: len(processes_running(MARK)) == 2, "the step runs")
        if end == "closed":
            running.close()
        else:
            os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not processes_running(MARK), "the step is gone")


def test_host_name_stays(run: Callable[..., Ran]) -> None:
    before = socket.gethostname()
    assert run("hostname").out == f"{before}\n"
    assert socket.gethostname() == before

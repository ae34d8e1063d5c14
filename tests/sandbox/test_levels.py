"""The weaker levels: what a step shares there with the builder, what it still may not do, and that it ends all the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from builder.sandbox.client import SandboxServer
from harness.abilities import missing_for_owners
from harness.sandbox import Reader, run_in, start
from harness.waiting import processes_running, wait_until

pytestmark = pytest.mark.sandbox

IDS = "" if missing_for_owners() is None else " with one id"
"""How levels end where no other user exists."""
WEAKER = ("no-new-proc", "chroot")
SHARED = {"full": set[str](), "no-new-proc": set[str](), "chroot": {"pid", "ipc", "net"}}
MARK = f"sleep {20_000_000 + os.getpid()}"
At = Callable[[str], SandboxServer]
# the server, and all it starts, may not use pivot_root(2): as in a container with docker's filter and CAP_SYS_ADMIN
WITHOUT_PIVOT = """
import json, struct, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from builder.sandbox import _sys
from builder.sandbox.client import SandboxServer
from harness.abilities import missing_for_owners
from harness.sandbox import run_in
refuse = 0x00050001
number = _sys._own("pivot_root")
lines = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, refuse), (0x06, 0, 0, 0x7FFF0000))
_sys.SeccompFilter(b"".join(struct.pack("HBBI", *line) for line in lines)).install()
with SandboxServer.start() as server:
    ran = run_in(server, Path(sys.argv[3]), "sh", "-c", sys.argv[4])
    print(json.dumps([server.level, ran.status, ran.out, ran.err, ran.result.error]))
"""
# a working directory outside a second root, and up from there: the classic way out of chroot(2)
UPWARDS = (
    "mkdir -p /tmp/j/bin && cp /bin/busybox /tmp/j/bin/ && cd / && chroot /tmp/j /bin/busybox ls ../../../../.. / 2>&1"
)


@pytest.fixture
def at() -> Iterator[At]:
    """A server of a level, one for each."""
    servers: dict[str, SandboxServer] = {}
    with ExitStack() as stack:

        def server(level: str) -> SandboxServer:
            if level not in servers:
                servers[level] = stack.enter_context(SandboxServer.start(isolation=level))
            return servers[level]

        yield server


@pytest.mark.parametrize("level", WEAKER)
def test_namespaces(at: At, rootfs: Path, level: str) -> None:
    names = ("mnt", "uts", "cgroup", "pid", "ipc", "net")
    ran = run_in(
        at(level), rootfs, "sh", "-c", f"for n in {' '.join(names)}; do readlink /proc/self/ns/$n; done", network="host"
    )
    assert at(level).level == f"{level}{IDS}"
    shared = {
        name for name, found in zip(names, ran.lines(), strict=True) if found == os.readlink(f"/proc/self/ns/{name}")
    }
    assert shared == SHARED[level] | {"net"}


@pytest.mark.parametrize("level", WEAKER)
def test_what_holds_at_every_level(at: At, rootfs: Path, level: str) -> None:
    script = (
        "grep -E 'CapBnd|Seccomp:|NoNewPrivs' /proc/self/status; hostname; wc -c </proc/interrupts; ls /proc/acpi; cat /etc/hostname;"
        "echo x 2>/dev/null >/proc/sys/kernel/hostname || echo refused; echo x >/dev/null && echo written; ls /dev/pts"
    )
    ran = run_in(at(level), rootfs, "sh", "-c", script, network="host")
    assert ran.lines() == [
        "CapBnd:\t00000000a80425fb",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
        "pybuildsandbox",
        "0",
        "pybuildsandbox",
        "refused",
        "written",
        "ptmx",
    ], ran.err


@pytest.mark.parametrize("level", WEAKER)
def test_builder_is_seen_and_out_of_reach(at: At, rootfs: Path, level: str) -> None:
    own = os.getpid()
    script = f"cd /proc/{own}; cat comm; cat environ | head -c 1; ls root/; ls cwd/; readlink fd/0 exe; head -c 1 fd/0"
    ran = run_in(at(level), rootfs, "sh", "-c", script, network="host")
    assert ran.out == Path("/proc/self/comm").read_text()
    assert ran.err.count("denied") == 4, ran.err


@pytest.mark.parametrize("level", WEAKER)
def test_root_cannot_be_left(at: At, rootfs: Path, level: str) -> None:
    (rootfs / "marker").touch()
    ran = run_in(at(level), rootfs, "sh", "-c", f"ls -d /../../marker; {UPWARDS}", network="host")
    assert ran.lines()[0] == "/../../marker"
    assert "proc" not in ran.out


@pytest.mark.parametrize("level", WEAKER)
def test_nothing_outlives_a_step(at: At, rootfs: Path, level: str) -> None:
    script = f"(setsid sh -c '{MARK} & {MARK}' </dev/null >/dev/null 2>&1 &); {MARK} & sleep 0.1; exit 3"
    assert run_in(at(level), rootfs, "sh", "-c", script, network="host").status == 3
    assert processes_running(MARK) == []


@pytest.mark.parametrize("level", WEAKER)
@pytest.mark.parametrize("end", ["closed", "server killed"])
def test_nothing_outlives_who_asked_for_it(at: At, rootfs: Path, reader: Reader, level: str, end: str) -> None:
    server = at(level)
    script = f"trap '' TERM INT HUP; (setsid {MARK} &); echo ready; {MARK}; {MARK}"
    with start(server, rootfs, ("sh", "-c", script), stdout=reader.write_fd, network="host") as running:
        reader.started()
        reader.wait_for(b"ready")
        wait_until(lambda: len(processes_running(MARK)) == 2, "the step runs")
        if end == "closed":
            running.close()
        else:
            os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not processes_running(MARK), "the step is gone")


def test_step_that_kills_its_first_process_ends_with_it(at: At, rootfs: Path) -> None:
    """At the level ``chroot`` it can: the server ends what is left, and nothing of the other step."""
    with start(at("chroot"), rootfs, ("sh", "-c", MARK), network="host") as other:
        wait_until(lambda: len(processes_running(MARK)) == 1, "the step runs")
        ran = run_in(at("chroot"), rootfs, "sh", "-c", f"(setsid {MARK} &); kill -9 $PPID; {MARK}", network="host")
        assert ran.status == 137
        assert len(processes_running(MARK)) == 1
        other.close()
        wait_until(lambda: not processes_running(MARK), "the step is gone")


def test_network_of_its_own_is_refused_where_there_is_none(at: At, rootfs: Path) -> None:
    ran = run_in(at("chroot"), rootfs, "true", network="none")
    assert (ran.status, ran.result.error) == (
        125,
        f"network 'none' can't be had with isolation chroot{IDS}: only 'host' can",
    )


def test_root_of_the_machine_can_have_a_user_namespace(at: At) -> None:
    """Asked of a server alone; pybuild enters it itself, so that its unions are mounted there."""
    assert at("rootless").level == f"rootless{IDS}"


def test_level_that_cannot_be_had(rootfs: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from builder.sandbox import idmap; idmap.enter();"
        "from builder.sandbox.client import SandboxServer; SandboxServer.start(isolation='full').level"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, Path(__file__).parents[2]], capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1].endswith(
        "isolation full can't be had here: it takes root with CAP_SYS_ADMIN, outside of user namespaces"
    )


@pytest.mark.root("has the level full")
def test_where_pivoting_is_refused_the_root_is_covered(rootfs: Path) -> None:
    (rootfs / "marker").touch()
    script = f"ls -d /../../marker; {UPWARDS}; grep NSpid /proc/self/status"
    project = Path(__file__).parents[2]
    command = [sys.executable, "-c", WITHOUT_PIVOT, project, project / "tests", rootfs, script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    level, status, out, err, error = json.loads(done.stdout)
    assert (level, status, error) == ("full", 0, None), err
    assert out.splitlines()[0] == "/../../marker"
    assert "proc" not in out

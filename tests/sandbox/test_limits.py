"""Limits hold, running out of memory is known, what was used is counted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.limits import Limits
from builder.sandbox.client import SandboxServer
from harness.sandbox import Ran, Reader, start

pytestmark = pytest.mark.sandbox

Run = Callable[..., Ran]
MIB = 1 << 20


def groups_of(server: SandboxServer) -> Iterator[Path]:
    for directory, names, _files in os.walk("/sys/fs/cgroup"):
        yield from (
            Path(directory, name) for name in names if name.startswith("pybuild-") and f"-{server.pid}-" in name
        )


def control_files(server: SandboxServer, *names: str) -> set[str]:
    """The texts of the files ``names`` in all groups of the server that have members: the step's, and the next one's."""
    return {
        (group / name).read_text().strip()
        for parent in groups_of(server)
        for group in parent.iterdir()
        if group.is_dir() and (group / "cgroup.procs").read_text().strip()
        for name in names
        if (group / name).exists()
    }


def test_memory_hog_is_told(run: Run, rootfs: Path, probe: Callable[[str], Path]) -> None:
    shutil.copy(probe("hog"), rootfs / "bin/hog")
    ran = run("hog", "256", limits=Limits(memory_bytes=64 * MIB))
    assert (ran.status, ran.result.signal, ran.out) == (137, 9, "")
    assert ran.result.oom is not None
    assert ran.result.oom.limit_bytes == 64 * MIB
    assert 48 * MIB < ran.result.oom.peak_bytes <= 64 * MIB


def test_memory_below_the_limit_is_counted(run: Run, rootfs: Path, probe: Callable[[str], Path]) -> None:
    shutil.copy(probe("hog"), rootfs / "bin/hog")
    ran = run("hog", "32", limits=Limits(memory_bytes=128 * MIB))
    assert (ran.status, ran.out, ran.result.oom) == (0, "touched\n", None)
    assert ran.result.memory_peak_bytes
    assert 32 * MIB < ran.result.memory_peak_bytes < 48 * MIB


def test_child_that_runs_out_of_memory_does_not_end_the_step(
    run: Run, rootfs: Path, probe: Callable[[str], Path]
) -> None:
    shutil.copy(probe("hog"), rootfs / "bin/hog")
    ran = run("sh", "-c", "hog 256; echo $?", limits=Limits(memory_bytes=64 * MIB))
    assert (ran.status, ran.lines()[-1]) == (0, "137")
    assert ran.result.oom is not None


def test_killed_without_memory_pressure_is_no_oom(run: Run) -> None:
    result = run("sh", "-c", "kill -9 $$", limits=Limits(memory_bytes=64 * MIB)).result
    assert (result.status, result.oom) == (137, None)


def test_fork_bomb_under_a_pids_limit(run: Run) -> None:
    script = "i=0; while [ $i -lt 200 ]; do sleep 5 & i=$((i+1)); done; echo all"
    ran = run("sh", "-c", script, limits=Limits(pids=20))
    assert ran.status != 0
    assert "can't fork" in ran.err
    assert ran.result.pids_peak == 20


def test_pids_limit_of_one_lets_the_command_run(run: Run) -> None:
    assert run("echo", "alone", limits=Limits(pids=1)).out == "alone\n"
    assert run("sh", "-c", "sleep 0; echo not alone", limits=Limits(pids=1)).out == ""


@pytest.mark.parametrize(
    ("limits", "files", "expected"),
    [
        (Limits(cpus=0.5), ("cpu.cfs_quota_us", "cpu.max"), {"50000", "50000 100000"}),
        (Limits(cpu_shares=512), ("cpu.shares", "cpu.weight"), {"512", "20"}),
        (Limits(cpuset_cpus="0"), ("cpuset.cpus",), {"0"}),
        (Limits(pids=40), ("pids.max",), {"41"}),
        (Limits(memory_bytes=64 * MIB), ("memory.limit_in_bytes", "memory.max"), {str(64 * MIB)}),
        (
            Limits(memory_bytes=64 * MIB, memory_swap_bytes=96 * MIB),
            ("memory.memsw.limit_in_bytes", "memory.swap.max"),
            {str(96 * MIB), str(32 * MIB)},
        ),
    ],
)
def test_limit_is_in_the_group(
    server: SandboxServer, rootfs: Path, reader: Reader, limits: Limits, files: tuple[str, ...], expected: set[str]
) -> None:
    argv = ("sh", "-c", "echo running; sleep 100")
    with start(server, rootfs, argv, stdout=reader.write_fd, limits=limits):
        reader.started()
        reader.wait_for(b"running")
        assert control_files(server, *files) & expected


def test_quota_slows_a_step_down(run: Run) -> None:
    script = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    throttled = run("sh", "-c", f"{script}; cat /proc/self/stat >/dev/null", limits=Limits(cpus=0.2))
    assert throttled.status == 0
    assert throttled.result.cpu_user_ns > 0


def test_limit_that_the_kernel_refuses(run: Run) -> None:
    ran = run("true", limits=Limits(cpuset_cpus="4000"))
    assert ran.status == 125
    assert ran.result.error
    assert ran.result.error.startswith("cgroup file 'cpuset.cpus' doesn't take 4000: ")


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (Limits(memory_bytes=0), "memory_bytes is 0, expected more than 0"),
        (Limits(memory_swap_bytes=5), "memory_swap_bytes is given without memory_bytes"),
        (Limits(memory_bytes=10, memory_swap_bytes=5), "memory_swap_bytes is 5, less than memory_bytes (10)"),
    ],
)
def test_limit_that_makes_no_sense(run: Run, limits: Limits, error: str) -> None:
    ran = run("true", limits=limits)
    assert (ran.status, ran.result.error) == (125, error)


def test_use_is_counted(run: Run) -> None:
    result = run("sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; true | true | true").result
    assert result.cpu_user_ns > 1_000_000
    assert result.pids_peak is not None
    assert 3 <= result.pids_peak <= 5
    assert result.memory_peak_bytes
    assert result.notes == ()


def test_cgroup_parent(server: SandboxServer, rootfs: Path, reader: Reader) -> None:
    argv = ("sh", "-c", "echo running; sleep 100")
    with start(server, rootfs, argv, stdout=reader.write_fd, cgroup_parent="pybuild-test-parent") as running:
        reader.started()
        reader.wait_for(b"running")
        assert [path for path in Path("/sys/fs/cgroup").rglob("pybuild-test-parent/*") if path.is_dir()]
        running.close()
    outside = start(server, rootfs, ("true",), cgroup_parent="../x")
    assert outside.result().error == "cgroup parent '../x' leads outside"
    outside.close()

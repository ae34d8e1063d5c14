"""Limits hold, running out of memory is known, what was used is counted."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from builder.limits import DeviceRate, Limits, Ulimit
from builder.sandbox.client import SandboxServer
from builder.sandbox.controlfiles import read
from builder.sandbox.spec import Bind
from harness.sandbox import Ran, Reader, start
from harness.waiting import wait_until

pytestmark = pytest.mark.sandbox

Run = Callable[..., Ran]
MIB = 1 << 20
CPUSET = pytest.mark.kernel("cpuset")


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


@pytest.mark.limits("holds a limit")
def test_memory_hog_is_told(run: Run, rootfs: Path, probe: Callable[[str], Path]) -> None:
    shutil.copy(probe("hog"), rootfs / "bin/hog")
    ran = run("hog", "256", limits=Limits(memory_bytes=64 * MIB))
    assert (ran.status, ran.result.signal, ran.out) == (137, 9, "")
    assert ran.result.oom is not None
    assert ran.result.oom.limit_bytes == 64 * MIB
    assert 48 * MIB < ran.result.oom.peak_bytes <= 64 * MIB


@pytest.mark.limits("holds a limit")
def test_memory_below_the_limit_is_counted(run: Run, rootfs: Path, probe: Callable[[str], Path]) -> None:
    shutil.copy(probe("hog"), rootfs / "bin/hog")
    ran = run("hog", "32", limits=Limits(memory_bytes=128 * MIB))
    assert (ran.status, ran.out, ran.result.oom) == (0, "touched\n", None)
    assert ran.result.memory_peak_bytes
    assert 32 * MIB < ran.result.memory_peak_bytes < 48 * MIB


@pytest.mark.limits("holds a limit")
def test_child_that_runs_out_of_memory_does_not_end_the_step(
    run: Run, rootfs: Path, probe: Callable[[str], Path]
) -> None:
    shutil.copy(probe("hog"), rootfs / "bin/hog")
    ran = run("sh", "-c", "hog 256; echo $?", limits=Limits(memory_bytes=64 * MIB))
    assert (ran.status, ran.lines()[-1]) == (0, "137")
    assert ran.result.oom is not None


@pytest.mark.limits("holds a limit")
def test_killed_without_memory_pressure_is_no_oom(run: Run) -> None:
    result = run("sh", "-c", "kill -9 $$", limits=Limits(memory_bytes=64 * MIB)).result
    assert (result.status, result.oom) == (137, None)


@pytest.mark.limits("holds a limit")
def test_fork_bomb_under_a_pids_limit(run: Run) -> None:
    script = "i=0; while [ $i -lt 200 ]; do sleep 5 & i=$((i+1)); done; echo all"
    ran = run("sh", "-c", script, limits=Limits(pids=20))
    assert ran.status != 0
    assert "can't fork" in ran.err
    assert ran.result.pids_peak == 20


@pytest.mark.limits("holds a limit")
def test_pids_limit_of_one_lets_the_command_run(run: Run) -> None:
    assert run("echo", "alone", limits=Limits(pids=1)).out == "alone\n"
    assert run("sh", "-c", "sleep 0; echo not alone", limits=Limits(pids=1)).out == ""


@pytest.mark.limits("holds a limit")
@pytest.mark.parametrize(
    ("limits", "files", "expected"),
    [
        (Limits(cpus=0.5), ("cpu.cfs_quota_us", "cpu.max"), {"50000", "50000 100000"}),
        (Limits(cpu_shares=512), ("cpu.shares", "cpu.weight"), {"512", "20"}),
        (Limits(cpu_period_us=50_000, cpu_quota_us=20_000), ("cpu.cfs_quota_us", "cpu.max"), {"20000", "20000 50000"}),
        (Limits(cpu_period_us=50_000), ("cpu.cfs_period_us", "cpu.max"), {"50000", "max 50000"}),
        pytest.param(Limits(cpuset_cpus="0"), ("cpuset.cpus",), {"0"}, marks=CPUSET),
        pytest.param(Limits(cpuset_mems="0"), ("cpuset.mems",), {"0"}, marks=CPUSET),
        (Limits(pids=40), ("pids.max",), {"42"}),
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


SPIN = "while true; do :; done"


def counted(server: SandboxServer, file: str, name: str) -> int:
    """The largest number called ``name`` that a group of the server has in ``file``."""
    found = [
        int(line.split()[1])
        for parent in groups_of(server)
        for group in parent.iterdir()
        if (group / file).is_file()
        for line in (group / file).read_text().splitlines()
        if line.split()[0] == name
    ]
    return max(found, default=0)


@pytest.mark.limits("holds a limit")
def test_quota_slows_a_step_down(server: SandboxServer, rootfs: Path) -> None:
    with start(server, rootfs, ("sh", "-c", SPIN), limits=Limits(cpus=0.1)):
        wait_until(lambda: counted(server, "cpu.stat", "nr_throttled") > 1, "the step to be held up")


def use_by_weight(server: SandboxServer) -> dict[str, int]:
    """Processor time of the server's groups by their weight; version 1 has the two in different hierarchies."""
    weights = {
        group.name: (group / name).read_text().strip()
        for parent in groups_of(server)
        for group in parent.iterdir()
        for name in ("cpu.shares", "cpu.weight")
        if (group / name).exists()
    }
    used: dict[str, int] = {}
    for parent in groups_of(server):
        for number, weight in weights.items():
            first, second = (read(str(parent / number / name)).split() for name in ("cpuacct.usage", "cpu.stat"))
            if first:
                used[weight] = int(first[0]) // 1000
            elif second and second[0] == "usage_usec":
                used[weight] = int(second[1])
    return used


@pytest.mark.limits("holds a limit")
def test_shares_divide_a_processor(server: SandboxServer, rootfs: Path) -> None:
    one = "0" if len(os.sched_getaffinity(0)) > 1 else None
    limits = [Limits(cpuset_cpus=one, cpu_shares=shares) for shares in (2048, 64)]
    steps = [start(server, rootfs, ("sh", "-c", SPIN), limits=limit) for limit in limits]
    heavy, light = ("2048", "64") if not Path("/sys/fs/cgroup/cgroup.controllers").exists() else ("79", "3")
    # both at work
    wait_until(lambda: use_by_weight(server).get(light, 0) > 10_000, "the light step to run")
    before = use_by_weight(server)
    wait_until(lambda: use_by_weight(server)[heavy] - before[heavy] > 300_000, "the heavy step to run")
    after = use_by_weight(server)
    for step in steps:
        step.close()
    assert after[heavy] - before[heavy] > 4 * (after[light] - before[light])


@CPUSET
@pytest.mark.limits("holds a limit")
def test_processors_and_memory_nodes(run: Run) -> None:
    fields = run("grep", "_allowed_list", "/proc/self/status", limits=Limits(cpuset_cpus="0", cpuset_mems="0")).lines()
    assert [line.split()[1] for line in fields] == ["0", "0"]


def test_ulimit_holds(run: Run) -> None:
    large = Limits(ulimits=(Ulimit("fsize", 8192, 8192),))
    assert run("sh", "-c", "head -c 100000 /dev/zero > /tmp/large; stat -c %s /tmp/large", limits=large).out == "8192\n"
    many = Limits(ulimits=(Ulimit("nofile", 5, 5),))
    opened = run("sh", "-c", "exec 3</bin/sh 4</bin/sh 5</bin/sh", limits=many)
    assert (opened.status != 0, "Too many open files" in opened.err) == (True, True), opened


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    """A directory on a disk of its own, and the numbers of the disk."""
    image, point = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(24 * MIB)
    point.mkdir()
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    # the loop device goes with the mount, also when the test is killed
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        number = os.stat(point).st_dev
        yield point, (os.major(number), os.minor(number))
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.mark.root("makes a disk")
@pytest.mark.parametrize("operation", ["read", "write"])
def test_rate_of_a_disk(disk: tuple[Path, tuple[int, int]], run: Run, operation: Literal["read", "write"]) -> None:
    """The time is the kernel's promise: 3 MiB at 2 MiB a second can't come sooner, but for a first slice of it."""
    place, (major, minor) = disk
    (place / "file").write_bytes(bytes(3 * MIB))
    os.sync()
    direct = (
        "if=/disk/file of=/dev/null iflag=direct" if operation == "read" else "if=/dev/zero of=/disk/new oflag=direct"
    )
    limits = Limits(device_rates=(DeviceRate(operation, major, minor, 2 * MIB),))
    began = time.monotonic()
    ran = run("dd", *direct.split(), "bs=256k", "count=12", binds=(Bind(str(place), "/disk", False),), limits=limits)
    assert ran.status == 0, ran.err
    assert time.monotonic() - began > 0.9
    used = ran.result.read_bytes if operation == "read" else ran.result.written_bytes
    assert used is not None
    assert 3 * MIB <= used < 4 * MIB


@CPUSET
@pytest.mark.limits("holds a limit")
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


@pytest.mark.limits("counts what is used")
def test_use_is_counted(run: Run) -> None:
    result = run("sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; true | true | true").result
    assert result.cpu_user_ns > 1_000_000
    assert result.pids_peak is not None
    assert 3 <= result.pids_peak <= 5
    assert result.memory_peak_bytes
    assert result.notes == ()


@pytest.mark.root("names a group from the root of the hierarchy")
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

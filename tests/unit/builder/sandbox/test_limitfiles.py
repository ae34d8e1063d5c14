"""What is written into which file, for both versions of control groups."""

from __future__ import annotations

import pytest

from builder.limits import DeviceRate, Limits
from builder.sandbox.limitfiles import FORKING_PIDS, needed_controllers, plan_limits

ALL = frozenset(("memory", "pids", "cpu", "cpuset", "blkio", "io"))


@pytest.mark.parametrize(
    ("limits", "v1", "v2"),
    [
        (Limits(), [], []),
        (
            Limits(memory_bytes=100),
            [("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "200")],
            [("memory.max", "100"), ("memory.swap.max", "100")],
        ),
        (
            Limits(memory_bytes=100, memory_swap_bytes=150),
            [("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "150")],
            [("memory.max", "100"), ("memory.swap.max", "50")],
        ),
        (
            Limits(memory_bytes=100, memory_swap_bytes=-1),
            [("memory.limit_in_bytes", "100")],
            [("memory.max", "100")],
        ),
        (Limits(pids=7), [("pids.max", "9")], [("pids.max", "9")]),
        (
            Limits(cpus=1.5),
            [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "150000")],
            [("cpu.max", "150000 100000")],
        ),
        (
            Limits(cpus=0.001),
            [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "1000")],
            [("cpu.max", "1000 100000")],
        ),
        (Limits(cpu_shares=1024), [("cpu.shares", "1024")], [("cpu.weight", "39")]),
        (Limits(cpu_shares=2), [("cpu.shares", "2")], [("cpu.weight", "1")]),
        (Limits(cpu_shares=262144), [("cpu.shares", "262144")], [("cpu.weight", "10000")]),
        (
            Limits(cpu_period_us=50_000, cpu_quota_us=20_000),
            [("cpu.cfs_period_us", "50000"), ("cpu.cfs_quota_us", "20000")],
            [("cpu.max", "20000 50000")],
        ),
        (Limits(cpu_quota_us=20_000), [("cpu.cfs_quota_us", "20000")], [("cpu.max", "20000 100000")]),
        (Limits(cpu_period_us=50_000), [("cpu.cfs_period_us", "50000")], [("cpu.max", "max 50000")]),
        (Limits(cpuset_cpus="0-1"), [("cpuset.cpus", "0-1")], [("cpuset.cpus", "0-1")]),
        (Limits(cpuset_mems="0"), [("cpuset.mems", "0")], [("cpuset.mems", "0")]),
        (
            Limits(device_rates=(DeviceRate("read", 8, 0, 1000), DeviceRate("write", 8, 16, 2000))),
            [("blkio.throttle.read_bps_device", "8:0 1000"), ("blkio.throttle.write_bps_device", "8:16 2000")],
            [("io.max", "8:0 rbps=1000"), ("io.max", "8:16 wbps=2000")],
        ),
    ],
)
def test_what_is_written(limits: Limits, v1: list[tuple[str, str]], v2: list[tuple[str, str]]) -> None:
    assert list(plan_limits(1, limits, ALL)) == v1
    assert list(plan_limits(2, limits, ALL)) == v2
    assert plan_limits(1, limits, frozenset()) == ()


def test_of_a_runtimes_step_one_process_is_ours() -> None:
    assert plan_limits(2, Limits(pids=7), ALL, own_pids=FORKING_PIDS) == (("pids.max", "8"),)


@pytest.mark.parametrize(
    ("limits", "controllers"),
    [
        (Limits(), set()),
        (Limits(shm_bytes=1), set()),
        (Limits(memory_bytes=1, pids=1), {"memory", "pids"}),
        (Limits(cpus=1), {"cpu"}),
        (Limits(cpu_period_us=1000), {"cpu"}),
        (Limits(cpuset_mems="0"), {"cpuset"}),
        (Limits(device_rates=(DeviceRate("read", 8, 0, 1),)), {"io"}),
    ],
)
def test_controllers_that_are_needed(limits: Limits, controllers: set[str]) -> None:
    assert needed_controllers(limits) == controllers

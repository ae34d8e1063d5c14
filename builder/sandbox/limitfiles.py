"""Which file of a control group takes which limit, in both versions. Pure.

Invariants: what is written, and in which order, depends on the limits, the version and the controllers alone. Facts:
Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst; the conversions are those of runtime-spec, config-linux.md.
"""

from __future__ import annotations

from builder.limits import LEAST_QUOTA_US, UNLIMITED, DeviceRate, Limits

# a step's first process and its thread (`builder.sandbox.command`) belong to the sandbox, not to the limit; where a
# runtime runs the command, or there are no namespaces, the first process alone
INIT_PIDS = 2
FORKING_PIDS = 1
_PERIOD_US = 100_000

Files = tuple[tuple[str, str], ...]


def needed_controllers(limits: Limits) -> frozenset[str]:
    """The controllers without which ``limits`` can't be held, by their names in version 2."""
    wanted = {
        "memory": limits.memory_bytes is not None,
        "pids": limits.pids is not None,
        "cpu": (limits.cpus, limits.cpu_shares, limits.cpu_period_us, limits.cpu_quota_us) != (None,) * 4,
        "cpuset": (limits.cpuset_cpus, limits.cpuset_mems) != (None, None),
        "io": bool(limits.device_rates),
    }
    return frozenset(name for name, is_wanted in wanted.items() if is_wanted)


def plan_limits(version: int, limits: Limits, controllers: frozenset[str], *, own_pids: int = INIT_PIDS) -> Files:
    """What is written into which file of a group whose hierarchy has ``controllers``, in this order.

    ``own_pids`` of its processes and threads are the sandbox's.
    """
    first = version == 1
    files: list[tuple[str, str]] = []
    if "memory" in controllers and limits.memory_bytes is not None:
        files += _memory(limits.memory_bytes, limits.memory_swap_bytes, first=first)
    if "pids" in controllers and limits.pids is not None:
        files.append(("pids.max", str(limits.pids + own_pids)))
    if "cpu" in controllers:
        files += _cpu_v1(limits) if first else _cpu_v2(limits)
    if "cpuset" in controllers:
        given = (("cpuset.cpus", limits.cpuset_cpus), ("cpuset.mems", limits.cpuset_mems))
        files += [(name, value) for name, value in given if value is not None]
    if controllers & {"blkio", "io"}:
        files += [_rate_v1(rate) if first else _rate_v2(rate) for rate in limits.device_rates]
    return tuple(files)


def _memory(memory: int, swap: int | None, *, first: bool) -> list[tuple[str, str]]:
    files = [("memory.limit_in_bytes" if first else "memory.max", str(memory))]
    if swap != UNLIMITED:
        # without a word on swap as much again, as docker does
        total = memory * 2 if swap is None else swap
        # version 1 counts both together
        files.append(("memory.memsw.limit_in_bytes", str(total)) if first else ("memory.swap.max", str(total - memory)))
    return files


def _quota(limits: Limits) -> tuple[int | None, int | None]:
    """Microseconds of processor time in so many microseconds; None where nothing is said."""
    if limits.cpus is not None:
        return max(LEAST_QUOTA_US, round(limits.cpus * _PERIOD_US)), _PERIOD_US
    return limits.cpu_quota_us, limits.cpu_period_us


def _cpu_v1(limits: Limits) -> list[tuple[str, str]]:
    quota, period = _quota(limits)
    given = (("cpu.cfs_period_us", period), ("cpu.cfs_quota_us", quota), ("cpu.shares", limits.cpu_shares))
    return [(name, str(value)) for name, value in given if value is not None]


def _cpu_v2(limits: Limits) -> list[tuple[str, str]]:
    files: list[tuple[str, str]] = []
    quota, period = _quota(limits)
    if (quota, period) != (None, None):
        files.append(("cpu.max", f"{'max' if quota is None else quota} {period or _PERIOD_US}"))
    if limits.cpu_shares is not None:
        # 2..262144 becomes 1..10000
        files.append(("cpu.weight", str(1 + (min(max(limits.cpu_shares, 2), 262_144) - 2) * 9999 // 262_142)))
    return files


def _rate_v1(rate: DeviceRate) -> tuple[str, str]:
    return f"blkio.throttle.{rate.operation}_bps_device", f"{rate.major}:{rate.minor} {rate.bytes_per_second}"


def _rate_v2(rate: DeviceRate) -> tuple[str, str]:
    return "io.max", f"{rate.major}:{rate.minor} {rate.operation[0]}bps={rate.bytes_per_second}"

"""What one step may use, as a value; nothing here knows how a limit is held.

Sources: the flags of ``docker run`` of the same names. On the cached-build path: nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from unionfs.namedtuple import NamedTuple

DEFAULT_SHM_BYTES = 64 << 20
UNLIMITED = -1
LEAST_CPUS = 0.01
LEAST_QUOTA_US = 1000
PERIODS_US = (1000, 1_000_000)

# getrlimit(2); the numbers of x86-64 and arm64 (asm-generic/resource.h)
ULIMITS: Mapping[str, int] = {
    "cpu": 0,
    "fsize": 1,
    "data": 2,
    "stack": 3,
    "core": 4,
    "rss": 5,
    "nproc": 6,
    "nofile": 7,
    "memlock": 8,
    "as": 9,
    "locks": 10,
    "sigpending": 11,
    "msgqueue": 12,
    "nice": 13,
    "rtprio": 14,
    "rttime": 15,
}


class LimitError(Exception):
    """A limit makes no sense, or contradicts another."""


class Ulimit(NamedTuple):
    """A resource limit of a process by its name in `ULIMITS`; -1 is no limit. setrlimit(2)."""

    name: str
    soft: int
    hard: int

    def __str__(self) -> str:
        """As it is written on a command line."""
        return f"{self.name}={self.soft}:{self.hard}"


class DeviceRate(NamedTuple):
    """The most bytes that are read from, or written to, a disk in a second."""

    operation: Literal["read", "write"]
    major: int
    minor: int
    bytes_per_second: int


class Limits(NamedTuple):
    """What a step may use; None means no limit.

    ``memory_swap_bytes`` counts memory and swap together, -1 is no limit; ``cpus`` is quota over period, and goes
    without these two.
    """

    memory_bytes: int | None = None
    memory_swap_bytes: int | None = None
    cpus: float | None = None
    cpu_shares: int | None = None
    cpu_period_us: int | None = None
    cpu_quota_us: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids: int | None = None
    shm_bytes: int = DEFAULT_SHM_BYTES
    ulimits: tuple[Ulimit, ...] = ()
    device_rates: tuple[DeviceRate, ...] = ()


def check(limits: Limits) -> None:
    """Nothing in ``limits`` contradicts itself.

    Raises:
        LimitError: the first thing that does.
    """
    for name in ("memory_bytes", "cpus", "cpu_shares", "cpu_quota_us", "pids", "shm_bytes"):
        value = getattr(limits, name)
        if value is not None and value <= 0:
            raise LimitError(f"{name} is {value}, expected more than 0")
    swap = limits.memory_swap_bytes
    if swap is not None and swap != UNLIMITED:
        if limits.memory_bytes is None:
            raise LimitError("memory_swap_bytes is given without memory_bytes")
        if swap < limits.memory_bytes:
            raise LimitError(f"memory_swap_bytes is {swap}, less than memory_bytes ({limits.memory_bytes})")
    _check_quota(limits)
    for ulimit in limits.ulimits:
        if ulimit.name not in ULIMITS:
            raise LimitError(f"ulimit {ulimit.name!r} is not known")
    for rate in limits.device_rates:
        if rate.operation not in {"read", "write"} or rate.bytes_per_second <= 0:
            raise LimitError(
                f"rate of device {rate.major}:{rate.minor} is {rate.bytes_per_second}, expected more than 0"
            )


def _check_quota(limits: Limits) -> None:
    period, quota = limits.cpu_period_us, limits.cpu_quota_us
    if limits.cpus is not None and (period, quota) != (None, None):
        raise LimitError("cpus is given beside cpu_period_us or cpu_quota_us, which say the same")
    least, most = PERIODS_US
    if period is not None and not least <= period <= most:
        raise LimitError(f"cpu_period_us is {period}, expected {least} to {most}")
    if quota is not None and quota < LEAST_QUOTA_US:
        raise LimitError(f"cpu_quota_us is {quota}, expected at least {LEAST_QUOTA_US}")

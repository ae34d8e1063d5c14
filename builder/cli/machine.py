"""What limits name of this machine: processors, memory nodes, disks.

Invariants: what is not there is a UsageError that names the option and says what is.
"""

from __future__ import annotations

import os
import stat

from builder.errors import UsageError

_PROCESSORS = "/sys/devices/system/cpu/online"
_MEMORY_NODES = "/sys/devices/system/node/online"


def check_processors(option: str, wanted: str | None) -> None:
    """The machine has the processors of the list ``wanted``. Raises UsageError."""
    _check(option, wanted, "processors", _PROCESSORS)


def check_memory_nodes(option: str, wanted: str | None) -> None:
    """The machine has the memory nodes of the list ``wanted``. Raises UsageError."""
    _check(option, wanted, "memory nodes", _MEMORY_NODES)


def find_disk(option: str, path: str) -> tuple[int, int]:
    """Major and minor number of the disk at ``path``.

    Raises:
        UsageError: there is none, or it is a part of one, which the kernel does not limit (block/blk-cgroup.c).
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise UsageError(f"{option}: {path!r}: {os.strerror(error.errno or 0).lower()}") from error
    if not stat.S_ISBLK(status.st_mode):
        raise UsageError(f"{option}: {path!r} is no block device")
    numbers = os.major(status.st_rdev), os.minor(status.st_rdev)
    if os.path.exists("/sys/dev/block/{}:{}/partition".format(*numbers)):
        raise UsageError(f"{option}: {path!r} is a partition, expected a whole disk")
    return numbers


def _check(option: str, wanted: str | None, what: str, path: str) -> None:
    if wanted is None:
        return
    try:
        with open(path, encoding="ascii") as file:
            there = file.read().strip()
    except OSError:
        # a machine without NUMA has one node
        there = "0"
    present = _ranges(there)
    for first, last in _ranges(wanted):
        if last < first:
            raise UsageError(f"{option} {wanted}: the range {first}-{last} runs backwards")
        for number in (first, last):
            if not any(low <= number <= high for low, high in present):
                raise UsageError(f"{option} {wanted}: there is no {number}, {what} are {there}")


def _ranges(text: str) -> list[tuple[int, int]]:
    """First and last number of each part of a list. cpuset(7), "List format"."""
    bounds = [(part.partition("-")[0], part.rpartition("-")[2]) for part in text.split(",")]
    return [(int(first), int(last)) for first, last in bounds]

"""Who owns a temporary name: found out again after the owner was killed.

A temporary name carries its owner: ``<pid namespace>-<pid>-<start time>-<random>``. Whoever finds it later asks
/proc whether that very process still lives; a pid that was given anew has another start time (proc(5), stat field 22).

Invariants: what belongs to a living process is never called abandoned. A name from another pid namespace (a container
that shares the store) cannot be asked about: it counts as abandoned only after `FOREIGN_GRACE_SECONDS`.
"""

from __future__ import annotations

import os

from unionfs.namedtuple import NamedTuple

FOREIGN_GRACE_SECONDS = 7 * 24 * 3600
_PARTS = 4
_DEAD = (b"Z", b"X")


class Owner(NamedTuple):
    """A process; ``start`` is in clock ticks since the boot."""

    namespace: int
    pid: int
    start: int


def this_process() -> Owner:
    """The calling process."""
    pid = os.getpid()
    return Owner(_pid_namespace(), pid, _start_time(pid) or 0)


def temporary_name(owner: Owner) -> str:
    """A fresh name that carries the owner."""
    return f"{owner.namespace:x}-{owner.pid}-{owner.start}-{os.urandom(8).hex()}"


def read_name(name: str) -> Owner | None:
    """The owner that a temporary name carries, None for any other name."""
    parts = name.split("-")
    if len(parts) != _PARTS:
        return None
    try:
        return Owner(int(parts[0], 16), int(parts[1]), int(parts[2]))
    except ValueError:
        return None


def is_abandoned(name: str, age_seconds: float) -> bool:
    """Whether the owner of a temporary name is gone; a name without an owner counts as one from elsewhere."""
    owner = read_name(name)
    if owner is None or owner.namespace != _pid_namespace():
        return age_seconds > FOREIGN_GRACE_SECONDS
    return _start_time(owner.pid) != owner.start


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, None when there is no such process, or one that only waits for its parent."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # the command name stands in parentheses and may hold anything
            fields = stat.read().rpartition(b")")[2].split()
            # many containers have a first process that reaps nobody
            return None if fields[0] in _DEAD else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None

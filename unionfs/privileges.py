"""What being user 0 is worth here: root of the machine, or of a user namespace only (user_namespaces(7))."""

from __future__ import annotations

import os

_ALL_IDS = 2**32 - 1


def mapped_ids() -> int:
    """How many user ids exist in this user namespace; all of them in the initial one."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return sum(int(line.split()[2]) for line in file)
    except OSError:
        # no /proc: nothing says that this is not the initial namespace
        return _ALL_IDS


def is_machine_root() -> bool:
    """Whether this process is root where device nodes can be made and every id exists."""
    return os.geteuid() == 0 and mapped_ids() >= _ALL_IDS

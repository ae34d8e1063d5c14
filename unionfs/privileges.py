"""What being user 0 is worth here: root of the machine, or of a user namespace only (user_namespaces(7))."""

from __future__ import annotations

import os

_SYS_ADMIN = 21
_MADE_BY_CONTAINERS = ("/.dockerenv", "/run/.containerenv")
_ALL_IDS = 2**32 - 1
# PROC_USER_INIT_INO of the kernel: the number of the namespace that is there from the start
_INITIAL_NAMESPACE = 0xEFFF_FFFD


def mapped_ids() -> int:
    """How many user ids exist in this user namespace; all of them in the initial one."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return sum(int(line.split()[2]) for line in file)
    except OSError:
        # no /proc: nothing says that this is not the initial namespace
        return _ALL_IDS


def outer_id(uid: int) -> int:
    """What the user is in the namespace that made this one; the same where it has no other number there."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            for line in file:
                inside, outside, count = map(int, line.split())
                if inside <= uid < inside + count:
                    return outside + uid - inside
    except OSError:
        pass
    return uid


def effective_capabilities() -> int:
    """The mask of capabilities in effect for this process. capabilities(7)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


def may_mount() -> bool:
    """Whether this process has CAP_SYS_ADMIN in its user namespace."""
    return bool(effective_capabilities() >> _SYS_ADMIN & 1)


def is_in_container() -> bool:
    """Whether docker, podman or another that says so has made the surroundings of this process."""
    return "container" in os.environ or any(map(os.path.exists, _MADE_BY_CONTAINERS))


def is_machine_root() -> bool:
    """Whether this process is root where device nodes can be made and every id exists."""
    return os.geteuid() == 0 and user_namespace() == 0


def user_namespace() -> int:
    """The number of this process's user namespace; 0 where it is the initial one."""
    try:
        number = os.stat("/proc/self/ns/user").st_ino
    except OSError:
        # no /proc, or a kernel without user namespaces
        return 0
    return 0 if number == _INITIAL_NAMESPACE else number

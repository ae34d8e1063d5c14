"""Capabilities: their names, the default set, and how a process comes down to it.

Invariants: what a step gets is decided by `plan_capabilities` alone, a pure function; inheritable and ambient sets of a
step are empty, so a program gets no more than the bounding set by being executed. Names: capabilities(7); the default
set: moby's and BuildKit's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from builder.sandbox import _sys
from builder.sandbox.spec import SpecError

NAMES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
_NUMBERS = {name: number for number, name in enumerate(NAMES)}
DEFAULT_MASK = 0xA804_25FB
NEEDED_WITHOUT_NAMESPACES = 0x0804_01EB
"""What it takes to change a process's root, be any user there and keep files of any: those of the default set but
FSETID, NET_RAW, NET_BIND_SERVICE, AUDIT_WRITE and SETFCAP."""
SYS_CHROOT = 1 << 18
ALL_MASK = (1 << len(NAMES)) - 1


def mask_of(names: Iterable[str]) -> int:
    """The mask of the capabilities ``names``, which are known."""
    return sum(1 << _NUMBERS[name] for name in set(names))


def plan_capabilities(security: str, add: Sequence[str], drop: Sequence[str]) -> int:
    """The mask of capabilities a step may ever hold; what is dropped wins over what is added.

    Raises:
        SpecError: a name is no capability.
    """
    mask = ALL_MASK if security == "insecure" else DEFAULT_MASK
    if "ALL" in map(_plain, drop):
        mask = 0
    for name in add:
        mask |= _mask(name)
    for name in drop:
        if _plain(name) != "ALL":
            mask &= ~_mask(name)
    return mask


def names_of(mask: int) -> frozenset[str]:
    """The names, without ``CAP_``, of the capabilities in ``mask``."""
    return frozenset(name for number, name in enumerate(NAMES) if mask >> number & 1)


def limit_bounding_set(mask: int, last: int) -> None:
    """No program this process executes can get a capability outside ``mask``; ``last`` is the kernel's highest."""
    for number in range(last + 1):
        if not mask >> number & 1:
            _sys.prctl(_sys.PR_CAPBSET_DROP, number)


def last_capability() -> int:
    """The highest capability the running kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def _plain(name: str) -> str:
    return name.upper().removeprefix("CAP_")


def _mask(name: str) -> int:
    plain = _plain(name)
    if plain == "ALL":
        return ALL_MASK
    if plain not in _NUMBERS:
        raise SpecError(f"capability {name!r} is not known")
    return 1 << _NUMBERS[plain]

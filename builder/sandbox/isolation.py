"""How strong steps are shut in: the levels, what each takes, and which one a machine gives. Pure.

========== ============================================== ==============================================
level      a step has                                     it takes
========== ============================================== ==============================================
full       every namespace, as root of the machine        CAP_SYS_ADMIN
rootless   the same in a user namespace                   user namespaces
no-new-proc  as ``rootless`` or ``full``, with a copy of     the same, where no new /proc may be mounted: in a
           the builder's /proc and /sys                   container that hides parts of its own
chroot     mount and uts namespaces only; the builder's   mount namespaces
           processes, network and ipc
no-namespaces  a directory entered by chroot(2), no mounts;    root with CAP_SYS_CHROOT and the others that files of
           the builder's everything else                  all owners take: a container with docker's defaults
========== ============================================== ==============================================

Capabilities, system call filter, masks, devices and limits are the same at all levels but the last, which has no
CAP_SYS_CHROOT, with which a root like this can be left, no /proc, and a filter of its own only where that costs nothing
(`seccomp.may_install`).

Invariants: `plan_isolation` never gives what is stronger than the machine can do, nor weaker than what was asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from unionfs.namedtuple import NamedTuple

Level = Literal["full", "rootless", "no-new-proc", "chroot", "no-namespaces"]
FULL: Level = "full"
ROOTLESS: Level = "rootless"
NO_NEW_PROC: Level = "no-new-proc"
CHROOT: Level = "chroot"
NO_NAMESPACES: Level = "no-namespaces"
LEVELS: tuple[Level, ...] = (FULL, ROOTLESS, NO_NEW_PROC, CHROOT, NO_NAMESPACES)
AUTO = "auto"
CHOICES = (AUTO, *LEVELS)
_ONE_ID = " with one id"
_CONTAINER_HINT = (
    "a container made by docker run --device /dev/fuse --security-opt seccomp=unconfined --security-opt "
    "apparmor=unconfined, or by podman run --device /dev/fuse, lets steps be shut in (docs/sandbox.md, Levels)"
)
_HOST_HINT = (
    "as root, sysctl kernel.unprivileged_userns_clone=1 and user.max_user_namespaces above 0 let plain users build"
)


class IsolationError(Exception):
    """Steps can't be shut in as they should be; ``hint`` says what would help."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Abilities(NamedTuple):
    """What the sandbox server was found to be able to do: be root of the machine, make pid namespaces, mount /proc.

    ``mounts``: it is in a mount namespace of its own.
    """

    machine_root: bool
    new_processes: bool
    new_proc: bool
    mounts: bool = True


class Isolation(NamedTuple):
    """How the steps of one server are shut in; ``user_namespace`` with ``one_id`` where no more exist there."""

    level: Level
    user_namespace: bool = False
    one_id: bool = False

    def __str__(self) -> str:
        return self.level + _ONE_ID * self.one_id

    @property
    def own_processes(self) -> bool:
        """Whether a step has process ids, ipc and perhaps a network of its own."""
        return self.level not in {CHROOT, NO_NAMESPACES}

    @property
    def own_mounts(self) -> bool:
        """Whether a step has a mount namespace; else its root is a directory."""
        return self.level != NO_NAMESPACES

    @property
    def new_proc(self) -> bool:
        """Whether a step has a /proc of its own, else a copy of the builder's."""
        return self.level in {FULL, ROOTLESS}


def wants_user_namespace(wanted: str) -> bool:
    """Whether root of the machine enters a user namespace too, because it was asked for."""
    return wanted == ROOTLESS


def plan_isolation(wanted: str, able: Abilities, *, one_id: bool) -> Isolation:
    """The isolation for a server asked for ``wanted``, a level or ``auto``.

    Raises:
        IsolationError: ``wanted`` can't be had.
    """
    levels = _possible(able)
    if wanted == AUTO:
        level = levels[0]
    elif wanted in levels:
        level = wanted
    else:
        raise IsolationError(f"isolation {wanted} can't be had here: {_lacking(wanted, able)}", f"{levels[0]} can")
    return Isolation(level, not able.machine_root, one_id and not able.machine_root)


def lacks_capabilities(names: Collection[str]) -> IsolationError:
    """What to tell where this process can't do without namespaces either, for want of capabilities."""
    return IsolationError(f"isolation {NO_NAMESPACES} can't be had here: it takes {', '.join(sorted(names))}")


def lacks_device_control() -> IsolationError:
    """What to tell where nothing would keep a step that is root from the disks of the machine."""
    return IsolationError(
        f"isolation {NO_NAMESPACES} can't be had here: steps could open every device",
        "a container's control group, or one that can be made, has to confine devices",
    )


def explain_refusal(reason: str, *, in_container: bool) -> IsolationError:
    """What to tell where this process can make neither mounts nor a user namespace, for ``reason``."""
    message = f"steps can't be shut in here: {reason} (it takes root with CAP_SYS_ADMIN, or user namespaces)"
    return IsolationError(message, hint_on_namespaces(in_container=in_container))


def hint_on_namespaces(*, in_container: bool) -> str:
    """What would let this process have user namespaces."""
    return _CONTAINER_HINT if in_container else _HOST_HINT


def _possible(able: Abilities) -> tuple[Level, ...]:
    """The levels that work, the strongest first."""
    if not able.mounts:
        return (NO_NAMESPACES,)
    if not able.new_processes:
        return (CHROOT,)
    strongest: tuple[Level, ...] = (FULL if able.machine_root else ROOTLESS,) if able.new_proc else ()
    return (*strongest, NO_NEW_PROC, CHROOT)


def _lacking(wanted: str, able: Abilities) -> str:
    if not able.mounts:
        return "nothing can be mounted, and user namespaces are refused"
    if not able.new_processes:
        return "no pid namespace can be made"
    if wanted == FULL and not able.machine_root:
        return "it takes root with CAP_SYS_ADMIN, outside of user namespaces"
    if wanted == ROOTLESS and able.machine_root:
        return "a user namespace was not entered"
    return "/proc can't be mounted, as in a container that hides parts of its own"

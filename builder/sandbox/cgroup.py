"""Control groups of steps, on version 1, version 2 and the hybrid of both.

::

    <base of a hierarchy>/pybuild-<pid namespace>-<pid>-<start time>/     one per sandbox server: device rules, a name
        <n>/                                                              one per step: limits and accounting

The base is the server's own group where one can be made there, else the root of the hierarchy.

Invariants: a group's name tells who owns it, so that what a killed builder left is found and removed by the next one
(`sweep`). Facts: cgroups(7), Documentation/admin-guide/
cgroup-v1 and cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence

from builder.sandbox.controlfiles import children_of, read, remove, write
from builder.sandbox.delegation import MEMBERS, give_back
from unionfs.namedtuple import NamedTuple

_KILL_ROUNDS = 100
_V2 = 2
RUNTIME_SUFFIX = "-oci"
"""Ends the name of the groups in which runtimes make their own."""
_NAME = re.compile(rf"pybuild-(\d+)-(\d+)-(\d+)(?:{RUNTIME_SUFFIX})?")


class CgroupError(Exception):
    """A limit was asked for that no group here can hold."""


class Hierarchy(NamedTuple):
    """One mounted tree of groups: ``root`` is its mount point, ``own`` this process's group in it."""

    version: int
    root: str
    own: str
    controllers: frozenset[str]


def parse_hierarchies(cgroup_text: str, mountinfo_text: str, *, every: bool = False) -> tuple[Hierarchy, ...]:
    """The hierarchies a process lives in, from its /proc/PID/cgroup and /proc/PID/mountinfo. cgroups(7), proc(5).

    ``every``: those of version 1 as well that have none of the controllers used here. Of several mounts of the one
    hierarchy of version 2 the first counts.
    """
    own_by_name: dict[str, str] = {}
    for line in cgroup_text.splitlines():
        _number, names, path = line.split(":", 2)
        own_by_name[names] = path
    found: list[Hierarchy] = []
    for line in mountinfo_text.splitlines():
        before, _, after = line.partition(" - ")
        columns, (kind, _source, options) = before.split(), after.split(" ", 2)
        mount_root, mount_point = _unescape(columns[3]), _unescape(columns[4])
        if kind == "cgroup2":
            if any(hierarchy.version == _V2 for hierarchy in found):
                continue
            own, controllers = own_by_name.get(""), _words(read(f"{mount_point}/cgroup.controllers"))
        elif kind == "cgroup":
            words = frozenset(options.split(","))
            controllers = words & _V1_CONTROLLERS
            own = next((path for names, path in own_by_name.items() if words & frozenset(names.split(","))), None)
        else:
            continue
        if own is not None and (controllers or every or kind == "cgroup2"):
            found.append(Hierarchy(_V2 if kind == "cgroup2" else 1, mount_point, _below(mount_root, own), controllers))
    return tuple(found)


_V1_CONTROLLERS = frozenset(("memory", "pids", "cpu", "cpuacct", "cpuset", "devices", "blkio", "freezer"))


def _below(mount_root: str, own: str) -> str:
    if mount_root in {own, "/"}:
        return own.lstrip("/") if mount_root == "/" else ""
    return own[len(mount_root) :].lstrip("/") if own.startswith(mount_root + "/") else ""


def kill_all(version: int, path: str) -> None:
    """Every process in the group at ``path`` is dead or dying; what they start meanwhile too.

    cgroup.kill is there since Linux 5.14; a frozen group starts nothing while its members are found.
    """
    if version == _V2 and write(f"{path}/cgroup.kill", "1"):
        return
    name, frozen, thawed = ("cgroup.freeze", "1", "0") if version == _V2 else ("freezer.state", "FROZEN", "THAWED")
    for _ in range(_KILL_ROUNDS):
        write(f"{path}/{name}", frozen)
        pids = read(f"{path}/cgroup.procs").split()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        # members of version 1 die only when they may run again (cgroup-v1/freezer-subsystem.rst)
        write(f"{path}/{name}", thawed)
        if not pids:
            return
        time.sleep(0.001)


def owner_name() -> str:
    """The name of this process's groups: its pid namespace, id and start time are its own for ever."""
    return _owner_name(os.getpid(), os.stat("/proc/self/ns/pid").st_ino)


def _owner_name(pid: int, namespace: int) -> str:
    text = read(f"/proc/{pid}/stat")
    # the command may hold blanks and parentheses; field 22 is the start time (proc(5)). Who is dead and not reaped by
    # its parent, as in many containers, is gone
    fields = text.rpartition(")")[2].split()
    start = fields[19] if fields and fields[0] not in {"Z", "X"} else "0"
    return f"pybuild-{namespace}-{pid}-{start}"


def is_abandoned(name: str, namespace: int) -> bool:
    """Whether ``name`` is a group whose owner, in this pid namespace, is gone."""
    match = _NAME.fullmatch(name)
    if match is None or int(match[1]) != namespace:
        return False
    return _owner_name(int(match[2]), namespace) != name.removesuffix(RUNTIME_SUFFIX)


def own_hierarchies(*, every: bool = False) -> tuple[Hierarchy, ...]:
    """The hierarchies this process lives in and can reach; ``every`` as in `parse_hierarchies`.

    One that something else is mounted over can't be reached.
    """
    found = parse_hierarchies(read("/proc/self/cgroup"), read("/proc/self/mountinfo"), every=every)
    return tuple(hierarchy for hierarchy in found if os.path.exists(f"{hierarchy.root}/cgroup.procs"))


def sweep_abandoned() -> None:
    """Groups of dead builders are removed, from all hierarchies this process can reach."""
    sweep(own_hierarchies(every=True))


def sweep(hierarchies: Sequence[Hierarchy]) -> int:
    """Groups of dead builders are removed, with what may still live in them; returns how many. Those of others stay."""
    namespace = os.stat("/proc/self/ns/pid").st_ino
    swept = 0
    for hierarchy, base in _bases(hierarchies):
        for name in children_of(base):
            if is_abandoned(name, namespace) and os.access(f"{base}/{name}", os.W_OK):
                remove_tree(hierarchy.version, f"{base}/{name}")
                swept += 1
        if hierarchy.version == _V2 and MEMBERS in children_of(base):
            give_back(base)
    return swept


def remove_tree(version: int, path: str) -> None:
    """The group at ``path`` and all below it are gone, their members killed."""
    for name in children_of(path):
        remove_tree(version, f"{path}/{name}")
    kill_all(version, path)
    for _ in range(_KILL_ROUNDS):
        if remove(path):
            return
        time.sleep(0.001)


def _bases(hierarchies: Sequence[Hierarchy]) -> Iterator[tuple[Hierarchy, str]]:
    for hierarchy in hierarchies:
        yield from ((hierarchy, base) for base in bases_of(hierarchy))


def bases_of(hierarchy: Hierarchy) -> tuple[str, ...]:
    """Where groups may be made, best first: below the own group, at the root of the hierarchy."""
    own = os.path.join(hierarchy.root, hierarchy.own).rstrip("/")
    if os.path.basename(own) == MEMBERS:
        # another server has moved this process there (`delegation`)
        own = os.path.dirname(own)
    return tuple(dict.fromkeys((own, hierarchy.root)))


def fields(text: str) -> dict[str, int]:
    """The lines of a flat keyed file that hold one number each."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}  # noqa: PLR2004


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)

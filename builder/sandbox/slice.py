"""The part of the cgroup trees that one sandbox server owns: where the groups of its steps are made.

Invariants: made on first use, in each hierarchy at the first base that takes it; `close` leaves nothing; where no group
can be made, none is, and the notes of the step's `Group` say what it does without.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from builder.sandbox import _sys, cgroup, devices
from builder.sandbox.cgroup import CgroupError, Hierarchy
from builder.sandbox.controlfiles import make, read, write
from builder.sandbox.delegation import give_back, vacate
from builder.sandbox.group import Group
from builder.sandbox.limitfiles import FORKING_PIDS, INIT_PIDS

# joined by every step, for what they count; the others only where a limit asks for them, since joining costs
_ALWAYS = frozenset(("memory", "pids", "cpuacct", "blkio", "io"))
# free in version 2, where one directory serves all
_ALWAYS_V2 = _ALWAYS | {"cpu", "cpuset"}
_V2 = 2


class Slice:
    """The groups of one server."""

    def __init__(
        self,
        hierarchies: Sequence[Hierarchy],
        name: str,
        swept: Sequence[Hierarchy] = (),
        own_pids: int = INIT_PIDS,
    ) -> None:
        """``swept`` are those in which others make groups of that name, which `close` removes.

        ``own_pids`` members of each group are the sandbox's.
        """
        self._own_pids = own_pids
        self._swept = swept
        self._hierarchies = hierarchies
        self._name = name
        self._is_pure_v2 = all(hierarchy.version == _V2 for hierarchy in hierarchies)
        self._parents: dict[Hierarchy, str | None] = {}
        self._made: list[tuple[int, str]] = []
        self._vacated: list[str] = []
        self._count = 0
        self._devices: str | None = None
        self._device_program: int | None = None

    @classmethod
    def of_this_process(cls, own_pids: int = INIT_PIDS) -> Slice:
        """The slice of this process, over all hierarchies that are mounted; what dead ones left is removed."""
        cgroup.sweep_abandoned()
        return cls(cgroup.own_hierarchies(), cgroup.owner_name(), own_pids=own_pids)

    @classmethod
    def for_runtimes(cls) -> Slice:
        """The slice of this process for steps that a runtime puts into groups: apart from others', whose rules bind."""
        name = cgroup.owner_name() + cgroup.RUNTIME_SUFFIX
        return cls(cgroup.own_hierarchies(), name, cgroup.own_hierarchies(every=True), FORKING_PIDS)

    @property
    def controls_devices(self) -> bool:
        """Whether a group here can hold steps to the devices of a container."""
        return self._device_group() is not None or self._load_device_program() is not None

    def make(self, parent: str | None, controllers: frozenset[str], *, confine_devices: bool) -> Group:
        """A fresh group for one step, without limits, in which ``controllers`` can be limited, if they can at all.

        ``parent`` is a path below the roots of the hierarchies.

        Raises:
            CgroupError: ``parent`` leads outside, or can't be made.
        """
        self._count += 1
        wanted = controllers | (_ALWAYS_V2 if self._is_pure_v2 else _ALWAYS)
        directories = self._make_directories(wanted, parent, self._count)
        lacking = "memory" not in directories
        notes = ("no cgroup for memory can be made here: use is not counted",) if lacking else ()
        device_group = self._device_group() if confine_devices else None
        if confine_devices and device_group is None:
            self._attach_device_program(directories)
        return Group(directories, (device_group,) if device_group else (), notes, self._own_pids)

    def close(self) -> None:
        """Every group of this server is gone, with what lives in it."""
        for version, path in reversed(self._made):
            cgroup.remove_tree(version, path)
        for hierarchy in self._swept:
            for base in cgroup.bases_of(hierarchy):
                cgroup.remove_tree(hierarchy.version, f"{base}/{self._name}")
        self._made.clear()
        for path in self._vacated:
            give_back(path)
        self._vacated.clear()
        self._parents.clear()
        self._devices = None
        if self._device_program not in {None, -1}:
            os.close(self._device_program or -1)
        self._device_program = None

    def path_for_runtime(self, group: Group) -> str | None:
        """What names the directories of ``group`` in config.json; None where there are none.

        Relative to the builder's own groups, as runc reads it in version 1; from the root in version 2, where runc
        would start beside them.

        Raises:
            CgroupError: one path can't name them all.
        """
        named: set[str] = set()
        for path in group.paths:
            hierarchy = max(
                (one for one in self._hierarchies if path.startswith(f"{one.root}/")), key=lambda one: len(one.root)
            )
            own = os.path.join(hierarchy.root, hierarchy.own)
            named.add(f"/{os.path.relpath(path, hierarchy.root)}" if self._is_pure_v2 else os.path.relpath(path, own))
        if len(named) > 1 or any(name.startswith("..") for name in named):
            raise CgroupError("control groups for a runtime lie at different places in their hierarchies")
        return next(iter(named), None)

    def _make_directories(
        self, controllers: frozenset[str], parent: str | None, number: int
    ) -> dict[str, tuple[int, str]]:
        """A directory for ``number`` in each hierarchy that has some of ``controllers``."""
        directories: dict[str, tuple[int, str]] = {}
        for hierarchy in self._hierarchies:
            wanted = hierarchy.controllers & controllers - directories.keys()
            # without controllers too, version 2 counts processor time and kills
            if wanted or self._is_pure_v2:
                base = self._parent(hierarchy) if parent is None else self._given_parent(hierarchy, parent)
                path = None if base is None else f"{base}/{number if parent is None else f'{self._name}-{number}'}"
                usable = wanted if base is None or hierarchy.version != _V2 else _enable(base, wanted)
                if path is not None and _make(path):
                    directories.update(dict.fromkeys(usable or ("",), (hierarchy.version, path)))
        return directories

    def _parent(self, hierarchy: Hierarchy) -> str | None:
        if hierarchy not in self._parents:
            self._parents[hierarchy] = self._make_parent(hierarchy)
        return self._parents[hierarchy]

    def _make_parent(self, hierarchy: Hierarchy) -> str | None:
        """The server's directory: at the first base whose children get every controller, else at the first that can."""
        bases = cgroup.bases_of(hierarchy)
        if hierarchy.version == _V2:
            wanted = hierarchy.controllers & _ALWAYS_V2
            bases = tuple(sorted(bases, key=lambda base: len(wanted - _enable(base, wanted))))
            if not _gives(bases[0], wanted) and vacate(own := cgroup.bases_of(hierarchy)[0]):
                self._vacated.append(own)
                if _enable(own, wanted):
                    bases = (own,)
        for base in bases:
            path = f"{base}/{self._name}"
            if _make(path):
                self._made.append((hierarchy.version, path))
                return path
        return None

    def _given_parent(self, hierarchy: Hierarchy, parent: str) -> str | None:
        if ".." in parent.split("/"):
            raise CgroupError(f"cgroup parent {parent!r} leads outside")
        path = hierarchy.root
        for name in filter(None, parent.split("/")):
            if hierarchy.version == _V2:
                _enable(path, hierarchy.controllers & _ALWAYS_V2)
            path = f"{path}/{name}"
            if not os.path.isdir(path):
                if not _make(path):
                    raise CgroupError(f"cgroup parent {parent!r} can't be made in {hierarchy.root}")
                self._made.append((hierarchy.version, path))
        return path

    def _device_group(self) -> str | None:
        if self._devices is None:
            self._devices = self._make_device_group() or ""
        return self._devices or None

    def _make_device_group(self) -> str | None:
        for hierarchy in self._hierarchies:
            if "devices" in hierarchy.controllers:
                path = self._parent(hierarchy)
                if path is not None and all(write(f"{path}/{name}", rule) for name, rule in devices.rules_v1()):
                    return path
        return None

    def _load_device_program(self) -> int | None:
        """The program for groups of version 2, where they are what a step is put into; loaded once."""
        if self._device_program is None and self._is_pure_v2 and self._hierarchies:
            try:
                self._device_program = _sys.load_device_program(devices.program_v2())
            except OSError:
                self._device_program = -1
        return None if self._device_program in {None, -1} else self._device_program

    def _attach_device_program(self, directories: dict[str, tuple[int, str]]) -> None:
        program = self._load_device_program()
        if program is None:
            return
        for _version, path in set(directories.values()):
            group_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _sys.attach_device_program(group_fd, program)
            except OSError as error:
                raise CgroupError(f"devices can't be confined: {(error.strerror or '').lower()}") from error
            finally:
                os.close(group_fd)


def _make(path: str) -> bool:
    """The group at ``path`` is there, ready for processes."""
    if os.path.isdir(path):
        return True
    if not make(path):
        return False
    for name in ("cpuset.cpus", "cpuset.mems"):
        # version 1 takes no process before both are set (cpuset(7))
        if os.path.exists(f"{path}/{name}") and not read(f"{path}/{name}").strip():
            write(f"{path}/{name}", read(f"{os.path.dirname(path)}/{name}").strip())
    return True


def _gives(base: str, wanted: frozenset[str]) -> bool:
    """Whether groups can be made below ``base`` that have every controller of ``wanted`` which it could give."""
    offered = frozenset(read(f"{base}/cgroup.controllers").split())
    return os.access(base, os.W_OK) and not (wanted & offered) - _enable(base, wanted)


def _enable(base: str, controllers: frozenset[str]) -> frozenset[str]:
    """Those of ``controllers`` that groups below ``base`` have, after asking for them.

    A group with members is left as it is: it can't give all, and once it gave some it would be the root of a threaded
    subtree, in which no process has a place (cgroup-v2.rst, "Threads"). The root of the hierarchy has no type, and may.
    """
    control = f"{base}/cgroup.subtree_control"
    enabled = frozenset(read(control).split())
    if os.path.exists(f"{base}/cgroup.type") and read(f"{base}/cgroup.procs"):
        return enabled & controllers
    offered = frozenset(read(f"{base}/cgroup.controllers").split())
    for controller in sorted((controllers - enabled) & offered):
        if write(control, f"+{controller}"):
            enabled |= {controller}
    return enabled & controllers

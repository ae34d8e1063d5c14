"""The control groups of one step: limits set, members moved, use counted.

Invariants: a limit that is asked for and can't be held is a `CgroupError`; what a group counted is read once all its
members are gone; out of memory is what the kernel counted (memory.oom_control, memory.events), never a guess. Facts:
Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from builder.limits import Limits
from builder.sandbox.cgroup import CgroupError, fields
from builder.sandbox.controlfiles import read, remove
from builder.sandbox.limitfiles import INIT_PIDS, needed_controllers, plan_limits
from builder.sandbox.spec import Oom
from unionfs.namedtuple import NamedTuple

# a version 1 limit that is none: the largest page-aligned number
_UNLIMITED = 1 << 62
_V2 = 2
# of version 1: a thread that moves itself there waits for nobody. Written to _PROCESSES, the kernel takes the lock that
# each fork, exec and exit of the machine takes, which is a grace period (cgroup_procs_write_start, since Linux 5.5)
_THREADS, _PROCESSES = "tasks", "cgroup.procs"

Directories = Mapping[str, tuple[int, str]]


class Usage(NamedTuple):
    """What a group counted; None where nothing counts."""

    cpu_user_ns: int | None = None
    cpu_system_ns: int | None = None
    memory_peak_bytes: int | None = None
    pids_peak: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    oom: Oom | None = None
    pids_refused: int = 0


class Group:
    """The groups of one step, one per hierarchy; `close` removes them."""

    def __init__(
        self,
        directories: Directories,
        shared: Sequence[str],
        notes: tuple[str, ...],
        own_pids: int = INIT_PIDS,
    ) -> None:
        """``directories``: controller → version and path; ``shared``: groups to be joined that belong to others.

        ``own_pids`` of the members, threads among them, are the sandbox's.
        """
        self._own_pids = own_pids
        self._directories = dict(directories)
        self.notes = notes
        unified = {path for version, path in self._directories.values() if version == _V2}
        joined = [path for path in (*self.paths, *shared) if path not in unified]
        self._joins = [_open_join(path) for path in joined]
        self._unified_joins = [os.open(f"{path}/{_PROCESSES}", os.O_WRONLY | os.O_CLOEXEC) for path in unified]
        self._born_in = next(iter(unified), None)

    def views(self) -> tuple[tuple[str, str], ...]:
        """The directories a step may see of itself, by the names below /sys/fs/cgroup; one by the empty name for v2."""
        names: dict[str, list[str]] = {}
        for controller, (version, path) in self._directories.items():
            names.setdefault(path, []).append("" if version == _V2 else controller)
        return tuple((",".join(filter(None, controllers)), path) for path, controllers in names.items())

    def join_fds(self, *, born_inside: bool = False) -> tuple[int, ...]:
        """To each a process of one thread writes 0 to be a member; ``born_inside``: by `open_unified` it is one."""
        return (*self._joins, *(() if born_inside else self._unified_joins))

    def open_unified(self) -> int | None:
        """The directory of version 2, for the caller to clone a member into (`_sys.clone`) and to close."""
        return None if self._born_in is None else os.open(self._born_in, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def release_joins(self) -> None:
        """The descriptors for joining are closed."""
        for joins in (self._joins, self._unified_joins):
            while joins:
                os.close(joins.pop())

    def limit(self, limits: Limits) -> None:
        """The members are held to ``limits``.

        Raises:
            CgroupError: one can't be held.
        """
        held = {"io" if name == "blkio" else name for name in self._directories}
        missing = needed_controllers(limits) - held
        if missing:
            raise CgroupError(f"no cgroup can hold a limit on {', '.join(sorted(missing))} here")
        for path in self.paths:
            version = next(version for version, known in self._directories.values() if known == path)
            controllers = frozenset(name for name, (_v, known) in self._directories.items() if known == path)
            for name, value in plan_limits(version, limits, controllers, own_pids=self._own_pids):
                _set(path, name, value, optional="sw" in name and limits.memory_swap_bytes is None)

    def usage(self) -> Usage:
        """What the step has used; complete once all its processes are gone."""
        user_ns, system_ns = self._cpu()
        read_bytes, written_bytes = self._io()
        pids_peak = self._number("pids", "pids.peak", "pids.peak")
        return Usage(
            cpu_user_ns=user_ns,
            cpu_system_ns=system_ns,
            memory_peak_bytes=self._number("memory", "memory.max_usage_in_bytes", "memory.peak"),
            pids_peak=None if pids_peak is None else max(0, pids_peak - self._own_pids),
            read_bytes=read_bytes,
            written_bytes=written_bytes,
            oom=self._oom(),
            pids_refused=self._pids_refused(),
        )

    def close(self) -> bool:
        """The groups are removed; False while the kernel still counts a member."""
        self.release_joins()
        for controller, (_version, path) in tuple(self._directories.items()):
            if remove(path):
                del self._directories[controller]
        return not self._directories

    @property
    def paths(self) -> tuple[str, ...]:
        """The directories, each once."""
        return tuple(dict.fromkeys(path for _version, path in self._directories.values()))

    def _number(self, controller: str, v1_file: str, v2_file: str) -> int | None:
        if controller not in self._directories:
            return None
        version, path = self._directories[controller]
        text = read(f"{path}/{v2_file if version == _V2 else v1_file}").strip()
        return int(text) if text.isdigit() else None

    def _cpu(self) -> tuple[int | None, int | None]:
        version, path = self._directories.get("cpuacct") or self._unified()
        if version == _V2:
            counted = fields(read(f"{path}/cpu.stat"))
            if "user_usec" in counted:
                return counted["user_usec"] * 1000, counted.get("system_usec", 0) * 1000
        elif version:
            user, system = (read(f"{path}/cpuacct.usage_{name}").strip() for name in ("user", "sys"))
            if user.isdigit() and system.isdigit():
                return int(user), int(system)
        return None, None

    def _io(self) -> tuple[int | None, int | None]:
        version, path = self._directories.get("blkio") or self._directories.get("io") or (0, "")
        if not version:
            return None, None
        if version == _V2:
            return parse_io_v2(read(f"{path}/io.stat"))
        return parse_io_v1(read(f"{path}/blkio.throttle.io_service_bytes"))

    def _unified(self) -> tuple[int, str]:
        return next((entry for entry in self._directories.values() if entry[0] == _V2), (0, ""))

    def _pids_refused(self) -> int:
        """How often the limit on processes was met: pids.events of both versions."""
        _version, path = self._directories.get("pids", (0, ""))
        return fields(read(f"{path}/pids.events")).get("max", 0) if path else 0

    def _oom(self) -> Oom | None:
        if "memory" not in self._directories:
            return None
        version, path = self._directories["memory"]
        events = fields(read(f"{path}/{'memory.events' if version == _V2 else 'memory.oom_control'}"))
        if not events.get("oom_kill"):
            return None
        peak = self._number("memory", "memory.max_usage_in_bytes", "memory.peak") or 0
        return Oom(_memory_limit_v2(path) if version == _V2 else _memory_limit_v1(path), peak)


def _open_join(path: str) -> int:
    """What a process of one thread writes to, to be a member of the group of version 1."""
    try:
        return os.open(f"{path}/{_THREADS}", os.O_WRONLY | os.O_CLOEXEC)
    except PermissionError:
        # of what was delegated, perhaps not all files
        return os.open(f"{path}/{_PROCESSES}", os.O_WRONLY | os.O_CLOEXEC)


def parse_io_v1(text: str) -> tuple[int, int]:
    """Bytes read and written over all devices. cgroup-v1/blkio-controller.rst."""
    rows = [line.split() for line in text.splitlines()]
    read_bytes, written = (sum(int(row[2]) for row in rows if row[1:2] == [name]) for name in ("Read", "Write"))
    return read_bytes, written


def parse_io_v2(text: str) -> tuple[int, int]:
    """Bytes read and written over all devices. cgroup-v2.rst, io.stat."""
    read_bytes, written = (sum(map(int, re.findall(rf"\b{name}=(\d+)", text))) for name in ("rbytes", "wbytes"))
    return read_bytes, written


def _memory_limit_v1(path: str) -> int:
    """The lowest limit from ``path`` upwards; 0 where there is none, and the whole machine ran out."""
    limit = fields(read(f"{path}/memory.stat")).get("hierarchical_memory_limit", 0)
    return limit if limit < _UNLIMITED else 0


def _memory_limit_v2(path: str) -> int:
    limits: list[int] = []
    while os.path.exists(f"{path}/memory.max"):
        text = read(f"{path}/memory.max").strip()
        if text.isdigit():
            limits.append(int(text))
        path = os.path.dirname(path)
    return min(limits, default=0)


def _set(path: str, name: str, value: str, *, optional: bool = False) -> None:
    """The file ``name`` of the group took ``value``; a kernel without an ``optional`` one is left alone."""
    try:
        fd = os.open(f"{path}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        if optional and isinstance(error, FileNotFoundError):
            return
        raise CgroupError(f"cgroup file {name!r} can't be opened: {(error.strerror or '').lower()}") from error
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise CgroupError(f"cgroup file {name!r} doesn't take {value}: {(error.strerror or '').lower()}") from error
    finally:
        os.close(fd)

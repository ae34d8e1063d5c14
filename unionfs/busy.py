"""Which processes have files of a mount open.

Read from /proc by somebody who does not serve the mount. Invariant: no path of the mount is touched; a process is
recognised by what its descriptors and mappings say about themselves (``proc_pid_fdinfo(5)``, ``proc_pid_maps(5)``).
Processes that may not be looked into are left out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator

from unionfs.mountinfo import parse_line
from unionfs.namedtuple import NamedTuple

_MAP_FIELDS = 5


class Process(NamedTuple):
    """A process and the name of its program."""

    pid: int
    name: str


def find_users(device: tuple[int, int], inos: Collection[int]) -> list[Process]:
    """Processes that have one of the files of the mount with this device number open, or mapped."""
    namespaces: dict[str, set[int]] = {}
    found: list[Process] = []
    for pid in _processes():
        with contextlib.suppress(OSError):
            if _holds(pid, inos, _mount_ids(pid, device, namespaces)) or _maps(pid, device, inos):
                found.append(Process(pid, _name(pid)))
    return found


def _processes() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            yield int(name)


def _mount_ids(pid: int, device: tuple[int, int], known: dict[str, set[int]]) -> set[int]:
    """Ids of the mounts of the device in the mount namespace of the process."""
    namespace = os.readlink(f"/proc/{pid}/ns/mnt")
    if namespace not in known:
        with open(f"/proc/{pid}/mountinfo", "rb") as file:
            mounts = map(parse_line, file)
            known[namespace] = {mount.mount_id for mount in mounts if mount.device == device}
    return known[namespace]


def _holds(pid: int, inos: Collection[int], mounts: set[int]) -> bool:
    directory = f"/proc/{pid}/fdinfo"
    for name in os.listdir(directory) if mounts else ():
        with contextlib.suppress(FileNotFoundError), open(f"{directory}/{name}", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file if line.startswith(("mnt_id:", "ino:")))
            # kernels before 5.14 do not tell the inode
            if int(fields["mnt_id"]) in mounts and ("ino" not in fields or int(fields["ino"]) in inos):
                return True
    return False


def _maps(pid: int, device: tuple[int, int], inos: Collection[int]) -> bool:
    with open(f"/proc/{pid}/maps", "rb") as file:
        for line in file:
            fields = line.split(None, _MAP_FIELDS)
            if len(fields) > _MAP_FIELDS and int(fields[4]) in inos:
                major, minor = (int(word, 16) for word in fields[3].split(b":"))
                if (major, minor) == device:
                    return True
    return False


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().strip()

"""What a test may not leave behind: descriptors, mounts, processes, cgroups, temporary files.

A Snapshot is taken before and after; ``left_behind`` names the difference. Parts that end by themselves (a process
that is on its way out, an unmount under way) get two seconds.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

GRACE_SECONDS = 2.0
TOKEN = "PYBUILD_TEST_SESSION"
CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_NAME = re.compile(r"pybuild-\d+-(?P<pid>\d+)-\d+(-oci)?")


class Snapshot(NamedTuple):
    descriptors: frozenset[tuple[int, str]]
    mounts: frozenset[str]
    processes: frozenset[tuple[int, str]]
    cgroups: frozenset[str]
    temporary: frozenset[str]


def _descriptors() -> frozenset[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return frozenset(found)


def _own_namespace() -> bool:
    try:
        return os.readlink("/proc/self/ns/mnt") != os.readlink("/proc/1/ns/mnt")
    except OSError:
        return False


def _mounts(base: str) -> frozenset[str]:
    """Mount points of this session: below its own directory, or all in a namespace that nobody else uses."""
    points = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split(" ")[4] for line in file]
    if not _own_namespace():
        points = [point for point in points if point.startswith(base)]
    return frozenset(points)


def _children_of(pid: int) -> list[int]:
    children = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii")
            children += [int(word) for word in text.split()]
    return children


def _with_token(token: bytes) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if token in file.read():
                    found.append(int(name))
    return found


def _processes(*, everywhere: bool) -> frozenset[tuple[int, str]]:
    """Children of this process; with ``everywhere`` also orphans that inherited the session's token."""
    pids = set(_children_of(os.getpid()))
    if everywhere and TOKEN in os.environ:
        pids.update(_with_token(f"{TOKEN}={os.environ[TOKEN]}\0".encode()))
    named = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            named.add((pid, Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").split(" ")[1]))
    return frozenset(named)


def _is_a_neighbours(directory: str, own: list[str]) -> bool:
    """Whether the group lies in a sibling of our own cgroup: another session of this machine made it."""
    return any(f"{os.path.dirname(path)}/" in directory and f"{path}/" not in f"{directory}/" for path in own)


def _cgroups() -> frozenset[str]:
    """Groups whose sandbox server is dead: those of a living one are in use, here or by somebody else."""
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    own = [path for line in lines if (path := line.split(":", 2)[2]).count("/") > 1]
    found: dict[str, list[str]] = {}
    for directory, names, _files in os.walk(CGROUP_ROOT):
        for name in names:
            match = CGROUP_NAME.fullmatch(name)
            if match and not os.path.exists(f"/proc/{match['pid']}"):
                found.setdefault(name, []).append(directory)
        names[:] = [name for name in names if CGROUP_NAME.fullmatch(name) is None]
    return frozenset(
        os.path.join(directory, name)
        for name, directories in found.items()
        for directory in directories
        if not any(_is_a_neighbours(each, own) for each in directories)
    )


def take(base: str, *, everywhere: bool) -> Snapshot:
    """What there is now; ``everywhere`` adds what costs milliseconds: orphaned processes and cgroups."""
    return Snapshot(
        descriptors=_descriptors(),
        mounts=_mounts(base),
        processes=_processes(everywhere=everywhere),
        cgroups=_cgroups() if everywhere else frozenset(),
        temporary=frozenset(os.listdir(tempfile.gettempdir())),
    )


def _difference(before: Snapshot, after: Snapshot) -> list[str]:
    return [
        f"{kind}: {item}"
        for kind, old, new in zip(Snapshot._fields, before, after, strict=True)
        for item in sorted(new - old)
    ]


def left_behind(before: Snapshot, base: str, *, everywhere: bool) -> list[str]:
    """One line for each thing that is there now and was not before; empty when the test was clean."""
    left = _difference(before, take(base, everywhere=everywhere))
    if left:
        gc.collect()
    deadline = time.monotonic() + GRACE_SECONDS
    while left := _difference(before, take(base, everywhere=everywhere)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return left

"""One specification under the sandbox and under runc: what a step finds is the same, but for a table of differences.

The table is that of docs/sandbox.md, with the reason for each; a row that no longer tells the truth fails the test.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

from builder.limits import Limits, Ulimit
from builder.runtimes import find_runtime
from builder.sandbox.spec import Bind, Tmpfs, User
from harness.abilities import is_root_of_the_machine
from harness.sandbox import Ran
from harness.users import USERS

pytestmark = pytest.mark.sandbox

Run = Callable[..., Ran]
HARDENING = frozenset({"nosuid", "nodev", "noexec"})
NO_PROGRAMS = frozenset({"nosuid", "noexec"})


class Difference(NamedTuple):
    """Mounts at ``targets``: there only ``here``, or options that are set only here, or only under runc."""

    targets: str
    reason: str
    present: str = "both"
    ours: frozenset[str] = frozenset()
    theirs: frozenset[str] = frozenset()


ABSENT = ("", frozenset[str]())
DIFFERENCES = (
    Difference("/proc/1/*", "process 1 is the sandbox's own, which nobody may trace; runc's is the command", "here"),
    Difference("/proc/acpi", "covered by an empty directory that could hold nothing anyway", ours=HARDENING),
    Difference("/proc/asound", "the same", ours=HARDENING),
    Difference("/proc/scsi", "the same", ours=HARDENING),
    Difference("/sys/firmware", "the same", ours=HARDENING),
    Difference("/sys/devices/virtual/powercap", "the same", ours=HARDENING),
    Difference("/proc/interrupts", "covered by a device that nobody executes", ours=frozenset({"noexec"})),
    Difference("/proc/kcore", "the same", ours=frozenset({"noexec"})),
    Difference("/proc/keys", "the same", ours=frozenset({"noexec"})),
    Difference("/proc/latency_stats", "the same", ours=frozenset({"noexec"})),
    Difference("/proc/timer_list", "the same", ours=frozenset({"noexec"})),
    Difference("/proc/sched_debug", "the same", ours=frozenset({"noexec"})),
    Difference(
        "/sys/fs/cgroup", "the directory of the hierarchies (version 1) need not be written", ours=frozenset({"ro"}),
        theirs=frozenset({"rw"}),
    ),
    Difference("/sys/fs/cgroup/*", "hierarchies that neither limit nor count are not shown (version 1)", "there"),
)  # fmt: skip
# of a plain user's step beside
ROOTLESS = (
    *(
        Difference(f"/dev/{name}", "a copy of the host's node, of which nothing can be executed", ours=NO_PROGRAMS)
        for name in ("full", "null", "random", "tty", "urandom", "zero")
    ),
    *(
        Difference(f"/proc/{name}", "covered by a copy of the host's node", ours=NO_PROGRAMS)
        for name in ("interrupts", "kcore", "keys", "latency_stats", "timer_list", "sched_debug")
    ),
    Difference("/", "runc makes it read-only without what it was mounted with", ours=frozenset({"nodev"})),
)
TABLE = DIFFERENCES if is_root_of_the_machine() else DIFFERENCES + ROOTLESS
SPECIFICATIONS = {
    "root": {},
    "user": {"user": User(1000, 7, (8, 9)), "cwd": "/srv", "env": ("PATH=/bin", "HOME=/srv", "A=1")},
    "capabilities": {"cap_add": ("SYS_PTRACE", "NET_ADMIN"), "cap_drop": ("MKNOD",)},
    "limits": {"limits": Limits(ulimits=(Ulimit("nofile", 100, 200), Ulimit("core", 0, 0), Ulimit("nproc", 50, 60)))},
    "mounts": {"binds": (Bind("/etc", "/srv/etc"),), "tmpfs": (Tmpfs("/mem", 1 << 20),), "read_only_root": True},
    "insecure": {"security": "insecure"},
}
FIELDS = [
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "SigBlk",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
]
PROBE = """
cat /proc/self/status; echo --; cat /proc/self/limits; echo --; cat /proc/self/mountinfo; echo --
for n in mnt pid ipc uts net cgroup user; do readlink /proc/self/ns/$n; done; echo --
ls -ln /dev | while read mode links user group a b c d e rest; do echo $mode $user $group $rest; done; echo --
ls /proc/self/fd; pwd; hostname; env | grep -v ^SHLVL; cat /etc/hosts /etc/hostname; ls /sys/class/net; cat /proc/self/oom_score_adj
"""


class Seen(NamedTuple):
    """What the probe saw; ``mounts`` are types and options by target."""

    status: dict[str, list[str]]
    limits: list[str]
    mounts: dict[str, tuple[str, frozenset[str]]]
    namespaces: list[str]
    devices: list[str]
    rest: list[str]


def look(run: Run, **fields: object) -> Seen:
    # runc would set HOME by the image's /etc/passwd, where nothing says it; and where nothing limits open files, it gives
    # a step its own limit, which the language that it is written in has raised
    fields = {"env": ("PATH=/bin", "HOME=/root"), "limits": Limits(ulimits=(Ulimit("nofile", 512, 1024),)), **fields}
    ran = run("sh", "-c", PROBE, **fields)
    assert (ran.status, ran.result.error, ran.err) == (0, None, "")
    status, limits, mounts, namespaces, devices, rest = (part.strip().split("\n") for part in ran.out.split("--\n"))
    pairs = (line.partition(":") for line in status)
    found = {}
    for words in map(str.split, mounts):
        found[words[4]] = words[words.index("-") + 1], frozenset(words[5].split(","))
    return Seen(
        {name: value.split() for name, _, value in pairs if name in FIELDS}, limits, found, namespaces, devices, rest
    )


def compare(target: str, ours: tuple[str, frozenset[str]], theirs: tuple[str, frozenset[str]]) -> Difference:
    """How the mount at ``target`` differs, as a row without a reason."""
    if ABSENT in (ours, theirs):
        return Difference(target, "", "here" if theirs == ABSENT else "there")
    kind = "both" if ours[0] == theirs[0] else f"{ours[0]} here, {theirs[0]} there"
    return Difference(target, "", kind, ours[1] - theirs[1], theirs[1] - ours[1])


def is_told(difference: Difference) -> bool:
    """Whether the table has the difference as it is; a hierarchy of groups may differ in nothing."""
    return any(fnmatchcase(difference.targets, row.targets) and row[2:] == difference[2:] for row in TABLE)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.owners("runs as another user")] if name == "user" else [])
        for name in SPECIFICATIONS
    ],
)
def test_step_finds_what_it_finds_under_runc(run: Run, name: str) -> None:
    fields = SPECIFICATIONS[name]
    ours, theirs = look(run, **fields), look(run, runtime=find_runtime("runc"), **fields)
    assert ours.status == theirs.status
    assert len(ours.status) == len(FIELDS)
    assert ours.limits == theirs.limits
    assert ours.devices == theirs.devices
    assert ours.rest == theirs.rest
    own = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid", "ipc", "uts", "net", "cgroup", "user")]
    for seen in (ours, theirs):
        assert [place for place, pair in enumerate(zip(seen.namespaces, own, strict=True)) if pair[0] == pair[1]] == [6]
    found = [
        compare(target, ours.mounts.get(target, ABSENT), theirs.mounts.get(target, ABSENT))
        for target in sorted({*ours.mounts, *theirs.mounts})
        if ours.mounts.get(target) != theirs.mounts.get(target)
    ]
    assert [difference for difference in found if not is_told(difference)] == []


def test_table_tells_nothing_that_is_not_so(run: Run) -> None:
    """Of what this machine has, every row of the table is a difference."""
    ours, theirs = (
        look(run, read_only_root=True),
        look(run, read_only_root=True, runtime=find_runtime("runc")),
    )
    for row in TABLE:
        there = [target for target in {*ours.mounts, *theirs.mounts} if fnmatchcase(target, row.targets)]
        differing = [t for t in there if ours.mounts.get(t, ABSENT) != theirs.mounts.get(t, ABSENT)]
        version_two = ours.mounts.get("/sys/fs/cgroup", ABSENT)[0] == "cgroup2"
        if there and not (version_two and row.targets.startswith("/sys/fs/cgroup")):
            assert differing, row.targets


@pytest.mark.parametrize("user", USERS)
def test_filter_answers_as_under_runc(run: Run, rootfs: Path, probe: Callable[[str], Path], user: User) -> None:
    """The one is made here, the other by libseccomp, of the same table."""
    shutil.copy(probe("syscalls"), rootfs / "bin/syscalls")
    ours, theirs = (run("syscalls", user=user, runtime=runtime) for runtime in (None, find_runtime("runc")))
    assert ours.lines() == theirs.lines()
    assert len(ours.lines()) > 45


def test_reasons_are_in_the_documentation(project_root: Path) -> None:
    page = (project_root / "docs" / "sandbox.md").read_text(encoding="utf-8")
    for row in DIFFERENCES + ROOTLESS:
        assert row.reason == "the same" or row.reason in page, row.targets

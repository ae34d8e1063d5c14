"""Groups below one that was delegated, as systemd does with Delegate=yes: on a real hierarchy of version 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.sandbox.delegation import MEMBERS, give_back, vacate
from harness.abilities import AS_NOBODY, NOBODY, plain_interpreter
from harness.portable import placed_client
from harness.waiting import wait_until

pytestmark = [pytest.mark.sandbox, pytest.mark.root("delegates a group")]

JOIN = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


def mounted_v2() -> Path:
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"]
    if not points:
        pytest.skip("no cgroup version 2 is mounted")
    return Path(points[0])


def enable(group: Path) -> list[str]:
    """The controllers that groups below ``group`` have, all there are."""
    for controller in (group / "cgroup.controllers").read_text().split():
        (group / "cgroup.subtree_control").write_text(f"+{controller}")
    return (group / "cgroup.subtree_control").read_text().split()


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A group that belongs to nobody, with every controller of the hierarchy's root."""
    root = mounted_v2()
    before = (root / "cgroup.subtree_control").read_text().split()
    enable(root)
    group = root / f"delegated-{os.getpid()}"
    group.mkdir()
    for name in (".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        os.chown(group / name, NOBODY, NOBODY)
    try:
        yield group
    finally:
        group.rmdir()
        for controller in enable(root):
            if controller not in before:
                (root / "cgroup.subtree_control").write_text(f"-{controller}")


@pytest.fixture
def member(delegated: Path) -> Iterator[int]:
    """A process in the group."""
    with subprocess.Popen(
        ["sh", "-c", JOIN, delegated, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"ready\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        yield process.pid


def members(group: Path) -> list[int]:
    return [int(word) for word in (group / "cgroup.procs").read_text().split()]


def test_members_move_so_that_controllers_can_be_given(delegated: Path, member: int) -> None:
    controllers = (delegated / "cgroup.controllers").read_text().split()
    # those that can't divide the members of one group among themselves (cgroup-v2.rst, "Threads")
    whole = next(name for name in ("memory", "io", "hugetlb") if name in controllers)
    with pytest.raises(OSError, match="busy"):
        (delegated / "cgroup.subtree_control").write_text(f"+{whole}")
    assert vacate(str(delegated))
    assert members(delegated) == []
    assert members(delegated / MEMBERS) == [member]
    assert enable(delegated) == controllers
    (delegated / "pybuild-1-2-3").mkdir()
    give_back(str(delegated))
    assert members(delegated / MEMBERS) == [member], "groups of another server need it still"
    (delegated / "pybuild-1-2-3").rmdir()
    give_back(str(delegated))
    assert members(delegated) == [member]
    assert (delegated / "cgroup.subtree_control").read_text().split() == []
    assert [path for path in delegated.iterdir() if path.is_dir()] == []


def run_as_user(group: Path, root: Path, *steps: dict[str, object]) -> list[list[object]]:
    """What came of each step of a plain user whose processes are in ``group``, in a namespace that shows v2 alone."""
    (root.parent / "subids").touch()
    script = (
        'for file in /etc/subuid /etc/subgid; do mount --bind "$1" $file; done; shift\n'
        'awk \'$3 == "cgroup" {print $2}\' /proc/mounts | while read mounted; do umount "$mounted"; done\n' + JOIN
    )
    program = [*AS_NOBODY, "env", "HOME=/", plain_interpreter(), placed_client(root), root, *map(json.dumps, steps)]
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, group, root.parent / "subids", *program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    level, *results = map(json.loads, done.stdout.splitlines())
    assert level == "rootless with one id"
    return results


def test_plain_user_in_a_delegated_group(delegated: Path, open_root: Path, probe: Callable[[str], Path]) -> None:
    """Limits hold as far as controllers were delegated, use is counted, and the group is as it was."""
    shutil.copy(probe("hog"), open_root / "bin/hog")
    controllers = (delegated / "cgroup.controllers").read_text().split()
    spin = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
    (plain, bomb, memory) = run_as_user(
        delegated,
        open_root,
        {"argv": ["sh", "-c", f"{spin}; cat /proc/self/cgroup"]},
        {"argv": ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"], "limits": {"pids": 3}},
        {"argv": ["hog", "128"], "limits": {"memory_bytes": 32 << 20}},
    )
    assert (plain[0], str(plain[1]).splitlines()[-1]) == (0, "0::/"), plain
    if "pids" in controllers:
        assert (bomb[0] != 0, "can't fork" in str(bomb[2])) == (True, True), bomb
    else:
        assert bomb[3] == "no cgroup can hold a limit on pids here"
    if "memory" in controllers:
        assert (memory[0], memory[4]) == (137, []), memory
    else:
        assert memory[3] == "no cgroup can hold a limit on memory here"
    wait_until(lambda: members(delegated) == [], "the last process of the user to end")
    assert [path for path in delegated.iterdir() if path.is_dir()] == []
    assert (delegated / "cgroup.subtree_control").read_text().split() == []

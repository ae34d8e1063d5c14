"""A child stands ready for a step that comes, and none is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.sandbox.client import SandboxServer
from builder.sandbox.spec import SandboxSpec
from harness.sandbox import run_in, start
from harness.waiting import wait_until

pytestmark = pytest.mark.sandbox


def ready(server: SandboxServer) -> int:
    """The children of the server that wait for a step: those with the thread that will start its command."""
    return sum(_threads(child) > 1 for child in _children(server.pid))


def _threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()))
    except (FileNotFoundError, ProcessLookupError):
        return []


def groups_of(server: SandboxServer) -> set[str]:
    """The groups of steps that the server has, by their numbers."""
    return {
        name
        for directory, names, _files in os.walk("/sys/fs/cgroup")
        if f"-{server.pid}-" in os.path.basename(directory)
        for name in names
    }


def test_one_where_nothing_is_said(server: SandboxServer, rootfs: Path) -> None:
    wait_until(lambda: ready(server) == 1, "one is ready")
    assert run_in(server, rootfs, "true").status == 0
    wait_until(lambda: ready(server) == 1, "the next is ready")


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_one_as_long_as_steps_are_to_come(rootfs: Path, steps: int) -> None:
    with SandboxServer.start(steps=steps) as server:
        for left in range(steps, 0, -1):
            wait_until(lambda: ready(server) == 1, "a step is to come")
            assert run_in(server, rootfs, "sh", "-c", f"exit {left}").status == left
        wait_until(lambda: not _children(server.pid), "nothing is ready for no step")
        wait_until(lambda: not groups_of(server), "no group is left")


def test_more_steps_than_were_said(rootfs: Path) -> None:
    with SandboxServer.start(steps=1) as server:
        assert [run_in(server, rootfs, "sh", "-c", "exit 4").status for _ in range(3)] == [4, 4, 4]


@pytest.mark.limits("counts groups")
def test_groups_go_while_steps_come_one_after_the_other(rootfs: Path) -> None:
    with SandboxServer.start(steps=12) as server:
        for _ in range(8):
            assert run_in(server, rootfs, "true").status == 0
        wait_until(lambda: ready(server) == 1, "the next is ready")
        wait_until(lambda: len(groups_of(server)) == 1, "the group is its own")


def test_spare_that_is_killed_is_not_made_again_before_a_step(rootfs: Path) -> None:
    with SandboxServer.start() as server:
        wait_until(lambda: ready(server) == 1, "one is ready")
        os.kill(_children(server.pid)[0], 9)
        wait_until(lambda: not _children(server.pid), "it is gone")
        assert run_in(server, rootfs, "sh", "-c", "exit 5").status == 5
        wait_until(lambda: ready(server) == 1, "the next is ready")


def test_server_that_is_killed_leaves_no_spare(rootfs: Path) -> None:
    server = SandboxServer.start(steps=9)
    running = start(server, rootfs, ("sleep", "1000"))
    wait_until(lambda: ready(server) >= 2, "a step runs, and one is ready")
    children = _children(server.pid)
    os.kill(server.pid, 9)
    wait_until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children), "all are gone")
    running.close()
    server.close()
    assert groups_of(server) == set()


def test_step_that_differs_gets_a_child_of_its_own(rootfs: Path) -> None:
    with SandboxServer.start(steps=4) as server:
        wait_until(lambda: ready(server) == 1, "one is ready")
        ran = run_in(server, rootfs, "grep", "CapBnd", "/proc/self/status", cap_drop=("ALL",))
        assert ran.lines() == ["CapBnd:\t0000000000000000"]
        plain = SandboxSpec(argv=("true",))
        assert run_in(server, rootfs, *plain.argv).status == 0

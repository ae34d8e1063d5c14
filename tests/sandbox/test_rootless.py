"""Steps of a builder that is a plain user: with a range of subordinate ids, and with its own id alone."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.abilities import AS_NOBODY, NOBODY, plain_interpreter
from harness.portable import placed_client

pytestmark = [pytest.mark.sandbox, pytest.mark.root("becomes another user, with ids of its own in /etc/subuid")]

RANGE = (200_000, 65_536)


def run_as_user(root: Path, *steps: dict[str, Any], subordinate: bool) -> tuple[str, list[Any]]:
    """The level, and what came of each step."""
    names = root.parent / "subids"
    names.write_text(f"nobody:{RANGE[0]}:{RANGE[1]}\n" if subordinate else "")
    script = 'set -e; mount --bind "$1" /etc/subuid; mount --bind "$1" /etc/subgid; shift; exec "$@"'
    program = [*AS_NOBODY, "env", "HOME=/", plain_interpreter(), placed_client(root), root, *map(json.dumps, steps)]
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", names, *program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    level, *results = map(json.loads, done.stdout.splitlines())
    return level, results


def test_range_of_ids(open_root: Path) -> None:
    script = "id -u; cat /proc/self/uid_map; touch /tmp/mine; chown 1000:1000 /tmp/mine; stat -c %u:%g /tmp/mine"
    level, results = run_as_user(
        open_root,
        {"argv": ["sh", "-c", script]},
        {"argv": ["sh", "-c", "id -u; id -g; touch /tmp/theirs"], "user": [1000, 1001, [7]]},
        {"argv": ["readlink", "/proc/self/ns/net"], "network": "host"},
        subordinate=True,
    )
    assert level == "rootless"
    assert [result[:2] for result in results[:2]] == [
        [0, f"0\n         0      65534          1\n         1     {RANGE[0]}      {RANGE[1]}\n1000:1000\n"],
        [0, "1000\n1001\n"],
    ], results
    assert (open_root / "tmp/mine").stat().st_uid == RANGE[0] + 999
    assert (open_root / "tmp/theirs").stat().st_gid == RANGE[0] + 1000
    assert results[2][1].strip() == os.readlink("/proc/self/ns/net"), results[2]


def test_one_id(open_root: Path) -> None:
    level, results = run_as_user(
        open_root,
        {
            "argv": [
                "sh",
                "-c",
                "id -u; touch /tmp/mine; grep -E 'CapBnd|Seccomp:' /proc/self/status; cat /etc/hostname",
            ]
        },
        {"argv": ["true"], "user": [1000, 1000, []]},
        {"argv": ["sh", "-c", "head -c 3 /dev/zero | wc -c; mknod /tmp/x c 1 3"]},
        subordinate=False,
    )
    assert level == "rootless with one id"
    assert results[0][:2] == [0, "0\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\npybuildsandbox\n"], results[0]
    assert (open_root / "tmp/mine").stat().st_uid == NOBODY
    assert results[1][3] == 'error changing to "user 1000:1000": EINVAL (invalid argument)'
    assert (results[2][1], "not permitted" in results[2][2]) == ("3\n", True)


def test_step_without_groups_says_so(open_root: Path) -> None:
    _level, results = run_as_user(open_root, {"argv": ["true"]}, subordinate=False)
    assert results[0][4] == ["no cgroup for memory can be made here: use is not counted"]


def test_machine_without_user_namespaces(open_root: Path) -> None:
    """A chroot: user namespaces can't be made in one (user_namespaces(7)), so one clear message is all."""
    script = 'set -e; mount --rbind / "$1"; shift; exec "$@"'
    inner = [*AS_NOBODY, "env", "HOME=/", plain_interpreter(), placed_client(open_root), open_root]
    place = open_root.parent / "host"
    place.mkdir()
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", place, "chroot", place, *inner]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert json.loads(done.stdout) == (
        "steps can't be shut in here: operation not permitted (it takes root with CAP_SYS_ADMIN, or user namespaces)"
    ), done.stderr

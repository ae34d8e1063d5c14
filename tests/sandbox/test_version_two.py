"""Control groups of version 2, on a machine that has both: in a mount namespace that shows version 2 alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.sandbox, pytest.mark.root("takes the groups of version 1 away")]

SCRIPT = """
import json, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from builder.limits import Limits
from builder.sandbox.client import SandboxServer
from harness.sandbox import run_in
fields = json.loads(sys.argv[4])
if "limits" in fields:
    fields["limits"] = Limits(**fields["limits"])
with SandboxServer.start() as server:
    ran = run_in(server, Path(sys.argv[3]), *json.loads(sys.argv[5]), **fields)
print(json.dumps([ran.result.to_json(), ran.out, ran.err]))
"""
ONLY_V2 = """
set -e
mount --make-rprivate /
point=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
mkdir -p "$1"; mount --bind "$point" "$1"; shift
awk '$3 == "cgroup" {print $2}' /proc/mounts | while read mounted; do umount "$mounted"; done
[ "$point" = /sys/fs/cgroup ] || umount "$point"
exec "$@"
"""


def run_v2(rootfs: Path, tmp_path: Path, *argv: str, **fields: Any) -> tuple[dict[str, Any], str, str]:
    if "cgroup2" not in Path("/proc/mounts").read_text():
        pytest.skip("no cgroup version 2 is mounted")
    root = Path(__file__).resolve().parents[2]
    program = [sys.executable, "-c", SCRIPT, root, root / "tests", rootfs, json.dumps(fields), json.dumps(argv)]
    command = ["unshare", "-m", "sh", "-c", ONLY_V2, "sh", tmp_path / "cgroup", *program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result, out, err = json.loads(done.stdout)
    return result, out, err


def test_step_runs(rootfs: Path, tmp_path: Path) -> None:
    result, out, _err = run_v2(rootfs, tmp_path, "sh", "-c", "cat /proc/self/cgroup; ls /sys/fs/cgroup")
    assert result["status"] == 0
    assert "0::/" in out.splitlines()
    assert "cgroup.procs" in out.splitlines()


def test_devices_are_confined(rootfs: Path, tmp_path: Path) -> None:
    script = "mknod /tmp/d b 254 0 && head -c 1 /tmp/d; mknod /tmp/n c 1 3 && echo x > /tmp/n && echo used; mknod /tmp/m c 1 1; head -c 1 /tmp/m"
    result, out, err = run_v2(rootfs, tmp_path, "sh", "-c", script)
    assert (out, err.count("Operation not permitted")) == ("used\n", 2)
    assert result["status"] == 1


def test_limit_without_a_controller_is_refused(rootfs: Path, tmp_path: Path) -> None:
    controllers = next(
        (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"), ""
    )
    has_memory = "memory" in Path(controllers, "cgroup.controllers").read_text().split()
    result, _out, _err = run_v2(rootfs, tmp_path, "true", limits={"memory_bytes": 64 << 20})
    if has_memory:
        assert result["status"] == 0
    else:
        assert result["error"] == "no cgroup can hold a limit on memory here"
        assert result["status"] == 125


BORN = """
import os, sys
sys.path[:0] = sys.argv[1:2]
from builder.sandbox import _sys
from builder.sandbox.runtime import Child
for place, expected in ((sys.argv[2], True), ("/", False)):
    pid, born_inside = Child._fork(_sys.CLONE_NEWUTS, os.open(place, os.O_PATH))
    if pid == 0:
        with open("/proc/self/cgroup") as file:
            own = [line.strip() for line in file if line.startswith("0::")]
        os._exit(0 if own[0].endswith("/" + os.path.basename(sys.argv[2])) == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and born_inside == expected, place
print(os.listdir("/proc/self/fd"))
"""


def test_a_process_is_born_in_its_group_or_joins_it_afterwards() -> None:
    point = next(
        (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"), ""
    )
    if not point:
        pytest.skip("no cgroup version 2 is mounted")
    root = Path(__file__).resolve().parents[2]
    group = Path(point, f"born-{os.getpid()}")
    group.mkdir()
    try:
        program = [sys.executable, "-c", BORN, root, group]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
    finally:
        group.rmdir()
    # of the directories that were opened none is left
    assert done.stdout.count("'") == 2 * 4, (done.stdout, done.stderr)

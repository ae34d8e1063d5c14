"""pybuild inside of containers that docker, podman and buildah make: the level it gets there, or what is missing.

A few rows of the table of docs/sandbox.md in the usual run, all of them where CONTAINERS=all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.abilities import plain_interpreter
from harness.bases import made
from harness.dockerd import DOCKER, Dockerd
from harness.portable import place_packages
from harness.pybuild import ENTRY_POINT
from harness.waiting import wait_until

pytestmark = [pytest.mark.sandbox, pytest.mark.fuse, pytest.mark.e2e]

DOCKERFILE = """\
FROM busybox
RUN id -u >/who && touch /file && chown 5:6 /file || echo kept
ARG KERNEL
RUN test "$(cat /proc/sys/kernel/ostype)" = "$KERNEL" && ls /dev/shm && rm /who && test -z "$KERNEL" -o -d /sys/class
"""
INSIDE = f"""\
export HOME=/tmp/home PYTHONPATH=/place/lib
pybuild() {{ INTERPRETER -c '{ENTRY_POINT}' "$@"; }}
pybuild load -i /place/busybox.tar >/dev/null
pybuild build --progress plain --build-arg KERNEL="$1" -t built /place/context 2>&1 || exit
pybuild run built stat -c 'owner %u:%g' /file
"""
REFUSED = "error: steps can't be shut in here: operation not permitted"
ON_COPIES = "each RUN works on a copy of its files"
NO_DEVICE = f"WARN: /dev/fuse: no such file or directory: {ON_COPIES}"
NO_MOUNT = f"WARN: nothing can be mounted: {ON_COPIES}"
WEAKEST = "no-namespaces"
AS_USER = "error: a plain user cannot build here: user namespaces are refused (operation not permitted)"
PODMAN = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs")
BUILDAH = ("buildah", "--storage-driver", "vfs")
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")


class Row(NamedTuple):
    """``told`` is the level, or the beginning of the error's line; ``always``: in the usual run.

    ``copies`` is the warning, where steps work on copies of their roots.
    """

    engine: str
    options: str
    told: str
    owner: str = "5:6"
    always: bool = False
    copies: str = ""


FUSE = "--device {fuse}:/dev/fuse"
ANY_CALL = "--security-opt seccomp=unconfined"
ROWS = (
    Row("docker", "", WEAKEST, copies=NO_DEVICE, always=True),
    Row("docker", FUSE, WEAKEST, copies=NO_MOUNT),
    Row("docker", "--security-opt no-new-privileges", WEAKEST, copies=NO_DEVICE),
    Row("docker", "--cap-drop SYS_CHROOT", REFUSED),
    Row("docker", "--user 1000", AS_USER),
    Row("docker", f"{FUSE} {ANY_CALL}", "no-new-proc"),
    Row("docker", f"{FUSE} --cap-add SYS_ADMIN", "full", always=True),
    Row("docker", f"{FUSE} --cap-add SYS_ADMIN {ANY_CALL}", "full"),
    Row("docker", f"--user 1000 {FUSE} {ANY_CALL}", "no-new-proc with one id", "0:0"),
    Row("docker", ANY_CALL, "no-new-proc", copies=NO_DEVICE),
    Row("podman", "", "no-new-proc", copies=NO_DEVICE),
    Row("podman", "--user 1000", "no-new-proc with one id", "0:0", copies=NO_DEVICE),
    Row("podman", FUSE, "no-new-proc", always=True),
    Row("podman", f"{FUSE} --cap-add SYS_ADMIN", "full"),
    Row("podman", "--privileged", "full"),
    Row("podman", f"--user 1000 {FUSE}", "no-new-proc with one id", "0:0", always=True),
    Row("buildah", "", "no-new-proc", copies=NO_DEVICE, always=True),
    Row("buildah", FUSE, "no-new-proc"),
    Row("buildah", f"{FUSE} --cap-add SYS_ADMIN", "full"),
)
CHOSEN = [row for row in ROWS if row.always or os.environ.get("CONTAINERS") == "all"]
Run = Callable[[Row], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """What is shown in every container, and a device that anybody may open."""
    directory = Path(tempfile.mkdtemp(prefix="pyb-inside-", dir="/var/tmp"))
    try:
        directory.chmod(0o755)
        place_packages(directory)
        (directory / "context").mkdir()
        (directory / "context" / "Dockerfile").write_text(DOCKERFILE)
        (directory / "inside").write_text(INSIDE.replace("INTERPRETER", plain_interpreter()))
        os.mknod(directory / "fuse", 0o20000, os.makedev(10, 229))
        (directory / "fuse").chmod(0o666)
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def storage() -> Iterator[Path]:
    """Where podman and buildah keep what is theirs: podman takes no long path."""
    directory = tempfile.mkdtemp(prefix="pyb-", dir="/var/tmp")
    yield Path(directory)
    # what cleans up after a container may be at work a little longer than podman
    wait_until(lambda: _is_removed(directory), "the storage to be left alone")


def _is_removed(directory: str) -> bool:
    shutil.rmtree(directory, ignore_errors=True)
    return not os.path.exists(directory)


@pytest.fixture
def run(place: Path, storage: Path, dockerd: Dockerd) -> Run:
    """Builds and runs an image inside a container of busybox, with the interpreter of this machine."""
    shown = [("/usr", "/usr"), ("/lib", "/lib"), ("/lib64", "/lib64"), (str(place), "/place")]
    volumes = [word for source, target in shown for word in ("-v", f"{os.path.realpath(source)}:{target}:ro")]

    def inside(row: Row) -> subprocess.CompletedProcess[str]:
        command = ("sh", "/place/inside", "" if row.told == WEAKEST else "Linux")
        options = row.options.format(fuse=place / "fuse").split()
        if row.engine == "docker":
            docker = (DOCKER, "--host", dockerd.host, "run", "--rm", "--network", "none")
            return called(*docker, *volumes, *options, "busybox", *command)
        own = ("--root", str(storage / "graph"), "--runroot", str(storage / "run"))
        if row.engine == "podman":
            podman = (PODMAN[0], *own, *PODMAN[1:])
            must(*podman, "load", "--quiet", "--input", made("busybox"))
            once = ("run", "--rm", "--network", "none", "--log-driver", "none", *LIMITS)
            return called(*podman, *once, *volumes, *options, "busybox", *command)
        buildah = (BUILDAH[0], *own, *BUILDAH[1:])
        name = must(*buildah, "from", "--quiet", *LIMITS, *options, f"docker-archive:{made('busybox')}").stdout.strip()
        isolated = ("--isolation", "oci", "--runtime", "runc", "--network", "none")
        return called(*buildah, "run", *isolated, *volumes, name, "--", *command)

    return inside


def called(*command: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def must(*command: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    done = called(*command)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("row", CHOSEN, ids=[f"{row.engine} {row.options}" for row in CHOSEN])
def test_level(run: Run, row: Row) -> None:
    done = run(row)
    if row.told.startswith("error:"):
        errors = [line for line in done.stdout.splitlines() if line.startswith("error:")]
        assert [error.startswith(row.told) for error in errors] == [True], done.stdout
        assert "--device /dev/fuse" in done.stdout
        assert "Traceback" not in done.stdout + done.stderr
        assert done.returncode == 1
        return
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"[internal] isolation of steps: {row.told}\n" in done.stdout
    assert done.stdout.splitlines()[-1] == f"owner {row.owner}"
    assert [line[: len(row.copies)] for line in done.stdout.splitlines() if ON_COPIES in line] == (
        [row.copies] if row.copies else []
    )
    assert (f"WARN: isolation {WEAKEST} is the weakest" in done.stdout) is (row.told == WEAKEST)

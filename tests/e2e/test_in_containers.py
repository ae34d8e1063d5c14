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
from harness.pybuild import ENTRY_POINT, PROJECT, Pybuild
from harness.trees import differences, read_tree
from harness.waiting import wait_until

pytestmark = pytest.mark.root("containers of docker, and those that root makes")

DOCKERFILE = """\
FROM busybox
RUN id -u >/who && touch /file && chown 5:6 /file || echo kept
ARG PROC
RUN test "$(cat /proc/sys/kernel/ostype)" = Linux && test "$(cut -d' ' -f3 /proc/self/stat)" = "$PROC" && ls /dev/shm && rm /who
"""
INSIDE = f"""\
export HOME=/tmp/home PYTHONPATH=/place/lib
pybuild() {{ INTERPRETER -c '{ENTRY_POINT}' "$@"; }}
pybuild load -i /place/busybox.tar >/dev/null
pybuild build --progress plain --build-arg PROC="$1" -t built /place/context 2>&1 || exit
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
EVERYTHING = os.environ.get("CONTAINERS") == "all"
CHOSEN = [row for row in ROWS if row.always or EVERYTHING]
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
        command = ("sh", "/place/inside", "" if row.told == WEAKEST else "R")
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


# what a container with docker's defaults is given: builds of two images, and one of them as an archive
BY_DEFAULT = f"""\
export HOME=/tmp/home PYTHONPATH=/place/lib
pybuild() {{ INTERPRETER -c '{ENTRY_POINT}' "$@"; }}
for base in busybox debian; do pybuild load -i /place/$base.tar >/dev/null || exit; done
pybuild build --progress plain -t built $2 -o type=tar,dest=/out/built.tar /place/$1 2>&1 || exit
"""
TREES = """\
FROM busybox AS other
RUN mkdir -p /out/deep/er && echo 1 >/out/deep/er/file && chown -R 5:6 /out && chmod 2750 /out/deep
FROM busybox
RUN mkdir -p /d/e/f && echo x >/d/e/f/g && ln /d/e/f/g /d/h && mknod /d/pipe p && ln -s h /d/l && cp -p /bin/ls /d/suid \\
    && chmod 4711 /d/suid && mknod /d/node c 1 3
RUN --mount=type=cache,target=/d/e/f --mount=type=tmpfs,target=/mnt/tmp --mount=type=bind,target=/d/new \\
    mv /d/h /d/z && chmod 700 /d && rm /bin/false && echo kept >/d/e/f/kept
COPY --from=other /out /out
RUN --mount=type=bind,from=other,source=/out,target=/out,rw rm -r /out/deep && mv /d/e /d/moved
USER 7:8
RUN touch /tmp/mine
"""
REACHED = """\
FROM busybox
COPY escape trace /bin/
RUN escape && trace 1 $PPID
"""
# one process of a step may trace another, and docker's containers may open the device of tunnels
OF_THE_CONTAINER = {"own", "tunnel"}


def by_default(place: Path, dockerd: Dockerd, out: Path, name: str, network: str = "none") -> str:
    """What the build of the context ``name`` said, in a container with docker's default settings."""
    (place / "by-default").write_text(BY_DEFAULT.replace("INTERPRETER", plain_interpreter()))
    shutil.copy(made("debian"), place / "debian.tar")
    shown = [("/usr", "/usr"), ("/lib", "/lib"), ("/lib64", "/lib64"), (str(place), "/place")]
    volumes = [word for source, target in shown for word in ("-v", f"{os.path.realpath(source)}:{target}:ro")]
    if network == "host":
        volumes += ["-v", "/etc/resolv.conf:/etc/resolv.conf:ro"]
    done = must(
        *(DOCKER, "--host", dockerd.host, "run", "--rm", "--network", network, *volumes, "-v", f"{out}:/out"),
        *("busybox", "sh", "/place/by-default", name),
    )
    assert f"isolation of steps: {WEAKEST}\n" in done.stdout
    return done.stdout


def unpacked(archive: Path) -> Path:
    root = archive.with_suffix("")
    root.mkdir()
    must("tar", "-x", "-p", "--xattrs", "--numeric-owner", "-f", archive, "-C", root)
    return root


if EVERYTHING:

    def test_image_of_docker_by_default_is_that_of_fuse(
        place: Path, dockerd: Dockerd, small: Pybuild, tmp_path: Path
    ) -> None:
        (place / "trees").mkdir()
        (place / "trees" / "Dockerfile").write_text(TREES)
        by_default(place, dockerd, tmp_path, "trees")
        small.run("build", "-o", f"type=tar,dest={tmp_path / 'fuse.tar'}", place / "trees")
        roots = [unpacked(tmp_path / name) for name in ("built.tar", "fuse.tar")]
        assert differences(read_tree(roots[0]), read_tree(roots[1])) == []

    def test_a_container_is_out_of_reach_of_its_steps(place: Path, dockerd: Dockerd, tmp_path: Path) -> None:
        (place / "reached").mkdir()
        (place / "reached" / "Dockerfile").write_text(REACHED)
        for name in ("escape", "trace"):
            must("gcc", "-static", "-o", place / "reached" / name, PROJECT / "tests/sandbox/probes" / f"{name}.c")
        told = [line.split(" ", 2)[2:] for line in by_default(place, dockerd, tmp_path, "reached").splitlines()]
        lines = [words[0] for words in told if words]
        pairs = [line.split() for line in lines]
        tried = {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
        assert len(tried) > 20
        assert {name for name, number in tried.items() if number == "0"} == OF_THE_CONTAINER
        assert lines.count("1 1 1 1") == 2

    def test_python_app_in_docker_by_default(
        place: Path, dockerd: Dockerd, examples: Path, tmp_path: Path, pybuild: Pybuild
    ) -> None:
        shutil.copytree(examples / "python-app", place / "python-app")
        by_default(place, dockerd, tmp_path, "python-app", network="host")
        root = unpacked(tmp_path / "built.tar")
        words = ("env", "--chdir=/app", "NOTES_FILE=/tmp/notes", "python3", "-m", "notes", "selftest")
        ran = must("chroot", "--userspec=1000:1000", root, *words)
        assert ran.stdout.startswith("self-test passed: ")

"""buildah and podman of a plain user, in a user namespace, with unionmount as their mount program."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.abilities import AS_NOBODY, NOBODY, plain_interpreter
from harness.unions import PROJECT

pytestmark = pytest.mark.root("becomes another user, with ids of its own in /etc/subuid")

DOCKERFILE = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "/bin"]
RUN mkdir /made && echo one >/made/file && chown 5:6 /made/file && chmod 4711 /made/file
RUN mv /made /moved && mkfifo /moved/fifo && rm /bin/wget
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{0}/graph"
runroot = "{0}/run"
[storage.options.overlay]
mount_program = "{0}/unionmount"
"""
# the device for everybody, the ids of nobody, and one hierarchy of cgroups, in a mount namespace of their own
SCRIPT = """\
mount --bind "$1/fuse" /dev/fuse
mount --bind "$1/subids" /etc/subuid; mount --bind "$1/subids" /etc/subgid
[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 none /sys/fs/cgroup
cd "$1"
export CONTAINERS_STORAGE_CONF="$1/storage.conf" HOME="$1/home" XDG_RUNTIME_DIR="$1/run" TMPDIR="$1/run"
shift
"$@" buildah build --quiet --isolation chroot -t busy context >/dev/null
"$@" buildah unshare sh -euc '
    container=$(buildah from --pull-never busy)
    root=$(buildah mount $container)
    grep -c " $root .* - fuse.unionmount " /proc/self/mountinfo
    stat -c "%n %u:%g %a" $root/moved/file | sed "s#.*/moved#moved#"
    cd $root; ls moved bin/wget 2>&1 | grep -v "^$"; cd /
    buildah rm $container >/dev/null'
"$@" podman --runtime crun --cgroup-manager cgroupfs run --rm --cgroups disabled --network none --log-driver none \\
    --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 busy \\
    sh -euc 'cat /moved/file; rm -r /moved; echo new >/made; cat /made; grep " / " /proc/mounts'
# the process that holds podman's user namespace for later calls
kill "$(cat "$XDG_RUNTIME_DIR/libpod/tmp/pause.pid")"
"""


@pytest.fixture
def place() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="pyb-user-", dir="/tmp"))
    try:
        place.chmod(0o755)
        shutil.copytree(PROJECT / "unionfs", place / "lib/unionfs", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("home", "run", "context"):
            (place / name).mkdir()
        shutil.copy("/bin/busybox", place / "context/busybox")
        (place / "context/Dockerfile").write_text(DOCKERFILE)
        (place / "storage.conf").write_text(STORAGE.format(place))
        (place / "subids").write_text("nobody:200000:65536\n")
        program = place / "unionmount"
        program.write_text(
            f'#!/bin/sh\nPYTHONPATH={place}/lib exec {plain_interpreter()} -m unionfs.cli.unionmount "$@"\n'
        )
        program.chmod(0o755)
        os.mknod(place / "fuse", 0o020666, os.makedev(10, 229))
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", place], check=True)
        (place / "fuse").chmod(0o666)
        yield place
    finally:
        shutil.rmtree(place)


def test_a_plain_user_builds_and_runs(place: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", SCRIPT, "sh", place, *AS_NOBODY],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    *lines, root = done.stdout.splitlines()
    assert lines == [
        "1",
        "moved/file 5:6 4711",
        "ls: cannot access 'bin/wget': No such file or directory",
        "moved:",
        "fifo",
        "file",
        "one",
        "new",
    ]
    assert "fuse.unionmount" in root

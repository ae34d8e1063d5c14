"""buildah and podman with unionmount as their mount program: what they build is what they build by copying."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.bases import made
from harness.trees import Ignored, differences, read_tree

BUSYBOX = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "/bin"]
RUN mkdir -p /kept/sub /gone/sub && echo one >/kept/sub/file && echo two >/gone/sub/file && ln /kept/sub/file /link
RUN rm -r /gone && mv /kept /moved && chown 5:6 /moved/sub/file && chmod 4711 /moved/sub && ln -s moved /symlink
RUN mkdir /gone && touch /gone/new && rm /bin/wget /link && mknod /fifo p && mv /bin/yes /bin/no
CMD ["/bin/cat", "/moved/sub/file"]
"""
DEBIAN = """\
FROM debian:bookworm
RUN mv /usr/share/doc /usr/share/moved && groupadd -g 77 tester && useradd -M -u 1077 -g 77 tester
RUN rm -rf /usr/share/zoneinfo && mkdir /usr/share/zoneinfo && echo only >/usr/share/zoneinfo/only
RUN dpkg-divert --local --rename --add /bin/true && chmod 4755 /usr/bin/env && ln /etc/passwd /etc/passwd-link
RUN rm -r /usr/share/moved && mv /usr/share/zoneinfo /usr/share/doc && chgrp -R tester /etc/default
CMD ["id", "tester"]
"""

# that of a plain user is seen to by test_mount_program_rootless.py
pytestmark = pytest.mark.root("runs buildah and podman as root")


class Storage(NamedTuple):
    """Storage of buildah and podman: ``overlay`` mounted by unionmount, or ``vfs``, which copies every layer."""

    base: Path
    driver: str

    def run(self, *command: str | Path) -> str:
        """What the command, which uses this storage, prints; it succeeds. Its mounts are its own."""
        environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(self.base / "storage.conf")}
        done = subprocess.run(
            ["unshare", "--mount", *command],
            env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{command[0]}: {done.stderr[-2000:]}"
        return done.stdout

    def calls(self) -> list[str]:
        """How unionmount was called."""
        calls = self.base / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def unpacked(self, image: str) -> Path:
        """The root of the image: as umoci applies its layers, or the last copy."""
        if self.driver == "vfs":
            container = self.run("buildah", "from", "--pull-never", image).strip()
            return Path(self.run("buildah", "mount", container).strip())
        self.run("buildah", "push", "--quiet", "--disable-compression", image, f"oci:{self.base}/layout:{image}")
        self.run("umoci", "unpack", "--image", f"{self.base}/layout:{image}", self.base / image)
        return self.base / image / "rootfs"


def storage_at(base: Path, driver: str, project: Path) -> Storage:
    base.mkdir()
    program = base / "unionmount"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{base}/calls\n'
        f'PYTHONPATH={project} exec {sys.executable} -m unionfs.cli.unionmount "$@"\n'
    )
    program.chmod(0o755)
    (base / "storage.conf").write_text(
        f'[storage]\ndriver = "{driver}"\ngraphroot = "{base}/graph"\nrunroot = "{base}/run"\n'
        + (f'[storage.options.overlay]\nmount_program = "{program}"\n' if driver == "overlay" else "")
    )
    return Storage(base, driver)


@pytest.fixture
def mounted(tmp_path: Path, project_root: Path) -> Iterator[Storage]:
    storage = storage_at(tmp_path / "mounted", "overlay", project_root)
    yield storage
    storage.run("buildah", "rm", "--all")


@pytest.fixture
def copied(tmp_path: Path, project_root: Path) -> Iterator[Storage]:
    storage = storage_at(tmp_path / "copied", "vfs", project_root)
    yield storage
    storage.run("buildah", "rm", "--all")


@pytest.fixture
def context(tmp_path: Path) -> Path:
    context = tmp_path / "context"
    context.mkdir()
    shutil.copy("/bin/busybox", context / "busybox")
    (context / "Dockerfile").write_text(BUSYBOX)
    (context / "Dockerfile.debian").write_text(DEBIAN)
    return context


ROOT = Ignored(".", ("mode",), "the layers of an image from scratch say nothing about it")


def assert_same(one: Storage, other: Storage, image: str) -> None:
    assert differences(read_tree(one.unpacked(image)), read_tree(other.unpacked(image)), (ROOT,)) == []


BUILD = ("build", "--isolation", "chroot")


@pytest.mark.parametrize("builder", ["buildah", "podman"])
def test_layers_are_those_of_copies(builder: str, mounted: Storage, copied: Storage, context: Path) -> None:
    for each in (mounted, copied):
        each.run(builder, *BUILD, "--layers", "-t", "busy", context)
    assert any("upperdir=" in call for call in mounted.calls())
    assert_same(mounted, copied, "busy")


def test_debian_is_built_and_run(mounted: Storage, copied: Storage, context: Path) -> None:
    for each in (mounted, copied):
        each.run("buildah", "pull", "--quiet", f"docker-archive:{made('debian')}")
        each.run(
            "buildah",
            *BUILD,
            "--layers=false",
            "--pull-never",
            "-t",
            "deb",
            "-f",
            context / "Dockerfile.debian",
            context,
        )
    assert_same(mounted, copied, "deb")
    container = mounted.run("buildah", "from", "--pull-never", "deb").strip()
    inside = "id -u tester; ls /usr/share/doc; grep ' / ' /proc/self/mounts | tail -n 1; mv /usr/share /usr/moved"
    shown = mounted.run("buildah", "run", "--isolation", "chroot", container, "--", "bash", "-ec", inside).split("\n")
    assert shown[:2] == ["1077", "only"]
    assert "fuse.unionmount" in shown[2]


# crun wants one hierarchy of cgroups, and neither may raise limits where the machine forbids it
PODMAN = """\
[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 none /sys/fs/cgroup
exec podman --runtime crun --cgroup-manager cgroupfs run --rm --cgroups disabled --network none --log-driver none \
    --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "$@"
"""
INSIDE = "cat /moved/sub/file; mv /moved /again; ls /again; echo new >/again/sub/file; cat /again/sub/file; grep ' / ' /proc/mounts"


def test_containers_of_crun_and_of_runc(mounted: Storage, context: Path) -> None:
    mounted.run("buildah", *BUILD, "--layers=false", "-t", "busy", context)
    container = mounted.run("buildah", "from", "--pull-never", "busy").strip()
    by_podman = mounted.run("sh", "-euc", PODMAN, "sh", "busy", "sh", "-ec", INSIDE)
    by_buildah = mounted.run(
        "buildah",
        "run",
        "--isolation",
        "oci",
        "--runtime",
        "runc",
        "--network",
        "none",
        container,
        "--",
        "sh",
        "-ec",
        INSIDE,
    )
    for shown in (by_podman, by_buildah):
        assert shown.splitlines()[:-1] == ["one", "sub", "new"]
        assert "fuse.unionmount" in shown.splitlines()[-1]
    assert mounted.run("buildah", "run", *BUILD[1:], container, "--", "cat", "/again/sub/file") == "new\n"
    assert "unionmount" in mounted.run("podman", "info", "--format", "{{.Store.GraphStatus}} {{.Store.GraphOptions}}")

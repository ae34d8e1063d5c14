"""Builds where /dev/fuse, or any mount, can't be used: steps on copies of their roots give what steps on unions give."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.bases import made
from harness.inside import as_root, in_namespace
from harness.pybuild import Pybuild
from harness.trees import differences, read_tree
from harness.waiting import processes_with, wait_until

# in a mount namespace of its own, the device is another
HIDDEN = in_namespace("sh", "-c", 'mount --bind /dev/null /dev/fuse; exec "$@"', "sh")


class Way(NamedTuple):
    """How FUSE is kept from a build, and what tells that it was."""

    before: Sequence[str | Path]
    options: tuple[str, ...]
    told: str


WAYS = (
    Way(
        HIDDEN, (), "WARN: /dev/fuse: expected the character device 10:229, got another file: each RUN works on a copy"
    ),
    Way((), ("--isolation", "no-namespaces"), "WARN: nothing can be mounted: each RUN works on a copy"),
)
DOCKERFILE = """\
FROM busybox AS other
RUN mkdir -p /out/deep/er && echo 1 >/out/deep/er/file && chown -R 5:6 /out && chmod 2750 /out/deep
FROM busybox
RUN id -u >/who && touch /file && chown 5:6 /file
RUN mkdir -p /d/e/f && echo x >/d/e/f/g && ln /d/e/f/g /d/h && mknod /d/pipe p && ln -s h /d/l && cp -p /bin/ls /d/suid \\
    && chmod 4711 /d/suid
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/mnt/tmp \\
    rm /who && mv /d/e /d/z && chmod 700 /d && echo new >>/file && echo kept >/cache/kept
RUN rm -r /d/z && mkdir /d/z && echo 1 >/d/z/1 && rm /d/l && mkdir /d/l && rm /bin/false && mv /d/h /d/moved
COPY Dockerfile /d/z/
COPY --from=other /out /out
RUN rm /d/z/Dockerfile && rmdir /d/l && echo file >/d/l && rm -r /out/deep/er && ln /d/l /d/second
RUN --mount=type=cache,target=/cache test -f /cache/kept && test -d /proc && rm -r /var && mkdir /var
RUN echo name:x:7:8::/: >/etc/passwd
USER name
RUN test "$(id -u)" = 7 && touch /tmp/mine
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    return directory


@pytest.fixture(
    params=[WAYS[0], pytest.param(WAYS[1], marks=pytest.mark.root("has the level no-namespaces"))],
    ids=["no device", "no mounts"],
)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param


def attempt(
    pybuild: Pybuild, way: Way, subcommand: str, *words: str | os.PathLike[str]
) -> subprocess.CompletedProcess[str]:
    command = [*way.before, *pybuild.command(subcommand, *way.options, *words)]  # type: ignore[arg-type]
    environment = pybuild.environment()
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def run(pybuild: Pybuild, way: Way, *words: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    done = attempt(pybuild, way, *words)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    return done


def active(pybuild: Pybuild) -> list[str]:
    return os.listdir(pybuild.root / "layers" / "active")


@pytest.mark.ids("gives files away")
def test_the_image_is_what_it_is_with_fuse(small: Pybuild, way: Way, context: Path, tmp_path: Path) -> None:
    with_fuse, without = tmp_path / "with.tar", tmp_path / "without.tar"
    small.run("build", "-o", f"type=tar,dest={with_fuse}", context)
    done = run(small, way, "build", "--no-cache", "-t", "image", "-o", f"type=tar,dest={without}", context)
    assert done.stderr.count(way.told) == 1
    roots = []
    for archive in (with_fuse, without):
        roots.append(archive.with_suffix(""))
        roots[-1].mkdir()
        unpack = as_root("tar", "-x", "-p", "--xattrs", "--numeric-owner", "-f", archive, "-C", roots[-1])
        subprocess.run(unpack, check=True)
    assert differences(read_tree(roots[1]), read_tree(roots[0])) == []
    assert active(small) == []
    assert run(small, way, "run", "image", "sh", "-c", "touch /tmp/more; ls /tmp").stdout == "mine\nmore\n"
    assert active(small) == []
    cached = run(small, way, "build", context)
    assert way.told not in cached.stderr


def test_what_was_done_in_time_that_nobody_sees_is_taken(small: Pybuild, way: Way, context: Path) -> None:
    """As long as before, with the time it had before; and the clock tells no step from the next."""
    steps = "".join(
        f"RUN printf {number} >/f && touch -d @1000 /f\nRUN test $(cat /f) = {number}\n" for number in range(4)
    )
    (context / "Dockerfile").write_text(f"FROM busybox\n{steps}")
    run(small, way, "build", "-t", "image", context)
    assert run(small, way, "run", "image", "cat", "/f").stdout == "3"


def test_a_failed_step_can_be_walked_into(small: Pybuild, way: Way, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo 1 >/first\nRUN rm /first; echo 2 >/second; false\n")
    done = attempt(small, way, "build", context)
    assert done.returncode == 1
    assert "did not complete successfully: exit code: 1" in done.stderr
    assert run(small, way, "shell", "@:3", "sh", "-c", "ls / | grep -E 'first|second'").stdout == "second\n"
    assert active(small) == []


def test_names_that_no_image_can_hold_fail_the_step(small: Pybuild, way: Way, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nRUN touch /etc/.wh.passwd\n")
    done = attempt(small, way, "build", context)
    assert done.returncode == 1
    assert "the step lost its root: name '/etc/.wh.passwd' is reserved" in done.stderr
    assert active(small) == []


@pytest.mark.parametrize(
    ("megabytes", "told"), [(8, "error: the step lost its root: what it changed"), (30, "exit code: 1")]
)
def test_a_full_disk_is_told(pybuild: Pybuild, way: Way, context: Path, megabytes: int, told: str) -> None:
    """There is room for the root and a copy of it, and for what the step writes perhaps, but not twice."""
    (context / "Dockerfile").write_text(f"FROM busybox\nRUN head -c {megabytes}000000 /dev/zero >/big\n")
    pybuild.root.mkdir()
    load, build = (
        shlex.join(pybuild.command("load", "-i", made("busybox"))),
        shlex.join(pybuild.command("build", *way.options, context)),
    )
    script = f"mount -t tmpfs -o size=17m tmpfs {shlex.quote(str(pybuild.root))} && {load} && {build}"
    done = subprocess.run(
        [*HIDDEN, "sh", "-c", script],
        env=pybuild.environment(),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    assert told in done.stderr
    assert "no space left on device" in done.stderr.lower()
    assert "pybuild cache prune" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_build_that_is_killed(
    small: Pybuild, way: Way, context: Path, number: signal.Signals
) -> None:
    word = "1000000043"  # seconds that no other process sleeps
    (context / "Dockerfile").write_text(f"FROM busybox\nRUN touch /one\nRUN echo begun; sleep {word}\n")
    command = [*way.before, *small.command("build", *way.options, "--progress", "plain", context)]
    with subprocess.Popen(command, env=small.environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        while "begun" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(number)
        process.stderr.read()
    wait_until(lambda: not processes_with(word), "the processes of the steps to end")
    (context / "Dockerfile").write_text("FROM busybox\nRUN touch /one\nRUN test -e /one\n")
    run(small, way, "build", context)
    assert active(small) == []
    assert os.listdir(small.root / "tmp") == []

"""Bad input: one clear message, a status that is not 0, nothing left behind (tests/conftest.py looks), no traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.inside import in_namespace
from harness.pybuild import PROJECT, Pybuild
from layers.testing.docker_registry import free_port


class Case(NamedTuple):
    """A Dockerfile (None: there is none) and what the build says about it; ``{port}`` is one nobody listens on."""

    name: str
    dockerfile: str | None
    message: str
    status: int = 1
    arguments: tuple[str, ...] = ()


CASES = [
    Case("no Dockerfile", None, r"no Dockerfile in .*context"),
    Case("named Dockerfile is missing", "FROM busybox\n", r"other\.Dockerfile", arguments=("-f", "other.Dockerfile")),
    Case("empty file", "", r"no instructions"),
    Case("only comments", "# nothing\n", r"no instructions"),
    Case(
        "unknown instruction",
        "FROM busybox\nCOPPY a b\n",
        r">>> COPPY a b[\s\S]*unknown instruction COPPY[\s\S]*did you mean COPY",
    ),
    Case("no FROM", "RUN true\n", r"no build stage|FROM"),
    Case("unknown flag", "FROM busybox\nCOPY --form=x a b\n", r"--form[\s\S]*did you mean"),
    Case(
        "missing COPY source",
        "FROM busybox\nCOPY absent.txt /\n",
        r">>> COPY absent\.txt[\s\S]*absent\.txt. does not exist in the build context",
    ),
    Case("missing stage", "FROM busybox\nCOPY --from=nowhere.invalid:1/x /a /b\n", r"nowhere\.invalid"),
    Case(
        "base in no registry",
        "FROM localhost:{port}/absent:1\n",
        r"localhost:{port}.*(refused|connect)[\s\S]*hint: .*load -i",
    ),
    Case(
        "base of an unknown architecture",
        "FROM --platform=linux/amd46 localhost:{port}/absent:1\n",
        r">>> FROM --platform=linux/amd46[\s\S]*hint: amd46 is no architecture[^\n]*did you mean amd64\?",
    ),
    Case(
        "base that is here for another platform",
        "FROM busybox\nFROM --platform=linux/s390x busybox\n",
        r">>> FROM --platform=linux/s390x[\s\S]*hint: busybox is here for linux/[a-z0-9]+, not for linux/s390x",
    ),
    Case(
        "malformed platform", "FROM --platform=linux/ busybox\n", r">>> FROM --platform=linux/[\s\S]*is not of the form"
    ),
    Case("unknown target", "FROM busybox AS one\n", r"target.*two", arguments=("--target", "two")),
    Case("RUN fails", "FROM busybox\nRUN exit 7\n", r"exit 7[\s\S]*(exit code|status):? 7", status=7),
    Case("RUN of a missing program", 'FROM busybox\nRUN ["/no/such"]\n', r"/no/such", status=127),
    Case(
        "unknown user",
        "FROM busybox\nUSER absent\nRUN true\n",
        r">>> RUN true[\s\S]*user .absent. is not in /etc/passwd",
    ),
    Case(
        "unknown owner of a COPY",
        "FROM busybox\nCOPY --chown=absent Dockerfile /\n",
        r">>> COPY --chown=absent[\s\S]*user .absent. is not in /etc/passwd",
    ),
    Case("unterminated heredoc", "FROM busybox\nRUN <<EOF\ntrue\n", r">>> RUN <<EOF[\s\S]*heredoc .EOF. has no end"),
    Case("bad reference", "FROM Busy Box:UPPER\n", r"FROM"),
    Case("unknown option", "FROM busybox\n", r"--traget[\s\S]*did you mean --target", 2, ("--traget", "x")),
    Case(
        "output in no directory",
        "FROM busybox\n",
        r"error: output '/absent/x': there is no directory '/absent'",
        2,
        ("-o", "type=oci,dest=/absent/x"),
    ),
    Case(
        "output that is a directory",
        "FROM busybox\n",
        r"error: output '/' is a directory",
        2,
        ("-o", "type=docker,dest=/"),
    ),
    Case("id in no directory", "FROM busybox\n", r"error: --iidfile '/absent/x'", 2, ("--iidfile", "/absent/x")),
    Case(
        "metadata in no directory",
        "FROM busybox\n",
        r"--metadata-file '/absent/x'",
        2,
        ("--metadata-file", "/absent/x"),
    ),
    Case("less swap than memory", "FROM busybox\n", r"no less than --memory", 2, ("-m", "64m", "--memory-swap", "32m")),
    Case("swap alone", "FROM busybox\n", r"expected --memory beside it", 2, ("--memory-swap", "32m")),
    Case(
        "unknown stage to be made anew",
        "FROM busybox\n",
        r"--no-cache-filter: stage .x. does not",
        1,
        ("--no-cache-filter", "x"),
    ),
    Case(
        "out of memory",
        "FROM busybox\nRUN x=a; while true; do x=$x$x; done\n",
        r"out of memory|memory limit|memory ran out",
        status=137,
        arguments=("--memory", "32m"),
    ),
]


def assert_one_clear_message(done: subprocess.CompletedProcess[str], message: str, status: int) -> None:
    text = done.stderr
    assert done.returncode == status, f"status {done.returncode}, expected {status}:\n{text}"
    assert "Traceback" not in text, text
    assert re.search(message, text), f"{message!r} is not in:\n{text}"


ROWS = [
    pytest.param(
        case,
        id=case.name.replace(" ", "-"),
        marks=[pytest.mark.limits("a group limits memory")] if "--memory" in case.arguments else [],
    )
    for case in CASES
]


@pytest.mark.parametrize("case", ROWS)
def test_bad_build(small: Pybuild, tmp_path: Path, case: Case) -> None:
    context = tmp_path / "context"
    context.mkdir()
    port = str(free_port())
    if case.dockerfile is not None:
        (context / "Dockerfile").write_text(case.dockerfile.replace("{port}", port))
    arguments = [str(context / word) if word.endswith(".Dockerfile") else word for word in case.arguments]
    done = small.attempt("build", "-t", "bad", *arguments, context)
    assert_one_clear_message(done, case.message.replace("{port}", port), case.status)
    assert small.attempt("inspect", "bad").returncode != 0, "a failed build left an image"


def test_a_failed_step_is_shown_in_its_dockerfile(small: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo one\nRUN echo last words && false\nRUN echo three\n")
    done = small.attempt("build", tmp_path)
    assert_one_clear_message(done, r">>>.*RUN echo last words", 1)
    assert "last words" in done.stderr


def test_context_is_missing(small: Pybuild, tmp_path: Path) -> None:
    assert_one_clear_message(small.attempt("build", tmp_path / "absent"), r"absent", 1)


def test_push_to_a_registry_that_is_down(small: Pybuild) -> None:
    target = f"localhost:{free_port()}/x:1"
    assert_one_clear_message(
        small.attempt("push", "busybox", target), rf"{target.split('/', maxsplit=1)[0]}.*(refused|connect)", 1
    )


def test_pull_of_what_the_registry_has_not(small: Pybuild, docker_registry: str) -> None:
    done = small.attempt("pull", f"{docker_registry}/absent/image:1")
    assert_one_clear_message(done, r"absent/image.*(not found|unknown)", 1)


def test_base_that_the_registry_has_not(small: Pybuild, docker_registry: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {docker_registry}/absent/base:1\n")
    assert_one_clear_message(small.attempt("build", tmp_path), r"absent/base.*(not found|unknown)", 1)


def test_push_of_an_image_that_is_not_there(small: Pybuild, docker_registry: str) -> None:
    assert_one_clear_message(small.attempt("push", "absent", f"{docker_registry}/x:1"), r"absent", 1)


def test_load_of_something_else(pybuild: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "letter.tar").write_text("dear reader")
    assert_one_clear_message(pybuild.attempt("load", "-i", tmp_path / "letter.tar"), r"letter\.tar|archive|tar", 1)


def run_in_namespace(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A shell script in a mount namespace of its own, so that what it mounts is gone with it."""
    return subprocess.run(
        in_namespace("sh", "-euc", script, "sh", *arguments),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )


def test_full_disk(pybuild: Pybuild, tmp_path: Path, base_archive: object) -> None:
    store = tmp_path / "full"
    store.mkdir()
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=64\n")
    load = Pybuild(store).command("load", "-i", base_archive("busybox"))
    build = Pybuild(store).command("build", "--progress", "plain", "-t", "x", tmp_path)
    script = 'mount -t tmpfs -o size=24m none "$1"; shift; {load}; {build}'.format(
        load=" ".join(f"'{word}'" for word in load), build=" ".join(f"'{word}'" for word in build)
    )
    done = run_in_namespace(script, store)
    assert_one_clear_message(done, r"(?i)(no space left|disk is full)[\s\S]*hint: pybuild cache prune", done.returncode)
    assert done.returncode != 0


def test_store_on_a_full_disk(base_archive: object, tmp_path: Path) -> None:
    store = tmp_path / "full"
    store.mkdir()
    load = Pybuild(store).command("load", "-i", base_archive("busybox"))
    done = run_in_namespace('mount -t tmpfs -o size=1m none "$1"; shift; exec "$@"', store, *load)
    assert_one_clear_message(done, r"disk is full\nhint: pybuild cache prune", 1)


NO_FUSE = """
mkdir "$1"; mount --rbind /dev "$1"
mount -t tmpfs none /dev
for node in null zero full random urandom tty; do
    touch "/dev/$node"; mount --bind "$1/$node" "/dev/$node"
done
ln -s /proc/self/fd /dev/fd
umount -l "$1"; rmdir "$1"; shift
exec "$@"
"""


def test_no_dev_fuse(small: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    done = run_in_namespace(NO_FUSE, tmp_path / "olddev", *small.command("build", tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.findall("(?m)^WARN: (/dev/fuse: .*): each RUN works on a copy", done.stderr) == [
        "/dev/fuse: no such file or directory"
    ]


def test_unionmount_without_dev_fuse(tmp_path: Path) -> None:
    for name in ("a", "b", "mnt"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-m", "unionfs.cli.unionmount", f"dirs={tmp_path}/a:{tmp_path}/b", f"{tmp_path}/mnt"]
    done = run_in_namespace(NO_FUSE, tmp_path / "olddev", *command)
    assert_one_clear_message(done, r"/dev/fuse", 1)


def test_no_group_can_be_made(small: Pybuild, tmp_path: Path) -> None:
    """A limit that can't be held fails the build; without one nothing is said."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    script = 'mount -t tmpfs none /sys/fs/cgroup; exec "$@"'
    done = run_in_namespace(script, *small.command("build", "--memory", "64m", tmp_path))
    assert_one_clear_message(done, "error: .* could not be run: no cgroup can hold a limit on memory here", 125)
    done = run_in_namespace(script, *small.command("build", "--network", "none", "--progress", "plain", tmp_path))
    assert (done.returncode, "WARN" in done.stderr) == (0, False), done.stderr


def test_mount_point_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "unionfs.cli.unionmount", f"dirs={tmp_path}/a", tmp_path / "absent"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert_one_clear_message(done, r"absent", 1)
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.root("gives the store to somebody else")
def test_no_permission(small: Pybuild) -> None:
    """The store belongs to somebody else, and the capability to read everything all the same is gone."""
    os.chown(small.root, 65534, 65534)
    small.root.chmod(0o700)
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *small.command("images")],
        env=small.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    os.chown(small.root, 0, 0)
    assert_one_clear_message(done, r"(?i)permission denied|belongs to somebody else", 1)

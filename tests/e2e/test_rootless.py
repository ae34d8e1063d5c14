"""Builds of a plain user, in a user namespace: with subordinate ids as Debian gives them to users, and with none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.abilities import NOBODY
from harness.plainuser import directory, user, write

__all__ = ["directory"]

pytestmark = pytest.mark.root("becomes another user, with ids of its own in /etc/subuid")
# the kernel makes no user namespaces for a process whose root is not that of its mount namespace
IN_A_CHANGED_ROOT = """set -e
mkdir "$1/root"; mount --rbind / "$1/root"; cd "$1/root"; shift; exec chroot . "$@"
"""


OWNERS = """FROM busybox
RUN id -u > /who && mkdir /d && touch /d/f && chown -R 1000:1001 /d && chmod 4755 /d/f
RUN mkdir -m 700 /closed && chown 1000 /closed
COPY --chown=7:8 file /copied
USER 1234:5678
RUN id -u > /tmp/user && ! touch /denied
"""


def test_with_subordinate_ids_everything_has_its_owner(directory: Path) -> None:
    run = user(directory, "nobody:200000:65536\n")
    run("load", "-i", str(directory / "busybox.tar"))
    context = write(directory, OWNERS)
    first = run("build", "-q", "-t", "owned", context).stdout
    assert run("build", "-q", "-t", "owned", context).stdout == first
    shown = run("run", "-u", "0", "owned", "stat", "-c", "%n %a %u:%g", "/d", "/d/f", "/copied", "/tmp/user").stdout
    assert shown.splitlines() == [
        "/d 755 1000:1001",
        "/d/f 4755 1000:1001",
        "/copied 644 7:8",
        "/tmp/user 644 1234:5678",
    ]
    assert run("run", "owned", "cat", "/who", "/tmp/user").stdout == "0\n1234\n"
    assert "cache mounts" in run("cache", "du").stdout
    run("rmi", "owned")
    run("cache", "prune", "--all")
    run("rmi", "busybox")
    layers = directory / "home" / ".local" / "share" / "pybuild" / "layers"
    assert [path.name for path in layers.iterdir() if path.name != "active"] == []


def test_with_one_id_a_build_that_gives_nothing_away_works(directory: Path) -> None:
    run = user(directory, "")
    run("load", "-i", str(directory / "busybox.tar"))
    run("build", "-q", "-t", "one", write(directory, "FROM busybox\nRUN id -u > /who\nCOPY file /\n"))
    assert run("run", "one", "cat", "/who", "/file").stdout == "0\ncontent\n"
    done = run("build", write(directory, "FROM busybox\nRUN touch /f && chown 5 /f\n"), status=1)
    assert "chown" in done.stderr


GIVEN = """FROM busybox
WORKDIR /work
RUN touch f && chown -R 1000:1001 f && chgrp 5 f
COPY --chown=7:8 file /copied
ADD a.tar /added/
RUN --mount=type=cache,target=/c,uid=7,gid=8,mode=0750 --mount=type=secret,id=s,uid=7 \\
    stat -c %u:%g:%a /c /run/secrets/s >/mounts
"""
BEYOND_ONE_ID = (
    ("RUN touch /f && chown 5 /f", 1),
    ("COPY --chown=7:8 file /f", 1),
    ("RUN --mount=type=cache,target=/c,uid=5 true", 1),
    ("USER 5\nRUN true", 125),
    ("USER 5\nWORKDIR /w", 1),
)


@pytest.mark.parametrize(("instruction", "status"), BEYOND_ONE_ID)
def test_with_one_id_what_it_does_not_allow_says_what_would_help(
    directory: Path, instruction: str, status: int
) -> None:
    run = user(directory, "")
    run("load", "-i", str(directory / "busybox.tar"))
    done = run("build", write(directory, f"FROM busybox\n{instruction}\n"), status=status)
    assert "nvalid argument" in done.stderr
    assert "hint: only user 0 exists here: entries in /etc/subuid" in done.stderr


def write_given(place: Path) -> str:
    context = write(place, GIVEN)
    archive = ["tar", "--owner=5", "--group=6", "-C", context, "-cf", f"{context}/a.tar", "file"]
    subprocess.run(archive, check=True)
    return context


def test_with_one_id_owners_can_be_ignored(directory: Path) -> None:
    run = user(directory, "")
    run("load", "-i", str(directory / "busybox.tar"))
    context = write_given(directory)
    secret = ("--secret", f"id=s,src={context}/file")
    done = run("build", "--progress", "plain", "--ignore-chown-errors", *secret, "-t", "given", context)
    assert "WARN: all files are root's, whoever they are given to: nobody else exists here" in done.stderr
    shown = run("run", "given", "stat", "-c", "%n %u:%g", "/work/f", "/copied", "/added/file").stdout
    assert shown.splitlines() == ["/work/f 0:0", "/copied 0:0", "/added/file 0:0"]
    assert run("run", "given", "cat", "/mounts").stdout == "0:0:750\n0:0:400\n"
    # another build does not get what lacks its owners
    assert "chown" in run("build", context, status=1).stderr


@pytest.mark.kernel("nat")  # else the build warns of the network
def test_where_others_exist_nothing_is_ignored(directory: Path) -> None:
    run = user(directory, "nobody:200000:65536\n")
    run("load", "-i", str(directory / "busybox.tar"))
    context = write_given(directory)
    secret = ("--secret", f"id=s,src={context}/file")
    assert "WARN" not in run("build", "--ignore-chown-errors", *secret, "-t", "given", context).stderr
    assert run("run", "given", "stat", "-c", "%u:%g", "/work/f", "/copied", "/added/file").stdout == (
        "1000:5\n7:8\n5:6\n"
    )
    assert run("run", "given", "cat", "/mounts").stdout == "7:8:750\n7:0:400\n"


def test_a_machine_without_user_namespaces_says_so(directory: Path) -> None:
    run = user(directory, "")
    run("load", "-i", str(directory / "busybox.tar"))
    context = write(directory, "FROM busybox\nRUN true\n")
    program = ["sh", "-c", IN_A_CHANGED_ROOT, "sh", str(directory)]
    done = run("build", context, status=1, before=program)
    assert "a plain user cannot build here: user namespaces are refused" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("subordinate", ["nobody:200000:65536\n", ""])
def test_command_in_an_image(directory: Path, subordinate: str) -> None:
    """With mounts, and handed to a runtime: files are the user's own outside."""
    run = user(directory, subordinate)
    run("load", "-i", str(directory / "busybox.tar"))
    (directory / "data").mkdir()
    os.chown(directory / "data", NOBODY, NOBODY)
    script = "id -u; touch /data/$0; stat -c %u /data/$0; test -t 1 || echo pipe; exit 5"
    mount = f"{directory}/data:/data"
    for runtime in ("", "--runtime=runc", "--runtime=crun"):
        words = ["run", *filter(None, [runtime]), "-v", mount, "busybox", "sh", "-c", script, f"by{runtime}"]
        assert run(*words, status=5).stdout == "0\n0\npipe\n", runtime
    assert {path.name for path in (directory / "data").iterdir()} == {"by", "by--runtime=runc", "by--runtime=crun"}
    assert {path.stat().st_uid for path in (directory / "data").iterdir()} == {NOBODY}
    other = run("run", "-u", "1000", "busybox", "id", "-u", status=0 if subordinate else 125)
    refused = 'error changing to "user 1000:0": EINVAL (invalid argument)'
    assert (other.stdout, refused in other.stderr) == (("1000\n", False) if subordinate else ("", True))


def test_step_that_failed_is_walked_into(directory: Path) -> None:
    run = user(directory, "nobody:200000:65536\n")
    run("load", "-i", str(directory / "busybox.tar"))
    run("build", write(directory, "FROM busybox\nRUN echo half > /f && chown 5 /f; exit 3\n"), status=3)
    assert (
        run("shell", "@", "sh", "-c", "cat /f; stat -c %u /f; echo more > /f; exit 4", status=4).stdout == "half\n5\n"
    )
    assert run("shell", "@", "cat", "/f").stdout == "half\n"
    assert run("resume", status=3).stderr.count("exit code: 3") > 0
    run("cache", "prune", "--all")
    assert "no step has failed here" in run("shell", status=1).stderr

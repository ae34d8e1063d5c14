"""The example with apt-get, built, run, pushed and pulled by a plain user; and by one who has no subordinate ids."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import leaks
from harness.bases import made
from harness.plainuser import SUBORDINATE, directory, user, write
from harness.portable import place_registry
from harness.waiting import wait_until

__all__ = ["directory"]

pytestmark = pytest.mark.root("becomes another user, with ids of its own in /etc/subuid")
APT = "apt-get update && apt-get install --yes --no-install-recommends openssh-client"
ROOT_ALONE = "-o APT::Sandbox::User=root"


def place(directory: Path, source: Path, name: str) -> str:
    """A copy of ``source`` that nobody can read."""
    target = directory / name
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    return str(target)


@pytest.mark.slow
def test_python_app_of_a_plain_user(directory: Path, examples: Path, docker_registry: str) -> None:
    place_registry(directory)
    base = place(directory, made("debian"), "debian.tar")
    context = place(directory, examples / "python-app", "python-app")
    run = user(directory, SUBORDINATE)
    before = state(directory)
    run("load", "-i", base)
    told = run("build", "--progress", "plain", "-t", "python-app", context).stderr
    assert "isolation of steps: rootless\n" in told
    assert "self-test passed: 1 note(s), uid 1000" in run("run", "python-app", "selftest").stdout
    target = f"{docker_registry}/plain/python-app:1"
    run("push", "python-app", target)
    shown = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{target}"], capture_output=True, text=True, check=True
    )
    assert "NOTES_FILE=/data/notes.sqlite" in json.loads(shown.stdout)["Env"]
    other = ("--root", str(directory / "other"))
    run("pull", *other, target)
    listed = run("run", *other, "--entrypoint", "stat", target, "-c", "%U:%G %a", "/data", "/etc/shadow").stdout
    assert listed.splitlines() == ["notes:notes 755", "root:shadow 640"]
    wait_until(lambda: state(directory) == before, f"the machine to be as it was: {before}")
    for store in (directory / "home/.local/share/pybuild", directory / "other"):
        assert os.listdir(store / "tmp") == os.listdir(store / "layers" / "active") == []


def state(directory: Path) -> dict[str, object]:
    """Mounts, control groups, and the processes whose home is in the directory."""
    seen = leaks.take(str(directory), everywhere=True)
    theirs = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if str(directory).encode() in path.read_bytes():
                theirs.append(path.parent.name)
    return {"mounts": seen.mounts, "groups": seen.cgroups, "processes": theirs}


def test_with_one_id_apt_says_what_would_help(directory: Path) -> None:
    base = place(directory, made("debian"), "debian.tar")
    run = user(directory, "")
    run("load", "-i", base)
    context = write(directory, f"FROM debian:bookworm\nRUN {APT}\n")
    hints = [
        "hint: only user 0 exists here: entries in /etc/subuid and /etc/subgid, with newuidmap, give more",
        f"hint: apt-get does without another user with {ROOT_ALONE}",
        "hint: or let everything be root's: --ignore-chown-errors",
    ]
    told = run("build", context, status=100).stderr.splitlines()
    assert [line for line in told if line.startswith("hint:")][:3] == hints
    again = run("build", "--ignore-chown-errors", context, status=100).stderr.splitlines()
    assert [line for line in again if line.startswith("hint:")][:2] == hints[:2]


@pytest.mark.slow
def test_with_one_id_apt_works_as_root_alone(directory: Path) -> None:
    """The package gives a file to a group of its own, by dpkg and by a script."""
    base = place(directory, made("debian"), "debian.tar")
    run = user(directory, "")
    run("load", "-i", base)
    apt = APT.replace("apt-get", f"apt-get {ROOT_ALONE}")
    context = write(directory, f"FROM debian:bookworm\nRUN {apt}\nRUN dpkg --audit\n")
    run("build", "-q", "--ignore-chown-errors", "-t", "apt", context)
    assert run("run", "apt", "stat", "-c", "%U:%G", "/usr/bin/ssh-agent").stdout == "root:root\n"

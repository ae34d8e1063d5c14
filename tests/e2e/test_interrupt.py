"""Ctrl-C and kill -9 in the middle of a RUN: no process, mount or cgroup is left, and the next build works."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from harness.pybuild import Pybuild
from harness.waiting import DEADLINE_SECONDS, processes_with, wait_until


@pytest.fixture
def word() -> str:
    """A word that no other process has in its command line."""
    return f"marker{uuid.uuid4().hex}"


@pytest.fixture
def context(tmp_path: Path, word: str) -> Path:
    """A build that hangs in its RUN, with a daemon that has left its parent and ignores signals."""
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "hang.sh").write_text(
        "#!/bin/sh\ntrap '' INT TERM HUP\n"
        f"setsid sh -c 'while true; do sleep 1; done' detached-{word} &\n"
        "while true; do sleep 1; done\n"
    )
    (directory / "hang.sh").chmod(0o755)
    (directory / "Dockerfile").write_text(
        f"FROM busybox\nRUN echo first >/first\nCOPY hang.sh /\nARG WAIT=yes\nRUN test $WAIT = no || /hang.sh {word}\n"
    )
    return directory


def start(pybuild: Pybuild, context: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        pybuild.command("build", "--progress", "plain", context),
        env=pybuild.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize("kill", ["SIGINT to the group", "SIGINT twice", "SIGTERM", "SIGKILL"])
def test_build_is_stopped_in_a_run(small: Pybuild, context: Path, word: str, kill: str) -> None:
    with start(small, context) as process:
        wait_until(lambda: len(processes_with(f"detached-{word}")) > 0, "the RUN step to start")
        if kill == "SIGKILL":
            process.kill()
        elif kill == "SIGTERM":
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGINT)
            if kill == "SIGINT twice":
                time.sleep(0.05)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
    if kill != "SIGKILL":
        assert process.returncode == 130, said.decode()
    assert b"Traceback" not in said
    wait_until(lambda: not processes_with(word), "the processes of the step to end")
    if kill == "SIGKILL":
        # as one that was killed while it wrote an archive
        (abandoned,) = os.listdir(small.root / "layers" / "active")
        (small.root / "tmp" / abandoned).write_bytes(b"half an archive")
    small.run("build", "-t", "next", "--build-arg", "WAIT=no", context)
    assert os.listdir(small.root / "layers" / "active") == os.listdir(small.root / "tmp") == []
    assert small.run("run", "next", "cat", "/first").stdout == "first\n"


def test_two_builds_of_one_step_at_once(small: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN sleep 1; cat /proc/sys/kernel/random/uuid >/once\n")
    builds = [
        subprocess.Popen(
            small.command("build", "-t", name, tmp_path),
            env=small.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for name in ("one", "two")
    ]
    for build in builds:
        _, said = build.communicate(timeout=60)
        assert build.returncode == 0, said.decode()
        assert b"is not used" not in said
    first, second = (small.run("run", name, "cat", "/once").stdout for name in ("one", "two"))
    assert first == second

"""Several builds on one store: a step is built once, and pruning takes nothing from under a build."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from harness.pybuild import COMMAND, Pybuild, step_outcomes
from harness.waiting import wait_until

BUILDS = 3
COUNTED = "FROM busybox\nRUN --mount=type=cache,target=/k,id=count echo x >>/k/log; sleep 1; echo done >/out\n"
WAITING = (
    "FROM busybox\nRUN echo kept >/one\n"
    "RUN --mount=type=cache,target=/k,id=gate touch /k/here; while [ ! -e /k/go ]; do sleep 0.1; done; cat /one >/two\n"
)


@pytest.fixture
def store(pybuild: Pybuild) -> Pybuild:
    pybuild.load_base("busybox")
    return pybuild


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    return directory


def cache_directory(store: Pybuild, name: str) -> Path:
    return store.root / "cache-mounts" / hashlib.sha256(name.encode()).hexdigest() / "0"


def start(store: Pybuild, context: Path, *arguments: str) -> subprocess.Popen[str]:
    command = store.command("build", "--progress", "plain", *arguments, context)
    return subprocess.Popen(
        command, env=store.environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def test_a_step_that_several_need_is_built_once(store: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text(COUNTED)
    running = [start(store, context) for _ in range(BUILDS)]
    logs = [build.communicate()[1] for build in running]
    assert [build.returncode for build in running] == [0] * BUILDS
    assert (cache_directory(store, "count") / "log").read_text() == "x\n"
    ends = sorted(end for log in logs for title, end in step_outcomes(log).items() if "RUN" in title)
    assert ends == ["CACHED"] * (BUILDS - 1) + ["DONE"]


def test_pruning_takes_nothing_from_a_running_build(store: Pybuild, context: Path) -> None:
    """Also what was made long ago and what no image names: the base is untagged, all times are old."""
    (context / "Dockerfile").write_text(WAITING.rpartition("RUN")[0])
    store.run("build", context)
    (context / "Dockerfile").write_text(WAITING)
    gate = cache_directory(store, "gate")
    build = start(store, context, "-t", "after")
    try:
        wait_until((gate / "here").exists, "the second command runs")
        store.run("rmi", "busybox")
        for directory, names, files in os.walk(store.root):
            for name in (*names, *files):
                os.utime(Path(directory, name), (1, 1), follow_symlinks=False)
        assert "0 results" in prune(store, "--all")
    finally:
        (gate / "go").touch()
        log = build.communicate()[1]
    assert build.returncode == 0, log
    assert store.run("run", "after", "cat", "/one", "/two").stdout == "kept\nkept\n"
    store.run("rmi", "after")
    assert not prune(store, "--all").startswith("0 results")
    assert list((store.root / "pins").iterdir()) == [store.root / "pins" / "lock"]


def prune(store: Pybuild, *arguments: str) -> str:
    command = [*COMMAND, "cache", "prune", "--root", str(store.root), *arguments]
    done = subprocess.run(command, env=store.environment(), capture_output=True, text=True, check=True)
    return done.stdout

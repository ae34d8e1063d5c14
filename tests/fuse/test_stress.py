"""Unions under load beside plain directories: one file in every way, many processes, the same trees in the end.

STRESS_OPERATIONS is the number of operations of each program; a long run is
``STRESS_OPERATIONS=100000 pytest -o faulthandler_timeout=0 tests/fuse/test_stress.py``.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fuse.fsstress import assert_same_tree, seed_tree
from fuse.fsx import exercise
from harness.unions import PROJECT, mounted

pytestmark = pytest.mark.fuse

OPERATIONS = int(os.environ.get("STRESS_OPERATIONS", "2000"))
ACTORS = 8
RACERS = 3
SEED = int(os.environ.get("STRESS_SEED", "1"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("upper", "upper2", "lower", "root", "plain"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize("how", ["passthrough=off", "passthrough=auto", "transport=pyfuse3"])
def test_one_file(how: str, place: Path) -> None:
    content = random.Random(SEED).randbytes(100_000)
    (place / "lower/file").write_bytes(content)
    with mounted([place / "upper", place / "lower"], place / "root", how):
        exercise(place / "root/file", content, OPERATIONS, SEED, allocates="pyfuse3" not in how)
    assert (place / "lower/file").read_bytes() == content


def test_one_file_that_the_kernel_reads_by_itself(place: Path) -> None:
    content = random.Random(SEED).randbytes(100_000)
    (place / "lower/file").write_bytes(content)
    with mounted([place / "upper", place / "lower"], place / "root", "passthrough=fast"):
        os.utime(place / "root/file")  # copied up: who had it open before would keep the old content
        exercise(place / "root/file", content, OPERATIONS, SEED)


def stress(place: Path, seed: int, operations: int, *options: str) -> None:
    """All actors and racers have worked in the union, and nobody found a fault."""
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}:{PROJECT}/tests"}
    command = [sys.executable, str(PROJECT / "tests/fuse/fsstress.py"), "--operations", str(operations)]
    running: list[subprocess.Popen[str]] = []
    for number in range(ACTORS + RACERS):
        sides = [place / "root/shared"]
        if number < ACTORS:
            sides = [place / f"root/{number}", place / f"plain/{number}"]
        words = [*command, "--seed", str(seed * 100 + number), *options, *map(str, sides)]
        running.append(subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True))
    said = [program.communicate()[1].strip().split("\n")[-1] for program in running]
    assert not any(said), "\n".join(filter(None, said))


@pytest.mark.parametrize("how", ["whiteouts=aufs", "whiteouts=overlay,passthrough=fast", "transport=pyfuse3"])
def test_many_processes(how: str, place: Path) -> None:
    for side in ("lower", "plain"):
        for number in range(ACTORS):
            (place / side / str(number)).mkdir()
            seed_tree(place / side / str(number), number)
    (place / "lower/shared").mkdir()
    options = ["--without-allocation"] if "pyfuse3" in how else ["--only-writers"] if "fast" in how else []
    branches = [place / "upper", place / "lower"]
    for turn in range(2):
        # in the second turn the upper branch of the first is one more read-only one
        with mounted(branches, place / "root", how):
            stress(place, SEED * 10 + turn, OPERATIONS // 8, *options)
            compare(place)
            before = sorted(path.relative_to(place) for path in (place / "root/shared").rglob("*"))
        with mounted(branches, place / "root", how):
            compare(place)
            assert before == sorted(path.relative_to(place) for path in (place / "root/shared").rglob("*"))
        branches.insert(0, place / "upper2")


def compare(place: Path) -> None:
    for number in range(ACTORS):
        assert_same_tree(place / f"root/{number}", place / f"plain/{number}")

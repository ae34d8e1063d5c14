"""Start-up: what the help, the version and a fully cached build must not import (docs/architecture.md)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.pybuild import ENTRY_POINT, step_outcomes

HEAVY = frozenset(
    [
        "asyncio",
        "ctypes",
        "dataclasses",
        "http.client",
        "inspect",
        "logging",
        "oras",
        "pyfuse3",
        "requests",
        "rich",
        "ssl",
        "subprocess",
        "tarfile",
        "trio",
        "typing_extensions",
        "unittest",
        "urllib.request",
        "zstandard",
    ]
)
"""Each costs ten milliseconds or more at start-up, or drags in one that does."""


def imported(arguments: list[str], cwd: Path) -> tuple[set[str], subprocess.CompletedProcess[str]]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", ENTRY_POINT, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}, done


def heavy_of(modules: set[str]) -> set[str]:
    return modules & HEAVY | {name for name in modules if name.split(".")[0] in HEAVY}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["build", "--help"]])
def test_help_and_version_stay_light(tmp_path: Path, arguments: list[str]) -> None:
    modules, done = imported(arguments, tmp_path)
    assert "builder.cli.main" in modules or "pybuild" in done.stdout
    assert heavy_of(modules) == set()


def test_cached_build_stays_light(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "file").write_text("content\n")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\nWORKDIR /work\nENV A=1\nLABEL b=2\n")
    arguments = ["build", "--root", str(tmp_path / "store"), "-t", "light", "--progress", "plain", str(context)]
    imported(arguments, tmp_path)
    modules, done = imported(arguments, tmp_path)
    assert set(step_outcomes(done.stderr).values()) == {"CACHED"}
    assert heavy_of(modules) == set()

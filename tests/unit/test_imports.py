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
        "bz2",
        "ctypes",
        "dataclasses",
        "difflib",
        "email",
        "http.client",
        "importlib.metadata",
        "inspect",
        "logging",
        "lzma",
        "oras",
        "pathlib",
        "pyfuse3",
        "random",
        "requests",
        "rich",
        "shutil",
        "ssl",
        "subprocess",
        "tarfile",
        "tempfile",
        "threading",
        "trio",
        "typing_extensions",
        "unittest",
        "urllib.request",
        "zstandard",
    ]
)
"""Each costs milliseconds at start-up, or drags in one that does."""
MOST_OWN_MODULES = 105
"""Finding, reading and running a module of ours costs a quarter of a millisecond."""


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


def own_of(modules: set[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] in {"builder", "cache", "layers", "unionfs"}}


def heavy_of(modules: set[str]) -> set[str]:
    return modules & HEAVY | {name for name in modules if name.split(".")[0] in HEAVY}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["build", "--help"]])
def test_help_and_version_stay_light(tmp_path: Path, arguments: list[str]) -> None:
    modules, done = imported(arguments, tmp_path)
    assert "builder.cli.main" in modules or "pybuild" in done.stdout
    assert heavy_of(modules) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["cache", "--help"]])
def test_the_list_of_commands_needs_no_command(tmp_path: Path, arguments: list[str]) -> None:
    modules, _ = imported(arguments, tmp_path)
    assert own_of(modules) == {"builder", "builder.cli", "builder.cli.main", "builder.cli.commands"}
    assert modules & {"argparse", "json", "re", "typing"} == set()


def test_help_of_a_build_needs_no_builder(tmp_path: Path) -> None:
    modules, _ = imported(["build", "--help"], tmp_path)
    assert modules & {"builder.api", "hashlib", "sqlite3", "layers", "cache"} == set()


def test_cached_build_stays_light(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "file").write_text("content\n")
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY file /\nCOPY file /renamed\nWORKDIR /work\nENV A=1\nLABEL b=2\n"
    )
    arguments = ["build", "--root", str(tmp_path / "store"), "-t", "light", "--progress", "plain", str(context)]
    imported(arguments, tmp_path)
    modules, done = imported(arguments, tmp_path)
    assert set(step_outcomes(done.stderr).values()) == {"CACHED"}
    assert heavy_of(modules) == set()
    assert len(own_of(modules)) <= MOST_OWN_MODULES, sorted(own_of(modules))


def test_cached_build_without_files_to_read_needs_no_openssl(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nWORKDIR /work\n")
    arguments = ["build", "--root", str(tmp_path / "store"), str(tmp_path)]
    imported(arguments, tmp_path)
    modules, _ = imported(arguments, tmp_path)
    assert "cache.contenthash" in modules
    assert modules & {"hashlib", "_hashlib"} == set()


def test_cold_build_reads_nothing_that_only_registries_and_pruning_need() -> None:
    code = "from builder.eventloop import import_trio; import_trio(); import builder.building"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    kept_away = {
        "ssl",
        "idna",
        "ctypes.util",
        "shutil",
        "tempfile",
        "email",
        "importlib.metadata",
        "zipfile",
        "layers.gc",
        "hashlib",
        "subprocess",
    }
    assert modules & kept_away == set()
    assert {"trio._core", "builder.building"} <= modules


@pytest.mark.parametrize("server", ["unionfs.server", "builder.sandbox.server"])
def test_servers_stay_light(server: str) -> None:
    """A build waits for both at its first step; what they call, they call by ctypes."""
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import {server}; print(*sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, check=False)
    modules = set(done.stdout.split())
    assert server in modules, done.stderr
    # what most builds do without, or a server does with less
    assert modules & {"hashlib", "ipaddress", "builder.sandbox.handover"} == set()
    assert {name for name in heavy_of(modules) if name.partition(".")[0] not in {"ctypes", "threading"}} == set()


@pytest.mark.parametrize("status", [0, 1, 2, 137])
def test_the_command_ends_at_once_with_what_it_said(status: int) -> None:
    """The interpreter is not taken down; nothing that was written may be lost with it."""
    code = (
        "import atexit, sys\n"
        "from builder.cli import main\n"
        f"main.main = lambda: print('x' * 100_000) or {status}\n"
        "atexit.register(print, 'taken down')\n"
        "main.run()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "x" * 100_000 + "\n", "")

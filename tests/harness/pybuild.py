"""The pybuild command as a user runs it, with a store of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.bases import made

# what the installed script does, from this checkout
ENTRY_POINT = "from builder.cli.main import run; run()"
COMMAND = (sys.executable, "-c", ENTRY_POINT)
PROJECT = Path(__file__).resolve().parents[2]


class Pybuild(NamedTuple):
    """The command with ``--root`` set; what it may not find is taken out of the environment."""

    root: Path

    def command(self, subcommand: str, *arguments: str | os.PathLike[str]) -> list[str]:
        return [*COMMAND, *subcommand.split(), "--root", str(self.root), *map(os.fspath, arguments)]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "NO_COLOR": "1", **(extra or {})}
        environment["XDG_CONFIG_HOME"] = str(self.root.parent / "no-config")
        return environment

    def attempt(
        self, subcommand: str, *arguments: str | os.PathLike[str], env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a subcommand to its end, whatever the status."""
        return subprocess.run(
            self.command(subcommand, *arguments),
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def run(
        self, subcommand: str, *arguments: str | os.PathLike[str], env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a subcommand that has to succeed."""
        done = self.attempt(subcommand, *arguments, env=env)
        if done.returncode != 0:
            output = f"{done.stdout[-2000:]}{done.stderr[-6000:]}"
            pytest.fail(f"pybuild {subcommand} ended with {done.returncode}:\n{output}", pytrace=False)
        return done

    def load_base(self, name: str) -> None:
        """``busybox`` or ``debian`` is in the store, under the name people write."""
        self.run("load", "-i", made(name))


def step_outcomes(progress: str) -> dict[str, str]:
    """Title → DONE, CACHED … of the Dockerfile's steps, from plain progress; what the builder does beside is left out."""
    titles = dict(re.findall(r"^#(\d+) (\[(?:[^]]* )?\d+/\d+\] .*)$", progress, re.MULTILINE))
    ends = dict(re.findall(r"^#(\d+) (DONE|CACHED|ERROR|CANCELED)\b", progress, re.MULTILINE))
    return {title: ends.get(number, "running") for number, title in titles.items()}


@pytest.fixture
def pybuild(tmp_path: Path) -> Pybuild:
    """The command with an empty store."""
    return Pybuild(tmp_path / "store")

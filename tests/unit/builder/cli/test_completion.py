"""What a shell completes: the scripts, run by the shells that are there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.cli.commands import COMMANDS
from builder.cli.completion import bash, command_completion, fish
from builder.cli.reference import parser_of

_ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _pybuild
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["in"], {"inspect"}),
        (["ca"], {"cache"}),
        (["cache", "p"], {"prune"}),
        (["cache", "prune", "--min"], {"--min-free-space"}),
        (["build", "--no-cache-"], {"--no-cache-filter"}),
        (["--no-cache-"], {"--no-cache-filter"}),
        (["build", "--progress", "pl"], {"plain"}),
        (["rmi", "--pr"], {"--prune"}),
        (["build", "-f", "Dock"], {"Dockerfile"}),
        (["push", "--compression", ""], {"gzip", "zstd", "none"}),
        (["rmi", "--nothing"], {""}),
    ],
)
def test_words_that_bash_completes(words: list[str], found: set[str], tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").touch()
    script = tmp_path / "script"
    script.write_text(bash())
    done = subprocess.run(
        ["bash", "--norc", "-c", _ASK, "bash", str(script), "pybuild", *words],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert set(done.stdout.splitlines()) == found


def test_every_option_of_every_command_is_there() -> None:
    for name in COMMANDS:
        options = {option for action in parser_of(name).actions() for option in action.option_strings}
        (line,) = re.findall(rf'^            "{name}"\) .*-W "([^"]*)"', bash(), re.MULTILINE)
        assert set(line.split()) == options
        told = re.findall(rf"""= "{name}"' (.*?) -d '""", fish())
        found = {f"--{one}" for text in told for one in re.findall(r"-l (\S+)", text)}
        assert found == {option for option in options if option.startswith("--")}


@pytest.mark.parametrize("shell", ["bash", *filter(shutil.which, ("zsh", "fish"))])
def test_a_shell_reads_its_script(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command_completion([shell]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    done = subprocess.run(
        [shell, "-n", str(tmp_path / "script")],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")

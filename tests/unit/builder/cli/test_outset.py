"""What holds before a command line is read: the user's directories, and the encoding."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from builder.cli.outset import begin_again, settle_directories
from harness.pybuild import PROJECT

_OWN = pwd.getpwuid(os.geteuid()).pw_dir


@pytest.mark.parametrize(
    ("given", "settled"),
    [
        ({"HOME": "/h"}, {"HOME": "/h"}),
        ({}, {"HOME": _OWN}),
        ({"HOME": ""}, {"HOME": _OWN}),
        ({"HOME": "h"}, {"HOME": _OWN}),
        ({"HOME": "/h", "XDG_DATA_HOME": "/d", "A": "b"}, {"HOME": "/h", "XDG_DATA_HOME": "/d", "A": "b"}),
        ({"HOME": "/h", "XDG_DATA_HOME": "d", "XDG_CONFIG_HOME": "../c", "XDG_CACHE_HOME": ""}, {"HOME": "/h"}),
        ({"HOME": "/h", "XDG_RUNTIME_DIR": "run"}, {"HOME": "/h"}),
    ],
)
def test_directories_of_the_user_are_absolute_or_not_set(given: dict[str, str], settled: dict[str, str]) -> None:
    environment = dict(given)
    settle_directories(environment)
    assert environment == settled


def test_the_same_words_are_read_again() -> None:
    words = ["python", "-I", "/bin/pybuild", "-t", "x", "."]
    assert begin_again("/bin/python3", words) == ["/bin/python3", "-X", "utf8", *words[1:]]


_PRINT = """
import sys
from builder.cli import main
main.main = lambda: sys.stdout.write(f"{sys.getfilesystemencoding()} {sys.stdout.encoding} {sys.argv[1]}")
main.run()
"""


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C"},
        {"LC_ALL": "C.UTF-8"},
        {"PYTHONIOENCODING": "utf-8:strict"},
    ],
)
def test_names_are_utf8_in_every_locale(variables: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_PRINT)
    done = subprocess.run(
        [sys.executable, script, "ä".encode() + b"\xe9"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), **variables},
        stdout=subprocess.PIPE,
        check=False,
    )
    assert done.stdout == b"utf-8 utf-8 \xc3\xa4\xe9"

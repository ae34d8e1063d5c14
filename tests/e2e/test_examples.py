"""Every example builds as it stands, and its image does what its README says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.pybuild import Pybuild, step_outcomes

RUNS = {
    "arguments": ((), "Good morning, this is version 0.0.0\ngreeting.txt\nnotes\npage.txt\n"),
    "c-multistage": (("20",), "2\n3\n5\n7\n11\n13\n17\n19\n"),
    "cache-order": ((), "object: 5216 bytes in 1 file(s)\nsource: 2093 bytes in 2 file(s)\n"),
    "hello": ((), "Hello from a container that runs as uid 0\n"),
    "nginx-static": (("selftest",), re.compile(r"self-test passed: nginx version: nginx/1\.\S+\n")),
    "onbuild": ((), "about.txt\tAbout this site\nwelcome.txt\tWelcome\n"),
    "parallel-stages": ((), "THE EAST\nTHE NORTH\nTHE SOUTH\nTHE WEST\n"),
    "python-app": (("selftest",), re.compile(r"self-test passed: 1 note\(s\), uid 1000, Python 3\.11\.\d+\n")),
}
"""Example → the command for its image, and what that prints."""


EXAMPLES = [
    pytest.param(name, marks=[pytest.mark.ids("gives a file away")] if name == "parallel-stages" else [])
    for name in sorted(RUNS)
]


def test_every_example_is_in_the_table(examples: Path) -> None:
    assert {path.name for path in examples.iterdir() if path.is_dir()} == RUNS.keys()


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_builds_and_its_result_runs(workshop: Pybuild, built: Callable[[str], str], example: str) -> None:
    command, expected = RUNS[example]
    done = workshop.run("run", built(example), *command)
    if isinstance(expected, re.Pattern):
        assert expected.fullmatch(done.stdout)
    else:
        assert done.stdout == expected


@pytest.mark.parametrize("example", EXAMPLES)
def test_second_build_is_cached_and_gives_the_same_image(
    workshop: Pybuild, built: Callable[[str], str], examples: Path, tmp_path: Path, example: str
) -> None:
    ids = []
    built(example)
    for attempt in ("a", "b"):
        done = workshop.run("build", "--progress", "plain", "--iidfile", tmp_path / attempt, examples / example)
        ids.append((tmp_path / attempt).read_text())
        assert set(step_outcomes(done.stderr).values()) == {"CACHED"}
    assert ids[0] == ids[1]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", ids[0].strip())


def test_metadata_of_the_python_app(workshop: Pybuild, built: Callable[[str], str]) -> None:
    document = json.loads(workshop.run("inspect", built("python-app")).stdout)
    text = json.dumps(document)
    for part in ('"User": "notes"', '"8000/tcp"', '"/data"', '"NOTES_FILE=/data/notes.sqlite"', '"/app"'):
        assert part in text


@pytest.mark.ids("builds on Debian, whose files have many owners")
def test_wrong_order_installs_again_and_right_order_does_not(workshop: Pybuild, examples: Path, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    for file in (examples / "cache-order").iterdir():
        (context / file.name).write_bytes(file.read_bytes())

    def finished(dockerfile: str) -> str:
        done = workshop.run("build", "--progress", "plain", "-f", context / dockerfile, context)
        [outcome] = [outcome for title, outcome in step_outcomes(done.stderr).items() if "RUN apt-get" in title]
        return outcome

    finished("Dockerfile")
    finished("Dockerfile.slow")
    (context / "data.json").write_text("[]\n")
    assert finished("Dockerfile") == "CACHED"
    assert finished("Dockerfile.slow") == "DONE"


def test_build_arguments_and_target(small: Pybuild, examples: Path) -> None:
    arguments = ["--build-arg", "VERSION=1.2.3", "--build-arg", "GREETING=Hello"]
    small.run("build", "-t", "arguments", *arguments, examples / "arguments")
    assert small.run("run", "arguments").stdout.startswith("Hello, this is version 1.2.3\n")
    small.run("build", "-t", "site-base", "--target", "site-base", examples / "onbuild")
    missing = small.attempt("run", "site-base", "cat", "/pages/index")
    assert missing.returncode != 0

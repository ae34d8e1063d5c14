"""The configuration file."""

import pytest

from builder.cli import main
from builder.configuration import configuration_path, read_defaults, read_registry_settings
from builder.errors import UsageError


@pytest.fixture
def write(tmp_path):
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}

    def write(text: str) -> dict[str, str]:
        path = tmp_path / "pybuild" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return environment

    return write


def test_no_file_is_an_empty_one(tmp_path):
    assert read_registry_settings({"XDG_CONFIG_HOME": str(tmp_path)}).insecure == frozenset()


def test_registries(write):
    assert read_registry_settings(write('[registries]\ninsecure = ["lan:5000"]\n')).insecure == {"lan:5000"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[registries\n", "config.toml'"),
        ("[registers]\n", "unknown table 'registers'"),
        ('[registries]\ninsecur = ["x"]\n', 'unknown key "insecur"'),
        ("[registries]\nconnections = 0\n", "connections is 0"),
    ],
)
def test_a_wrong_file_is_named(write, text, said):
    with pytest.raises(UsageError, match=r"configuration .*config\.toml") as error:
        read_registry_settings(write(text))
    assert said in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "pybuild" / "config.toml").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"config\.toml.*is a directory"):
        read_registry_settings({"XDG_CONFIG_HOME": str(tmp_path)})


def test_place():
    assert configuration_path({"HOME": "/h"}) == "/h/.config/pybuild/config.toml"
    assert configuration_path({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}) == "/c/pybuild/config.toml"


DEFAULTS = """
[build]
progress = "plain"
no-cache = true
pull = false
jobs = 3
build-arg = ["A=1", "B=x y"]

[cache.prune]
older = "7d"
"""


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "build",
            ["--progress=plain", "--no-cache=true", "--pull=false", "--jobs=3", "--build-arg=A=1", "--build-arg=B=x y"],
        ),
        ("cache prune", ["--older=7d"]),
        ("cache ls", []),
        ("run", []),
    ],
)
def test_a_command_begins_with_its_options(write, command, words):
    assert read_defaults(write(DEFAULTS), command) == words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("build = 1\n", "build is no table"),
        ("[build]\njobs = 1.5\n", "build: jobs is no text, number, true or false"),
        ("[build.jobs]\n", "build: jobs is no text"),
        ("[biuld]\n", "unknown table 'biuld', expected registries or a command"),
    ],
)
def test_defaults_that_are_none(write, text, said):
    with pytest.raises(UsageError, match=r"configuration .*config\.toml") as error:
        read_defaults(write(text), "build")
    assert said in str(error.value)


def test_the_command_line_wins_and_an_error_says_where_else_to_look(write, monkeypatch, capsys, tmp_path):
    write('[images]\nformat = "json"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    root = str(tmp_path / "store")
    assert main.main(["images", "--root", root]) == 0
    assert capsys.readouterr().out == ""
    assert main.main(["images", "--root", root, "--format", "table"]) == 0
    assert capsys.readouterr().out.startswith("REPOSITORY")
    write('[images]\nfromat = "json"\n')
    assert main.main(["images", "--root", root]) == 2
    said = capsys.readouterr().err
    assert "error: unknown option --fromat\nhint: did you mean --format?" in said
    assert f"hint: {tmp_path}/pybuild/config.toml begins it with --fromat=json" in said

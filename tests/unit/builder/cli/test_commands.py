"""Which command a line calls, and what becomes of its errors."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from builder.cli import commands, main
from builder.cli.reference import parser_of
from builder.errors import UsageError


@pytest.mark.parametrize(
    ("words", "name", "rest"),
    [
        (["build", "-t", "x", "."], "build", ["-t", "x", "."]),
        (["-t", "x", "."], "build", ["-t", "x", "."]),
        (["."], "build", ["."]),
        (["/there/is/none"], "build", ["/there/is/none"]),
        (["https://example.com/x.git"], "build", ["https://example.com/x.git"]),
        (["images", "-q"], "images", ["-q"]),
        (["cache", "prune", "--all"], "cache prune", ["--all"]),
        (["explain", "."], "cache explain", ["."]),
        (["prune", "-a"], "cache prune", ["-a"]),
        (["bud", "-t", "x", "."], "build", ["-t", "x", "."]),
        (["buildx", "build", "."], "build", ["."]),
        (["builder", "prune", "-f"], "cache prune", ["-f"]),
        (["image", "ls", "-q"], "images", ["-q"]),
        (["image", "prune", "-f"], "rmi", ["--prune", "-f"]),
    ],
)
def test_words_call_a_command_or_are_a_build(words: list[str], name: str, rest: list[str]) -> None:
    assert commands.find_command(words) == (name, rest)


def test_a_directory_may_be_called_anything_but_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "biuld").mkdir()
    (tmp_path / "images").mkdir()
    assert commands.find_command(["biuld"]) == ("build", ["biuld"])
    assert commands.find_command(["images"]) == ("images", [])


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["biuld", "-t", "x", "."], "'biuld' is neither a command nor a directory", "did you mean build?"),
        (["image"], "'image' is neither a command nor a directory", "did you mean images?"),
        (["cahce", "ls"], "'cahce' is neither a command nor a directory", "did you mean cache?"),
        (["cache", "prun"], "cache has no command 'prun'", "did you mean prune?"),
        (["system"], "'system' is neither a command nor a directory", "pybuild --help lists the commands"),
        (
            ["cache", "everything"],
            "cache has no command 'everything'",
            "there are ls, du, verify, prune, explain, export, import",
        ),
    ],
)
def test_a_mistyped_command_is_no_missing_context(
    words: list[str], message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        commands.find_command(words)
    assert (caught.value.message, caught.value.hints) == (message, (hint,))


def test_every_word_of_others_is_a_command_and_none_hides_one() -> None:
    for words, meant in commands.SYNONYMS.items():
        assert words not in commands.COMMANDS
        name, rest = commands.find_command(words.split(" "))
        assert " ".join([name, *rest]) == meant


def test_every_command_has_a_parser_with_an_example() -> None:
    for name in commands.COMMANDS:
        parser = parser_of(name)
        assert parser.prog == f"pybuild {name}"
        assert parser.summary.endswith(".")
        words = parser.example.split(" ")
        assert words[0] == "pybuild"
        called, rest = commands.find_command(words[1:])
        assert called == name
        parser.read(rest)


def test_every_option_says_what_it_is_for() -> None:
    silent = {
        (name, action.dest) for name in commands.COMMANDS for action in parser_of(name).actions() if not action.help
    }
    assert silent == set()


@pytest.mark.parametrize(
    ("words", "status", "out", "err"),
    [
        (["--version"], 0, "pybuild 0", ""),
        (["version"], 0, "pybuild 0", ""),
        (["--help"], 0, "usage: pybuild [build]", ""),
        (["help"], 0, "usage: pybuild [build]", ""),
        (["help", "tag"], 0, "usage: pybuild tag [OPTIONS] IMAGE NAME", ""),
        (["tag", "--help"], 0, "usage: pybuild tag [OPTIONS] IMAGE NAME", ""),
        (["cache", "--help"], 0, "usage: pybuild cache ls|du|verify|prune", ""),
        (["help", "cache"], 0, "usage: pybuild cache ls|du|verify|prune", ""),
        ([], 2, "", "usage: pybuild [build]"),
        (["cache"], 2, "", "usage: pybuild cache ls|du|verify|prune"),
        (["biuld"], 2, "", "error: 'biuld' is neither"),
        (["tag", "--wibble", "a", "b"], 2, "", "error: unknown option --wibble"),
        (["./nowhere"], 1, "", "error: context './nowhere' does not exist"),
        (["build", "."], 1, "", "error: no Dockerfile in '.'"),
        (["Dockerfile"], 2, "", "error: 'Dockerfile' is neither"),
        (["/etc/hostname"], 1, "", "hint: the context is the directory with the files to copy; -f PATH names"),
        (["--verison"], 2, "", "hint: did you mean --version?"),
        (["inspect", "nothing"], 1, "", "hint: pybuild images lists what is there"),
        (["inspect", "nothing"], 1, "", 'error: image "nothing" is not in the store'),
        (["cache", "prune"], 2, "", "error: nothing was said to be pruned"),
        (["-o", "type=local", "."], 2, "", "error: argument -o/--output: output type local needs dest=PATH"),
        (["-t", "UPPER", "."], 2, "", "error:"),
        (["--platform", "linux/amd64,linux/", "."], 2, "", 'error: argument --platform: platform "linux/" is not of'),
        (["ftp://example.com/x"], 2, "", "error: context 'ftp://example.com/x' is a URL of an unknown kind"),
    ],
)
def test_statuses_and_streams(
    words: list[str],
    status: int,
    out: str,
    err: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert main.main(words) == status
    said = capsys.readouterr()
    assert said.out.startswith(out)
    assert bool(said.out) == bool(out)
    assert err in said.err


@pytest.mark.parametrize("words", [["--version"], ["build", "--help"]])
def test_a_full_disk_behind_stdout_is_an_error(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        status = main.main(words)
        monkeypatch.undo()
        # what was in the buffer is lost with it
        with contextlib.suppress(OSError):
            full.close()
    assert status == 1
    assert "no space left on device" in capsys.readouterr().err

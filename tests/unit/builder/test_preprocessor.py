"""Dockerfiles that the C preprocessor goes over, by the command as it is called."""

import pytest

from builder.cli import main


@pytest.fixture
def context(tmp_path, monkeypatch):
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "more.inc").write_text("FROM scratch AS included\nLABEL of=more\n")
    monkeypatch.chdir(directory)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return directory


def check(context, text, capsys, name="Containerfile.in"):
    (context / name).write_text(text)
    status = main.main(["check", "-f", name])
    said = capsys.readouterr()
    return status, said.out + said.err


def test_directives_and_macros(context, capsys):
    text = (
        "# check=skip=MaintainerDeprecated\n# it's a remark\n#define LARGE 3\n#if LARGE > 2\nFROM scratch\n#else\nFRM x\n"
        '#endif\nMAINTAINER me\n#include "more.inc"\n'
    )
    assert check(context, text, capsys) == (0, "Check complete, no warnings found.\n")
    assert check(context, text, capsys, "Containerfile")[0] == 1, "the name alone tells"


def test_lines_are_those_of_the_file(context, capsys):
    status, said = check(context, "#define A 1\n# remark\nFROM scratch\nEXPOSE none\n", capsys)
    assert status == 1
    assert said.startswith("Containerfile.in:4\n")
    assert "   4 | >>> EXPOSE none\n" in said


def test_what_it_refuses_is_told(context, capsys):
    status, said = check(context, 'FROM scratch\n#include "missing.inc"\n', capsys)
    assert status == 1
    assert said.startswith("error: Dockerfile 'Containerfile.in' cannot be preprocessed: missing.inc: No such file")


def test_without_a_preprocessor(context, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(context))
    status, said = check(context, "FROM scratch\n", capsys)
    assert status == 1
    assert said.startswith(
        "error: Dockerfile 'Containerfile.in' is to be preprocessed, and there is no cpp\nhint: cpp comes"
    )

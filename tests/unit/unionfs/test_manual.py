"""The help of the commands, docs/unionmount.md and the manual pages say the same."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from builder.cli.commands import COMMANDS
from builder.cli.reference import parser_of
from unionfs.cli import options, snapmerge, unionctl, unionmount
from unionfs.cli.options import parse_options

PROJECT = Path(__file__).resolve().parents[3]
TEXT = (PROJECT / "docs/unionmount.md").read_text(encoding="utf-8")
MAINS = {"unionmount": unionmount.main, "unionctl": unionctl.main, "snapmerge": snapmerge.main}


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("manual", PROJECT / "scripts/manual.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def manual() -> ModuleType:
    return script()


def tagged(lines: list[str], indent: str) -> list[str]:
    """What stands left of the explanations."""
    return [match[1] for line in lines if (match := re.match(rf"{indent}(\S.*?)  +\S", line))]


def helped(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[set[str], set[str]]:
    """The words and the mount options that --help shows."""
    assert MAINS[command](["--help"]) == 0
    above, _, below = capsys.readouterr().out.partition("\noptions")
    words = {word for tag in tagged(above.splitlines(), "  ") for word in tag.split(", ")}
    return words, {form for tag in tagged(below.splitlines(), "  ") for form in tag.split(", ")}


def documented(command: str) -> tuple[set[str], set[str]]:
    section = TEXT.split(f"\n## {command}\n")[1].split("\n## ")[0]
    words, forms = set(), set()
    for title, found in (("word", words), ("option", forms)):
        table = section.partition(f"| {title} | meaning |\n")[2].partition("\n\n")[0]
        for row in table.splitlines()[1:]:
            first = re.split(r"(?<!\\)\|", row)[1]
            found.update(form.replace(r"\|", "|") for form in re.findall("`([^`]+)`", first))
    return words, forms


@pytest.mark.parametrize("command", MAINS)
def test_the_help_and_the_page_agree(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert helped(command, capsys) == documented(command)


def test_every_option_is_there() -> None:
    forms = documented("unionmount")[1]
    assert {form.partition("=")[0] for form in forms} == set(options._OPTIONS)
    assert {form.partition("=")[0] for form in forms if "=" in form} == set(options._WITH_VALUE)


CHOICES = [form for form in sorted(documented("unionmount")[1]) if re.fullmatch(r"\w+=[a-z0-9]+(\|[a-z0-9]+)+", form)]


@pytest.mark.parametrize("form", CHOICES)
def test_every_choice_is_one(form: str) -> None:
    key, _, words = form.partition("=")
    for word in words.split("|"):
        beside = ",copyupuid=1,copyupgid=1,copyupmode=600" if word == "mounter" else ""
        parse_options([f"dirs=/a,{key}={word}{beside}"], privileged=True)
    with pytest.raises(options.OptionError, match=rf"'{key}': expected .*\b{words.split('|')[0]}\b"):
        parse_options([f"dirs=/a,{key}=other"], privileged=True)


@pytest.mark.parametrize("command", MAINS)
def test_the_manual_is_that_of_the_page(command: str, manual: ModuleType) -> None:
    assert manual.path_of(command).read_text(encoding="utf-8") == manual.manual(command, TEXT), (
        "make docs writes it anew"
    )


@pytest.mark.parametrize("command", MAINS)
def test_the_wheel_has_the_manual(command: str, manual: ModuleType) -> None:
    path = manual.path_of(command).relative_to(PROJECT)
    line = f'"{path}" = "share/man/man{path.suffix[1:]}/{path.name}"'
    assert line in (PROJECT / "pyproject.toml").read_text()


def test_the_manual_of_the_builder_is_that_of_the_reference(manual: ModuleType) -> None:
    pages = manual.builder_pages(manual.REFERENCE.read_text(encoding="utf-8"))
    there = {path.stem: path.read_text(encoding="utf-8") for path in manual.BUILDER_PAGES.iterdir()}
    assert there == pages, "make docs writes it anew"
    assert pages.keys() == {"pybuild", *(f"pybuild-{name.replace(' ', '-')}" for name in COMMANDS)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_the_builder_is_in_its_manual(name: str, manual: ModuleType) -> None:
    shown = show(manual.BUILDER_PAGES / f"pybuild-{name.replace(' ', '-')}.1")
    for action in parser_of(name).actions():
        for option in action.option_strings:
            assert option in shown or action.dest == "help"


def test_the_wheel_has_the_manual_of_the_builder(manual: ModuleType) -> None:
    line = f'"{manual.BUILDER_PAGES.relative_to(PROJECT)}" = "share/man/man1"'
    assert line in (PROJECT / "pyproject.toml").read_text()


def show(page: Path) -> str:
    """The page as people see it; nothing in it is strange to man."""
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", page],
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    shown = re.sub("\x1b\\[[0-9;]*m|.\b", "", done.stdout)
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "SEE ALSO"):
        assert f"\n{heading}\n" in shown
    assert "`" not in shown
    return shown


@pytest.mark.parametrize("command", MAINS)
def test_man_finds_nothing_to_say(command: str, manual: ModuleType) -> None:
    shown = show(manual.path_of(command))
    for form in set.union(*documented(command)):
        assert form in shown

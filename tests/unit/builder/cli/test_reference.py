"""docs/cli.md and the program say the same."""

from __future__ import annotations

import re
from pathlib import Path

from builder.cli.commands import COMMANDS
from builder.cli.reference import parser_of, reference


def test_the_page_is_the_one_the_parsers_make(project_root: Path) -> None:
    page = (project_root / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == reference(), "make docs writes the page anew"


def test_every_option_that_works_is_on_the_page_and_no_other(project_root: Path) -> None:
    page = (project_root / "docs" / "cli.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## pybuild ([a-z ]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(COMMANDS)
    for name, text in sections.items():
        parser = parser_of(name)
        works = {option for action in parser.actions() for option in action.option_strings} - {"-h", "--help"}
        table, _, refused = text.partition("refused:")
        rows = "\n".join(line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `"))
        assert set(re.findall(r"`(--?[A-Za-z-]+)", rows)) == works, name
        assert set(re.findall(r"^\| `(--?[A-Za-z-]+)", refused, re.MULTILINE)) == set(parser.refused), name


def test_the_page_does_not_depend_on_where_it_is_made(project_root: Path) -> None:
    assert str(Path.home()) not in reference()

"""What README and docs promise is there, and modules keep their size."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

PACKAGES = ("unionfs", "layers", "cache", "builder")
LONGEST_MODULE_LINES = 500


def test_no_module_grows_past_its_seams(project_root: Path) -> None:
    long = {
        str(path.relative_to(project_root)): lines
        for package in PACKAGES
        for path in (project_root / package).rglob("*.py")
        if (lines := path.read_text(encoding="utf-8").count("\n")) > LONGEST_MODULE_LINES
    }
    assert long == {}


def test_commands_of_the_readme_exist(project_root: Path) -> None:
    text = (project_root / "README.md").read_text(encoding="utf-8")
    scripts = set(re.findall(r"scripts/[a-z-]+", text))
    assert scripts >= {"scripts/demo", "scripts/test", "scripts/test-vm"}
    for script in scripts:
        assert os.access(project_root / script, os.X_OK), script
    targets = set(re.findall(r"^    make ([a-z]+)", text, re.MULTILINE))
    assert targets >= {"check", "test", "bench"}
    makefile = (project_root / "Makefile").read_text(encoding="utf-8")
    assert targets <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


def test_subcommands_of_the_readme_exist(project_root: Path) -> None:
    from builder.cli.commands import COMMANDS

    text = (project_root / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    (?:\.venv/bin/)?pybuild ([a-z].*)$", text, re.MULTILINE)
    words = {word for line in lines for word in re.findall(r"(?:^|\| )([a-z]+)", line.split("   ")[0])}
    assert {"run", "images", "push", "cache"} <= words
    # the words of a group stand behind one another: cache ls | du
    assert words <= {word for name in COMMANDS for word in name.split(" ")}


@pytest.mark.parametrize("name", ["pybuild", "unionmount", "unionctl", "snapmerge"])
def test_commands_are_installed_and_importable(project_root: Path, name: str) -> None:
    import importlib

    project = tomllib.loads((project_root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"][name].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_links_between_pages_lead_somewhere(project_root: Path) -> None:
    broken = [
        f"{page.relative_to(project_root)}: {target}"
        for page in [project_root / "README.md", *(project_root / "docs").rglob("*.md")]
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_example_says_how_it_is_built(project_root: Path) -> None:
    for directory in (project_root / "examples" / "Dockerfiles").iterdir():
        text = (directory / "README.md").read_text(encoding="utf-8")
        assert "pybuild -t" in text, directory.name
        assert "pybuild run" in text, directory.name

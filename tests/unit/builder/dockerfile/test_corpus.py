"""The cases of tests/corpus/dockerfiles that concern text alone."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from builder.dockerfile import shell
from builder.dockerfile.ignore import Matcher, parse_ignore_file
from builder.dockerfile.lexer import decode, lex
from builder.dockerfile.parser import parse
from builder.dockerfile.source import Source
from builder.errors import BuildError, ExpansionError

CORPUS = Path(__file__).parents[3] / "corpus" / "dockerfiles"


def load(name: str) -> dict[str, Any]:
    return tomllib.loads((CORPUS / f"{name}.toml").read_text())


EXPANSION = load("expansion")


@pytest.mark.parametrize("case", EXPANSION["case"], ids=lambda case: case["text"])
def test_expansion(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(ExpansionError) as raised:
            shell.expand(case["text"], EXPANSION["variables"])
        assert case["error"] in raised.value.message
        return
    expansion = shell.expand(case["text"], EXPANSION["variables"])
    assert expansion.text == case["result"]
    assert expansion.missing >= set(case.get("missing", ()))


@pytest.mark.parametrize("case", load("statements")["case"], ids=lambda case: case["name"])
def test_statements(case: dict[str, Any]) -> None:
    lexed = lex(Source("Dockerfile", decode(case["text"])))
    got = [
        [one.keyword, list(one.flags), one.rest, one.origin.source.start, one.origin.source.end]
        for one in lexed.statements
    ]
    assert got == case["statements"]
    heredocs = [[one.name, one.body, one.expand, one.chomp] for each in lexed.statements for one in each.heredocs]
    assert heredocs == case.get("heredocs", [])
    assert [finding.rule for finding in lexed.warnings] == case.get("warnings", [])


@pytest.mark.parametrize("case", load("refused")["case"], ids=lambda case: case["message"])
def test_refused(case: dict[str, Any]) -> None:
    with pytest.raises(BuildError) as raised:
        parse(case["text"], "Dockerfile")
    error = raised.value
    assert case["message"] in error.message
    if "lines" in case:
        assert error.source is not None
        assert [error.source.start, error.source.end] == case["lines"]
    if "hint" in case:
        assert case["hint"] in error.hints


def test_a_line_has_less_than_64_kib() -> None:
    longest = "FROM a\nLABEL a=" + "x" * (65_535 - len("LABEL a="))
    assert parse(longest, "Dockerfile").stages
    for text in (longest + "x", longest[:-1] + "é"):
        with pytest.raises(BuildError, match="the line is longer than 65535 bytes") as raised:
            parse(text, "Dockerfile")
        assert raised.value.source is not None
        assert raised.value.source.start == 2


@pytest.mark.parametrize("case", load("ignore")["case"], ids=lambda case: case["name"])
def test_ignore(case: dict[str, Any]) -> None:
    matcher = Matcher(parse_ignore_file(case["text"]))
    assert [path for path in case["excluded"] if not matcher.excluded(path)] == []
    assert [path for path in case["kept"] if matcher.excluded(path)] == []

"""The checks, case by case, and their settings."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from builder.dockerfile.ignore import Matcher, parse_ignore_file
from builder.dockerfile.parser import parse
from builder.errors import DockerfileError
from builder.graph import BaseImage
from builder.lint import RULES, Settings, check, parse_settings, settings_of
from layers.config import ImageConfig
from layers.platform import Platform

CORPUS = Path(__file__).parents[3] / "corpus" / "dockerfiles"
CASES: list[dict[str, Any]] = tomllib.loads((CORPUS / "lint.toml").read_text())["case"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_findings(case: dict[str, Any]) -> None:
    bases: dict[str, BaseImage] = {}
    if "base_env" in case or "base_architecture" in case:
        config = ImageConfig(case.get("base_architecture", "amd64"), env=tuple(case.get("base_env", ())))
        bases["a"] = BaseImage(config, "sha256:" + "0" * 64)
    ignore = Matcher(parse_ignore_file(case["ignore"])) if "ignore" in case else None
    arguments = case.get("build_args", {})
    platform = Platform("linux", "amd64")
    dockerfile = parse(case["text"], "Dockerfile")
    found = check(dockerfile, bases=bases, build_args=arguments, platform=platform, ignore=ignore)
    got = sorted([finding.rule, finding.source.start] for finding in found if finding.source is not None)
    assert got == sorted(case["findings"])
    assert len(got) == len(found)


def test_every_rule_has_a_case() -> None:
    assert {rule for case in CASES for rule, _ in case["findings"]} == set(RULES)


def test_findings_come_in_order_of_lines() -> None:
    found = check(parse("FROM a as B\nMAINTAINER x\nENV a b\nWORKDIR c\n", "Dockerfile"))
    lines = [finding.source.start for finding in found if finding.source is not None]
    assert lines == sorted(lines)
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", Settings()),
        ("skip=all", Settings(skip=frozenset({"all"}))),
        (
            "skip=StageNameCasing, UndefinedVar; error=true",
            Settings(skip=frozenset({"StageNameCasing", "UndefinedVar"}), error=True),
        ),
        ("error=false;experimental=all", Settings(experimental=frozenset({"all"}))),
    ],
)
def test_settings(text: str, settings: Settings) -> None:
    assert parse_settings(text) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skip", "unknown option 'skip'"),
        ("skpi=all", "unknown option 'skpi=all'"),
        ("error=maybe", "error must be true or false, got 'maybe'"),
        ("skip=StageNameCasin", "unknown rule 'StageNameCasin'"),
    ],
)
def test_settings_that_are_wrong(text: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message):
        parse_settings(text)


def test_settings_of_a_file() -> None:
    assert settings_of(parse("# check=error=true\nFROM a\n", "Dockerfile")).error


def test_given_settings_replace_those_of_the_file() -> None:
    dockerfile = parse("# check=skip=all\nFROM scratch\nMAINTAINER x\n", "Dockerfile")
    assert check(dockerfile) == ()
    assert [finding.rule for finding in check(dockerfile, settings=Settings())] == ["MaintainerDeprecated"]


def test_of_stages_that_are_not_built_only_their_names_are_judged() -> None:
    text = "FROM scratch AS A\nENV a b\nENV token=1\nFROM scratch as b\nENV c d\nMAINTAINER x\nFROM scratch\nENV e f\n"
    dockerfile = parse(text, "Dockerfile")

    def found(*stages: int) -> list[tuple[str, int]]:
        return [(one.rule, one.source.start) for one in check(dockerfile, stages=stages) if one.source is not None]

    named = [("StageNameCasing", 1), ("FromAsCasing", 4), ("MaintainerDeprecated", 6)]
    assert found(2) == [*named, ("LegacyKeyValueFormat", 8)]
    assert found(1) == sorted([*named, ("LegacyKeyValueFormat", 5)], key=lambda one: one[1])
    assert len(found(0, 1, 2)) == len(check(dockerfile)) == len(named) + 4


def test_a_file_that_cannot_be_expanded_is_left_to_the_build() -> None:
    assert check(parse("ARG a=${b\nFROM $a\n", "Dockerfile")) == ()

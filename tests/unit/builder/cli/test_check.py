"""``pybuild check`` and ``build --check``, and what a build says of findings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.cli import main
from harness.pybuild import Pybuild

CLEAN = "FROM scratch\nCOPY file /\n"
WANTING = "FROM scratch as base\nCOPY file /\nCMD run it\n"


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "file").write_text("content\n")
    monkeypatch.chdir(directory)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return directory


def test_nothing_to_find(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (context / "Dockerfile").write_text(CLEAN)
    assert main.main(["check"]) == 0
    assert capsys.readouterr().out == "Check complete, no warnings found.\n"
    assert not (context.parent / "data").exists(), "a check makes no store"


@pytest.mark.parametrize("words", [["check"], ["check", "."], ["build", "--check", "."], ["--check", "-t", "x", "."]])
def test_findings_are_warnings(words: list[str], context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (context / "Dockerfile").write_text(WANTING)
    assert main.main(words) == 0
    out = capsys.readouterr().out
    assert "WARNING: FromAsCasing - AS should have the case of FROM\n" in out
    assert "Dockerfile:3\n" in out
    assert "   3 | >>> CMD run it\n" in out
    assert out.endswith("Check complete, 2 warnings have been found!\n")


def test_findings_are_errors_where_the_file_says_so(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (context / "Dockerfile").write_text("# check=error=true\n" + WANTING)
    assert main.main(["check"]) == 1
    said = capsys.readouterr()
    assert said.out.endswith("Check complete, 2 warnings have been found!\n")
    assert said.err == "error: findings are errors: check=error=true\n"
    (context / "Dockerfile").write_text("# check=error=true\n" + CLEAN)
    assert main.main(["check"]) == 0


def test_rules_that_are_skipped_find_nothing(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (context / "Dockerfile").write_text("# check=skip=FromAsCasing;error=true\n" + WANTING)
    assert main.main(["check", "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(one["rule"], one["file"], one["start"], one["end"]) for one in found] == [
        ("JSONArgsRecommended", "Dockerfile", 4, 4)
    ]


def test_another_file_and_arguments(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = context.parent / "other.Dockerfile"
    other.write_text("ARG BASE\nFROM ${BASE:?}\n")
    assert main.main(["check", "-f", str(other), "--build-arg", "BASE=scratch"]) == 0
    (context / ".dockerignore").write_text("file\n")
    other.write_text(CLEAN)
    assert main.main(["check", "-f", str(other)]) == 0
    assert "WARNING: CopyIgnoredFile" in capsys.readouterr().out


def test_findings_above_an_error_are_told_as_well(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (context / "Dockerfile").write_text("FROM scratch as base\nMAINTAINER me\nFORM scratch\nCMD run it\n")
    assert main.main(["check"]) == 1
    said = capsys.readouterr()
    assert [line for line in said.out.splitlines() if line.startswith("WARNING")] == [
        "WARNING: FromAsCasing - AS should have the case of FROM",
        "WARNING: MaintainerDeprecated - MAINTAINER is deprecated in favour of a label",
    ]
    assert "   3 | >>> FORM scratch" in said.err
    assert main.main(["check", "--format", "json"]) == 1
    assert [one["start"] for one in json.loads(capsys.readouterr().out)] == [1, 2]


def test_a_build_argument_replaces_what_the_file_says(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (context / "Dockerfile").write_text("# check=skip=all\n" + WANTING)
    given = ["check", "--build-arg"]
    assert main.main([*given, "BUILDKIT_DOCKERFILE_CHECK=skip=FromAsCasing;error=true"]) == 1
    assert "1 warning has been found" in capsys.readouterr().out
    assert main.main(["check"]) == 0
    assert main.main([*given, "BUILDKIT_DOCKERFILE_CHECK=skip"]) == 1
    assert "check: unknown option 'skip'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [("FORM scratch\n", "FORM"), ("# check=skip=Nothing\n" + CLEAN, "check: unknown rule 'Nothing'")],
)
def test_what_is_no_dockerfile_is_an_error(
    text: str, message: str, context: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (context / "Dockerfile").write_text(text)
    assert main.main(["check"]) == 1
    assert message in capsys.readouterr().err


def test_builds_tell_findings_at_the_end_whether_cached_or_not(context: Path, pybuild: Pybuild) -> None:
    (context / "Dockerfile").write_text(WANTING)
    for _ in range(2):
        done = pybuild.run("build", "--progress", "plain", "-t", "x", context)
        assert done.stderr.count("warnings found") == 1
        end = done.stderr.partition("\n 2 warnings found (pybuild check shows the places):\n")[2].splitlines()
        assert [(line.split(":")[0], line[-8:]) for line in end] == [
            (" - FromAsCasing", "(line 1)"),
            (" - JSONArgsRecommended", "(line 3)"),
        ]
    (context / "Dockerfile").write_text("# check=error=true\nFROM scratch AS other\nENV a b\n" + CLEAN)
    assert "warning" not in pybuild.run("build", "--progress", "plain", context).stderr, "that stage is not built"
    (context / "Dockerfile").write_text("# check=error=true\n" + WANTING)
    failed = pybuild.attempt("build", "--progress", "plain", context)
    assert failed.returncode == 1
    assert "   2 | >>> FROM scratch as base" in failed.stderr
    assert "error: check=error=true, and the Dockerfile breaks FromAsCasing, JSONArgsRecommended" in failed.stderr


MISTAKES = (
    ("FROM scratch AS a\nEXPOSE http\nFROM scratch\nSTOPSIGNAL none\n", "port 'http'", "   2 | >>> EXPOSE http"),
    ("FROM scratch\nRUN --mount=type=volume,target=/x true\n", "unknown type 'volume'", "   2 | >>> RUN"),
    ("FROM unknown\nENV port=http\nEXPOSE 99999\n", "port '99999'", "   3 | >>> EXPOSE 99999"),
    ("FROM scratch\nONBUILD COPY --from=later / /\nFROM scratch\nENV a=${b:=c}\n", "modifier", "   4 | >>> ENV"),
)


@pytest.mark.parametrize(("text", "message", "excerpt"), MISTAKES)
def test_a_mistake_of_any_stage_is_told(
    text: str, message: str, excerpt: str, context: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (context / "Dockerfile").write_text(text)
    assert main.main(["check"]) == 1
    said = capsys.readouterr().err
    assert excerpt in said
    assert message in said.splitlines()[-1]


def test_what_an_unknown_image_may_define_is_no_mistake(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (context / "Dockerfile").write_text("FROM unknown AS one\nSTOPSIGNAL $SIGNAL\nFROM one\nVOLUME ${DATA:?no data}\n")
    assert main.main(["check"]) == 0
    assert capsys.readouterr().out == "Check complete, no warnings found.\n"


def test_only_the_stages_of_the_target_are_tried(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (context / "Dockerfile").write_text("FROM scratch AS good\nCOPY file /\nFROM scratch AS bad\nSTOPSIGNAL none\n")
    assert main.main(["check", "--target", "good"]) == 0
    assert main.main(["check", "--target", "bad"]) == 1
    assert "SOURCE_DATE_EPOCH" not in capsys.readouterr().err
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    assert main.main(["check", "--build-arg", "SOURCE_DATE_EPOCH=context"]) == 0
    assert main.main(["check", "--build-arg", "SOURCE_DATE_EPOCH=tomorrow"]) == 1
    assert "SOURCE_DATE_EPOCH" in capsys.readouterr().err

"""What a person is shown when a build fails."""

import pytest

from builder import errors
from builder.dockerfile.source import Source, SourceRange

TEXT = "FROM a\nRUN one \\\n  two\nCOPY b c\nUSER d\nCMD e\n"
SOURCES = {"Dockerfile": Source("Dockerfile", TEXT)}


def test_excerpt_marks_the_lines() -> None:
    assert SOURCES["Dockerfile"].excerpt(SourceRange("Dockerfile", 2, 3)).splitlines() == [
        "Dockerfile:2",
        "--------------------",
        "   1 |     FROM a",
        "   2 | >>> RUN one \\",
        "   3 | >>>   two",
        "   4 |     COPY b c",
        "   5 |     USER d",
        "--------------------",
    ]


@pytest.mark.parametrize(("start", "end"), [(0, 0), (7, 9), (5, 4)])
def test_excerpt_of_lines_that_are_not_there(start: int, end: int) -> None:
    assert SOURCES["Dockerfile"].excerpt(SourceRange("Dockerfile", start, end)) == ""


def test_excerpt_of_a_range_that_reaches_beyond_the_end() -> None:
    assert SOURCES["Dockerfile"].excerpt(SourceRange("Dockerfile", 6, 9)).splitlines()[-2] == "   6 | >>> CMD e"


def test_render_with_hints() -> None:
    error = errors.DockerfileError("no such thing", source=SourceRange("Dockerfile", 6, 6), hints=("try", "else"))
    assert errors.render(error, SOURCES).splitlines()[-3:] == ["error: no such thing", "hint: try", "hint: else"]


def test_render_without_the_text_names_the_place() -> None:
    error = errors.DockerfileError("no such thing", source=SourceRange("Dockerfile", 6, 6))
    assert errors.render(error, {}) == "error: Dockerfile:6: no such thing"


def test_render_keeps_the_output_of_a_step() -> None:
    error = errors.StepFailed("it failed", status=3, output=("one", "two"))
    assert errors.render(error, {}) == "------\n > one\n > two\n------\nerror: it failed"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.BuildError("x"), 1),
        (errors.BuildError("x", exit_status=9), 9),
        (errors.UsageError("x"), 2),
        (errors.StepFailed("x", status=137), 137),
        (errors.Interrupted(), 130),
    ],
)
def test_exit_status(error: errors.BuildError, status: int) -> None:
    assert error.exit_status == status


def test_a_place_is_given_once() -> None:
    first, second = SourceRange("a", 1, 1), SourceRange("b", 2, 2)
    assert errors.ContextError("x").at(first).at(second).source == first


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/a b", "'/a b': no such file or directory"),
        ("/" + "x" * 399, f"'/{'x' * 399}': no such file or directory"),
        ("/b" + "x" * 4000 + "/end", f"'/b{'x' * 198}…{'x' * 96}/end': no such file or directory"),
    ],
)
def test_a_path_is_as_long_as_somebody_reads(path: str, shown: str) -> None:
    assert errors.describe_os_error(FileNotFoundError(2, "", path)) == shown

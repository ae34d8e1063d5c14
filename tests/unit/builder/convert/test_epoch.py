"""Where the time is to be found that SOURCE_DATE_EPOCH names."""

from __future__ import annotations

import pytest

from builder.convert.epoch import ContextTime, EpochSource, plan_epoch
from builder.convert.named import DIRECTORY, NamedContext
from builder.dockerfile.parser import parse
from builder.errors import DockerfileError
from builder.graph import GitSource, HttpSource
from layers.platform import Platform

CONTEXTS = {"Sources": NamedContext(DIRECTORY, "/sources", fetched=True)}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def plan(text: str, **build_args: str) -> EpochSource | None:
    return plan_epoch(parse(text, "Dockerfile"), build_args, Platform("linux", "amd64"), CONTEXTS)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("", None),
        ("1700000501", None),
        ("0", None),
        ("context", ContextTime("")),
        ("sources", ContextTime("Sources")),
        ("src", HttpSource("https://h/d/x.tgz", "x.tgz", "")),
        ("SRC", HttpSource("https://h/d/x.tgz", "x.tgz", "")),
        ("repo", GitSource("https://h/r.git", "v2", "", True, COMMIT)),
    ],
)
def test_what_it_names(given: str, found: EpochSource | None) -> None:
    text = (
        "ARG HOST=h\nFROM scratch AS src\nARG HOST\nARG FILE=d/x\nADD https://$HOST/$FILE.tgz /\n"
        "FROM scratch AS repo\nARG TAG=v1\nARG SUM\nADD --keep-git-dir --checksum=$SUM https://h/r.git#$TAG /\n"
        "FROM scratch\n"
    )
    arguments = {"TAG": "v2", "SUM": COMMIT}
    assert plan(text, SOURCE_DATE_EPOCH=given, **arguments) == found
    assert plan(f"ARG SOURCE_DATE_EPOCH={given}\n{text}", **arguments) == found
    assert plan(f"ARG SOURCE_DATE_EPOCH=context\n{text}", SOURCE_DATE_EPOCH=given, **arguments) == found


def test_nobody_asks() -> None:
    assert plan("FROM scratch\nARG SOURCE_DATE_EPOCH=src\n") is None


@pytest.mark.parametrize(
    ("stage", "line", "message"),
    [
        ("FROM a AS src\nADD https://h/x /", 1, "must be FROM scratch"),
        ("FROM scratch AS src\nADD https://h/x /\nRUN x", 3, "must be ARG and one ADD alone, not RUN"),
        ("FROM scratch AS src\nADD https://h/x /\nADD https://h/y /", 3, "must be ARG and one ADD alone, not ADD"),
        ("FROM scratch AS src\nCOPY x /", 2, "must be ARG and one ADD alone, not COPY"),
        ("FROM scratch AS src\nADD x /", 2, "must ADD one URL or repository"),
        ("FROM scratch AS src\nADD https://h/x https://h/y /", 2, "must ADD one URL or repository"),
        ("FROM scratch AS src\nADD <<E /x\nE", 2, "must ADD one URL or repository"),
        ("FROM scratch AS src\nARG x", 1, "must ADD one URL or repository"),
        ("FROM scratch AS src\nADD --checksum=sha256:0 https://h/x /", 2, "--checksum"),
    ],
)
def test_stages_that_have_no_time(stage: str, line: int, message: str) -> None:
    with pytest.raises(DockerfileError, match=message) as caught:
        plan(f"{stage}\nFROM scratch\n", SOURCE_DATE_EPOCH="src")
    assert caught.value.source is not None
    assert caught.value.source.start == line


def test_a_name_that_is_none() -> None:
    with pytest.raises(DockerfileError, match="'contxt' is neither seconds since 1970, nor a context, nor a") as caught:
        plan("FROM scratch\n", SOURCE_DATE_EPOCH="contxt")
    assert caught.value.hints == ("did you mean context?",)

"""What the command line puts into a Dockerfile."""

from __future__ import annotations

import pytest

from builder.amend import amend
from builder.convert import convert
from builder.dockerfile.parser import parse
from layers.platform import Platform


def test_the_first_from_alone_is_another() -> None:
    dockerfile = parse("ARG V=1\nFROM a:$V AS one\nFROM b\nFROM a\n", "Dockerfile")
    amended = amend(dockerfile, "c:2", {})
    assert [stage.start.base for stage in amended.stages] == ["c:2", "b", "a"]
    assert amended.stages[0].start.origin == dockerfile.stages[0].start.origin


@pytest.mark.parametrize("value", ["", "b", "b c", "$A", "${A:?}", "it's", '"', "\\", "a\\$b", "'$x'", "ü"])
@pytest.mark.parametrize("head", ["", "# escape=`\n"])
def test_variables_have_the_value_as_it_was_given(value: str, head: str) -> None:
    dockerfile = parse(f"{head}FROM scratch AS one\nENV A=other\nFROM one\nCMD true\n", "Dockerfile")
    graph = convert(
        amend(dockerfile, None, {"A": value}),
        {},
        build_args={},
        target=None,
        platform=Platform("linux", "amd64"),
    )
    assert f"A={value}" in graph.config.env

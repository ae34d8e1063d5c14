"""Where dockerfile-parse reads differently; the known differences of ADR 0010, each with its line."""

import pytest

from builder.dockerfile.opinion import second_opinion
from builder.dockerfile.source import Source


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("FROM a\nRUN <<E\nFROM evil\nE\n", 2, "reads RUN in lines 2 to 2"),
        ("FROM a\nRUN one \\\n\n  two\n", 2, "reads RUN in lines 2 to 3"),
        ("FROM a\nRUN one \\\n", 2, "does not see RUN"),
        ("FROM a\nRUN echo a\\\\\nUSER b\n", 2, "reads RUN in lines 2 to 3"),
        ("# check=skip=all\n# escape=`\nFROM a\nRUN b `\n c\n", 4, "reads RUN in lines 4 to 4"),
        ("FROM a\nCMD", 2, "does not see CMD"),
    ],
)
def test_known_differences(text: str, line: int, part: str) -> None:
    (finding,) = second_opinion(Source("Dockerfile", text))
    assert finding.source is not None
    assert finding.source.start == line
    assert part in finding.message


@pytest.mark.parametrize(
    "text",
    [
        "FROM a AS b\nRUN one \\\n# remark\n  two\nCOPY --from=b x y\n",
        "# syntax=docker/dockerfile:1\n# escape=`\nFROM a\nRUN b `\n c\n",
        "from a\r\nenv b=c\r\n",
        'FROM a\nCMD ["a", "b"]\n',
    ],
)
def test_alike(text: str) -> None:
    assert second_opinion(Source("Dockerfile", text)) == ()

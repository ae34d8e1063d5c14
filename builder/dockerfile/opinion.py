"""A second opinion on a Dockerfile: where dockerfile-parse, which other tools build on, reads it differently.

It is no authority: it knows no heredocs and ends a continued instruction at a blank line (docs/adr/0010).  A file that
both read alike is understood by those tools as well.

Invariant: dockerfile-parse is imported only here, and only when somebody asks; building never does.
"""

from __future__ import annotations

from io import BytesIO
from itertools import zip_longest

from builder.dockerfile.lexer import lex
from builder.dockerfile.source import Finding, Source, SourceRange
from unionfs.namedtuple import NamedTuple

RULE = "ReadDifferently"


class Reading(NamedTuple):
    """An instruction as one of the two reads it: keyword in upper case, its lines, its words."""

    keyword: str
    start: int
    end: int
    words: tuple[str, ...]


def second_opinion(source: Source) -> tuple[Finding, ...]:
    """Return a finding for the first statement that dockerfile-parse reads differently, none when all are alike.

    What follows the first difference depends on it, so no more than one is told.

    Raises:
        DockerfileError: this project's own grammar refuses the text.
    """
    for own, other in zip_longest(own_readings(source), other_readings(source)):
        if own == other:
            continue
        shown = own or other
        assert shown is not None  # noqa: S101 - zip_longest ends with the longer one
        place = SourceRange(source.name, shown.start, shown.end)
        if other is None:
            return (Finding(RULE, f"dockerfile-parse does not see {shown.keyword} here", place),)
        message = f"dockerfile-parse reads {other.keyword} in lines {other.start} to {other.end} here"
        return (Finding(RULE, message, place),)
    return ()


def own_readings(source: Source) -> tuple[Reading, ...]:
    """Return the statements of ``source``."""
    return tuple(
        Reading(
            one.keyword.upper(),
            one.origin.source.start,
            one.origin.source.end,
            tuple(one.origin.text.split()[1:]),
        )
        for one in lex(source).statements
    )


def other_readings(source: Source) -> tuple[Reading, ...]:
    """Return the statements as dockerfile-parse sees them, comments left out."""
    from dockerfile_parse import DockerfileParser

    content = BytesIO(source.text.encode("utf-8", "replace"))
    return tuple(
        Reading(entry["instruction"], entry["startline"] + 1, entry["endline"] + 1, tuple(entry["value"].split()))
        # the library asks for a file of text in its annotation and for one of bytes in its code
        for entry in DockerfileParser(fileobj=content).structure  # pyright: ignore[reportArgumentType] - see above
        if entry["instruction"] != "COMMENT"
    )

"""Checks of a Dockerfile: the rules of the reference frontend's linter, by their names there.

``check`` looks at all stages, without building.  Rules that need more than the text are checked where the caller gives
it: ``bases`` for UndefinedVar and InvalidBaseImagePlatform (a variable may come from a base image), ``ignore`` for
CopyIgnoredFile.  ``# check=skip=A,B;error=true;experimental=C`` at the head of the file, or in a comment above an
instruction for that one, says which rules count.

Invariants: pure; findings come in the order of lines; every name in RULES is checked, and every rule checked is there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from builder.dockerfile.ignore import Matcher
from builder.dockerfile.instructions import Dockerfile, Origin
from builder.dockerfile.source import Finding
from builder.graph import BaseImage
from builder.lint import scopes, text
from builder.lint.settings import OF_STAGES, RULES, Settings, parse_settings
from layers.platform import Platform, host

__all__ = ["RULES", "Settings", "check", "parse_settings", "settings_of"]

_NO_BASES: Mapping[str, BaseImage] = {}
_NO_ARGUMENTS: Mapping[str, str] = {}


def settings_of(dockerfile: Dockerfile) -> Settings:
    """Return what the file's ``check`` directive says.

    Raises:
        DockerfileError: the directive is malformed.
    """
    return parse_settings(dockerfile.directives.check)


def check(
    dockerfile: Dockerfile,
    *,
    bases: Mapping[str, BaseImage] = _NO_BASES,
    build_args: Mapping[str, str] = _NO_ARGUMENTS,
    platform: Platform | None = None,
    ignore: Matcher | None = None,
    settings: Settings | None = None,
    stages: Collection[int] | None = None,
) -> tuple[Finding, ...]:
    """Return what the rules find, in order of lines.

    ``settings`` replaces what the file says of itself; comments above instructions count in any case. ``stages`` are
    the numbers of those that are built, None for all: of others only what concerns the file as a whole is told.

    Raises:
        DockerfileError: the ``check`` directive or such a comment is malformed.
    """
    chosen = settings_of(dockerfile) if settings is None else settings
    where = platform or host()
    found = [
        *_from_parser(dockerfile),
        *text.check_stages(dockerfile),
        *text.check_instructions(dockerfile),
        *scopes.check_scopes(dockerfile, bases, build_args, where, ignore),
    ]
    kept = [finding for origin, finding in found if _for_origin(chosen, origin).wants(finding.rule)]
    if stages is not None:
        left_out = [stage for stage in dockerfile.stages if stage.number not in stages]
        lines = {line for stage in left_out for one in stage.instructions for line in _lines(one.origin)}
        lines |= {line for stage in left_out for line in _lines(stage.start.origin)}
        kept = [one for one in kept if one.rule not in OF_STAGES or one.source is None or one.source.start not in lines]
    return tuple(sorted(kept, key=lambda finding: (finding.source or ("", 0, 0))[1:]))


def _lines(origin: Origin) -> range:
    return range(origin.source.start, origin.source.end + 1)


def _from_parser(dockerfile: Dockerfile) -> Iterator[tuple[Origin, Finding]]:
    for finding in dockerfile.warnings:
        if finding.rule in RULES and finding.source is not None:
            yield Origin(finding.source, "", ""), finding


def _for_origin(settings: Settings, origin: Origin) -> Settings:
    for comment in origin.comments:
        name, equals, value = comment.partition("=")
        if equals and name.strip().lower() == "check":
            return settings.merged(parse_settings(value.strip().partition(" ")[0]))
    return settings

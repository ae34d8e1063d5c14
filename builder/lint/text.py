"""Rules about how a Dockerfile is written: no variable and no image has to be known.

Invariants: every function yields the instruction's origin with the finding, for the comments that switch rules off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

from builder.dockerfile.instructions import (
    Arg,
    Cmd,
    Dockerfile,
    Entrypoint,
    Env,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Origin,
)
from builder.dockerfile.source import Finding

Found: TypeAlias = Iterator[tuple[Origin, Finding]]

_TELLING = r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)"
_HARMLESS = r"(?:_|^)(?:public|file|version)(?:_|$)"
_RESERVED = frozenset({"scratch", "context"})
_WORDS_WITH_NAME = 3


def finding(rule: str, message: str, origin: Origin) -> tuple[Origin, Finding]:
    """Return a finding at ``origin``."""
    return origin, Finding(rule, message, origin.source)


def check_stages(dockerfile: Dockerfile) -> Found:
    """Yield what is to be said of FROM lines and stage names."""
    seen: set[str] = set()
    for stage in dockerfile.stages:
        start = stage.start
        yield from _check_casing_of_from(start)
        if start.name in _RESERVED:
            yield finding("ReservedStageName", f"stage name {start.name!r} is reserved", start.origin)
        if start.name and start.name in seen:
            yield finding("DuplicateStageName", f"stage name {start.name!r} is given twice", start.origin)
        seen.add(start.name)


def check_instructions(dockerfile: Dockerfile) -> Found:
    """Yield what is to be said of single instructions, and of several of a kind."""
    yield from _check_keywords(dockerfile)
    for argument in dockerfile.global_args:
        yield from _check_description("ARG", [one.name for one in argument.declarations], argument.origin)
        yield from _check_secrets(argument)
    for stage in dockerfile.stages:
        if stage.start.name:
            yield from _check_description("FROM", [stage.start.name], stage.start.origin)
        yield from _check_repeated(stage.instructions)
        for instruction in stage.instructions:
            yield from _check_instruction(instruction)


def _check_casing_of_from(start: From) -> Found:
    words = [word for word in start.origin.text.split()[1:] if not word.startswith("--")]
    if len(words) != _WORDS_WITH_NAME:
        return
    _, keyword, name = words
    if name != name.lower():
        yield finding("StageNameCasing", f"stage name {name!r} should be lower case", start.origin)
    written = start.origin.keyword
    wanted = keyword.lower() if written.islower() else keyword.upper() if written.isupper() else keyword
    if keyword != wanted:
        yield finding("FromAsCasing", f"{keyword!r} should have the case of {written!r}", start.origin)


def _check_keywords(dockerfile: Dockerfile) -> Found:
    origins = [one.origin for stage in dockerfile.stages for one in (stage.start, *stage.instructions)]
    lower = sum(origin.keyword.islower() for origin in origins)
    upper = sum(origin.keyword.isupper() for origin in origins)
    for origin in origins:
        keyword = origin.keyword
        if keyword != (keyword.lower() if lower > upper else keyword.upper()):
            case = "lower case" if lower > upper else "upper case"
            message = f"keyword {keyword!r} should be {case} as most are"
            yield finding("ConsistentInstructionCasing", message, origin)


def _check_instruction(instruction: Instruction) -> Found:
    origin = instruction.origin
    if isinstance(instruction, Maintainer):
        yield finding("MaintainerDeprecated", "MAINTAINER is deprecated, use a LABEL", origin)
    elif isinstance(instruction, Env | Label):
        keyword = "ENV" if isinstance(instruction, Env) else "LABEL"
        if not instruction.pairs[0].delimited:
            message = f"'{keyword} name=value' should be used instead of '{keyword} name value'"
            yield finding("LegacyKeyValueFormat", message, origin)
        if isinstance(instruction, Env):
            yield from _check_secrets(instruction)
    elif isinstance(instruction, Arg):
        yield from _check_description("ARG", [one.name for one in instruction.declarations], origin)
        yield from _check_secrets(instruction)


def _check_secrets(instruction: Arg | Env) -> Found:
    if isinstance(instruction, Arg):
        keyword, names = "ARG", [one.name for one in instruction.declarations]
    else:
        keyword, names = "ENV", [pair.key for pair in instruction.pairs]
    for name in names:
        if re.search(_TELLING, name, re.IGNORECASE) and not re.search(_HARMLESS, name, re.IGNORECASE):
            message = (
                f"{keyword} {name!r} looks like a secret, which would stay in the image: use RUN --mount=type=secret"
            )
            yield finding("SecretsUsedInArgOrEnv", message, instruction.origin)


def _check_description(keyword: str, names: list[str], origin: Origin) -> Found:
    if not origin.comments or origin.comments[-1].split(" ")[0] in names:
        return
    name = names[0] if len(names) == 1 else "<name>"
    message = f"the comment above {keyword} should have the form '# {name} <description>'"
    yield finding("InvalidDefinitionDescription", message, origin)


def _check_repeated(instructions: tuple[Instruction, ...]) -> Found:
    for kind in (Cmd, Entrypoint, Healthcheck):
        same = [one for one in instructions if isinstance(one, kind)]
        for ignored in same[:-1]:
            keyword = ignored.origin.keyword.upper()
            message = f"only the last {keyword} of a stage counts, this one is ignored"
            yield finding("MultipleInstructionsDisallowed", message, ignored.origin)

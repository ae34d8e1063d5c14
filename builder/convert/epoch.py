"""What ``SOURCE_DATE_EPOCH`` asks for when it is no number: the time of a context, or of what a stage fetches.

    context             the build context: when its commit was made, or its archive last modified
    NAME                the context that --build-context gave this name, in the same way
    STAGE               a stage FROM scratch with nothing but ARG and one remote ADD: the time of what it fetches

Invariant: pure; the answer is where to look.  Source: ``dockerfile2llb/epoch.go`` of the reference frontend, 1.26.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from builder.convert.arguments import EPOCH, add_global_arguments, automatic_arguments, is_seconds, mentions_epoch
from builder.convert.named import NamedContext, NameTable
from builder.convert.remote import GitFlags, is_remote, parse_remote
from builder.convert.stages import SCRATCH
from builder.dockerfile import shell
from builder.dockerfile.instructions import Add, Arg, Dockerfile, Stage
from builder.dockerfile.suggest import did_you_mean
from builder.errors import BuildError, DockerfileError
from builder.graph import GitSource, HttpSource
from layers.platform import Platform, host
from unionfs.namedtuple import NamedTuple

MAIN = "context"


class ContextTime(NamedTuple):
    """The time of the context called ``name``, empty for the build context."""

    name: str


EpochSource: TypeAlias = ContextTime | HttpSource | GitSource


def plan_epoch(
    dockerfile: Dockerfile,
    build_args: Mapping[str, str],
    platform: Platform,
    contexts: Mapping[str, NamedContext],
) -> EpochSource | None:
    """Return where the time is to be found, None when there is none or it is given as a number.

    Raises:
        DockerfileError: it names nothing, or a stage that is more than one remote ADD.
    """
    if not mentions_epoch(dockerfile, build_args):
        return None
    rules = shell.Rules(escape=dockerfile.directives.escape)
    automatic = automatic_arguments(build_args, host(), platform, "")
    scope = add_global_arguments(automatic, dockerfile.global_args, build_args, rules)
    text = build_args.get(EPOCH, scope.get(EPOCH, ""))
    if not text or is_seconds(text):
        return None
    if text == MAIN:
        return ContextTime("")
    named = NameTable(contexts).find(text, host())
    if named is not None:
        return ContextTime(named[0])
    for stage in dockerfile.stages:
        if stage.start.name == text.lower():
            without = {name: value for name, value in scope.items() if name != EPOCH}
            return _source_of(stage, without, build_args, rules)
    known = [MAIN, *contexts, *(stage.start.name for stage in dockerfile.stages if stage.start.name)]
    message = f"{EPOCH}={text!r} is neither seconds since 1970, nor a context, nor a stage"
    raise DockerfileError(message, hints=did_you_mean(text, known))


def _source_of(
    stage: Stage, variables: dict[str, str], build_args: Mapping[str, str], rules: shell.Rules
) -> HttpSource | GitSource:
    if shell.expand(stage.start.base, variables, rules).text != SCRATCH:
        raise _refused(stage, "must be FROM scratch").at(stage.start.origin.source)
    found: HttpSource | GitSource | None = None
    for instruction in stage.instructions:
        place = instruction.origin.source
        try:
            if isinstance(instruction, Arg):
                variables = add_global_arguments(variables, (instruction,), build_args, rules)
            elif isinstance(instruction, Add) and found is None:
                found = _remote(stage, instruction, variables, rules)
            else:
                raise _refused(stage, f"must be ARG and one ADD alone, not {instruction.origin.keyword.upper()}")
        except BuildError as error:
            raise error.at(place) from None
    if found is None:
        raise _refused(stage, "must ADD one URL or repository").at(stage.start.origin.source)
    return found


def _remote(stage: Stage, instruction: Add, variables: Mapping[str, str], rules: shell.Rules) -> HttpSource | GitSource:
    sources = [shell.expand(source, variables, rules).text for source in instruction.sources]
    if len(sources) != 1 or instruction.heredocs or not is_remote(sources[0]):
        raise _refused(stage, "must ADD one URL or repository")
    checksum = shell.expand(instruction.checksum, variables, rules).text
    return parse_remote(sources[0], GitFlags(instruction.keep_git_dir, checksum))


def _refused(stage: Stage, what: str) -> DockerfileError:
    return DockerfileError(f"the stage {stage.name!r}, whose time {EPOCH} asks for, {what}")

"""Rules about what words mean: they need variables, base images or the ignore file.

Invariants: a stage's scope is what it inherits and what its instructions add, in order; where a base image is not
known, nothing is said of variables that it may define.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping

from builder.convert.arguments import add_global_arguments, automatic_arguments
from builder.dockerfile import instructions, shell
from builder.dockerfile.ignore import Matcher
from builder.dockerfile.instructions import Dockerfile, Instruction, Stage
from builder.dockerfile.suggest import nearest
from builder.errors import BuildError
from builder.graph import BaseImage
from builder.lint.text import Found, finding
from builder.lint.words import expanded_words
from layers import platform as platforms
from layers.config import DEFAULT_PATH
from layers.errors import FormatError
from layers.platform import Platform, host
from layers.reference import Reference
from unionfs.namedtuple import NamedTuple

_SCRATCH = "scratch"
_NO_ARGUMENTS: Mapping[str, str] = {}
_IN_DOCUMENTS = shell.Rules(plain_quotes=True)


class _Surroundings(NamedTuple):
    """What all stages share."""

    bases: Mapping[str, BaseImage]
    build_args: Mapping[str, str]
    globals: Mapping[str, str]
    declared_globals: frozenset[str]
    rules: shell.Rules
    platform: Platform
    ignore: Matcher | None


class _Scope:
    """The variables of one stage; ``known`` is false when an unknown base image may define more."""

    __slots__ = ("declared", "known", "shell_set", "variables", "workdir_set")

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.declared: set[str] = set()
        self.known = True
        self.shell_set = False
        self.workdir_set = False

    def inherited(self) -> _Scope:
        copy = _Scope()
        copy.variables = dict(self.variables)
        copy.declared = set(self.declared)
        copy.known, copy.shell_set, copy.workdir_set = self.known, self.shell_set, self.workdir_set
        return copy


def check_scopes(
    dockerfile: Dockerfile,
    bases: Mapping[str, BaseImage],
    build_args: Mapping[str, str],
    platform: Platform,
    ignore: Matcher | None,
) -> Found:
    """Yield what is to be said of variables, paths, ports, commands and platforms."""
    rules = shell.Rules(escape=dockerfile.directives.escape)
    last = dockerfile.stages[-1].start.name
    automatic = automatic_arguments(build_args, host(), platform, last)
    try:
        values = add_global_arguments(automatic, dockerfile.global_args, build_args, rules)
        plain = automatic_arguments(_NO_ARGUMENTS, host(), platform, last)
        defaults = add_global_arguments(plain, dockerfile.global_args, _NO_ARGUMENTS, rules)
    except BuildError:
        return  # the build says so itself
    names = frozenset(one.name for arg in dockerfile.global_args for one in arg.declarations)
    around = _Surroundings(bases, build_args, values, names | values.keys(), rules, platform, ignore)
    scopes: dict[str, _Scope] = {}
    for stage in dockerfile.stages:
        yield from _check_from(stage, around, defaults)
        scope = _start(stage, around, scopes)
        for written in stage.instructions:
            for instruction in _parts(written):
                yield from _check_words(instruction, scope, around)
                yield from _check_instruction(instruction, scope, around)
                _apply(instruction, scope, around)
        if stage.start.name:
            scopes[stage.start.name] = scope


def _parts(instruction: Instruction) -> Iterable[Instruction]:
    """Return ARG as one instruction a name, since each default sees the names before it; others as they are."""
    if not isinstance(instruction, instructions.Arg):
        return (instruction,)
    return [instruction._replace(declarations=(one,)) for one in instruction.declarations]


def _expand(text: str, variables: Mapping[str, str], rules: shell.Rules) -> shell.Expansion:
    """Return the expansion; a malformed word is the build's to report and expands to nothing here."""
    try:
        return shell.expand(text, variables, rules)
    except BuildError:
        return shell.Expansion("", frozenset(), frozenset())


def _start(stage: Stage, around: _Surroundings, scopes: Mapping[str, _Scope]) -> _Scope:
    name = _expand(stage.start.base, around.globals, around.rules).text
    if name.lower() in scopes:
        return scopes[name.lower()].inherited()
    scope = _Scope()
    base = around.bases.get(name)
    scope.known = name == _SCRATCH or base is not None
    if base is not None:
        scope.shell_set = bool(base.config.shell)
        scope.variables.update((entry.partition("=")[0], entry.partition("=")[2]) for entry in base.config.env)
    scope.variables.setdefault("PATH", DEFAULT_PATH)
    return scope


def _check_from(stage: Stage, around: _Surroundings, defaults: Mapping[str, str]) -> Found:
    start = stage.start
    base = _expand(start.base, around.globals, around.rules)
    platform = _expand(start.platform, around.globals, around.rules)
    for name in sorted((base.missing | platform.missing) - around.declared_globals):
        near = nearest(name, around.declared_globals)
        message = f"${name} in FROM is not declared by an ARG before it" + (f", did you mean ${near}?" if near else "")
        yield finding("UndefinedArgInFrom", message, start.origin)
    if not _is_reference(_expand(start.base, defaults, around.rules).text):
        message = f"{start.base!r} is empty or no image name with the defaults of its arguments"
        yield finding("InvalidDefaultArgInFrom", message, start.origin)
    if platform.used == frozenset({"TARGETPLATFORM"}) and platform.text == around.globals["TARGETPLATFORM"]:
        message = f"--platform={start.platform} is the default"
        yield finding("RedundantTargetPlatform", message, start.origin)
    if start.platform and not platform.used | platform.missing and "$" not in start.platform:
        yield from _check_constant(stage, platform.text)
    yield from _check_base(stage, base.text, platform.text, around)


def _is_reference(name: str) -> bool:
    try:
        Reference.parse(name)
    except FormatError:
        return False
    return True


def _check_constant(stage: Stage, text: str) -> Found:
    try:
        wanted = platforms.parse(text)
    except FormatError:
        return
    if wanted.os not in stage.start.name and wanted.architecture not in stage.start.name:
        message = f"--platform={text} is a constant: the stage is built for no other platform"
        yield finding("FromPlatformFlagConstDisallowed", message, stage.start.origin)


def _check_base(stage: Stage, name: str, platform: str, around: _Surroundings) -> Found:
    base = around.bases.get(name)
    if base is None:
        return
    try:
        wanted = platforms.parse(platform) if platform else around.platform
    except FormatError:
        return
    got = base.config.platform.normalised()
    if (got.os, got.architecture) != (wanted.os, wanted.architecture):
        message = f"the base image {name} is for {got}, the stage for {wanted}"
        yield finding("InvalidBaseImagePlatform", message, stage.start.origin)


def _check_words(instruction: Instruction, scope: _Scope, around: _Surroundings) -> Found:
    if not scope.known:
        return
    missing: set[str] = set()
    for word in expanded_words(instruction, around.build_args):
        missing |= _expand(word, scope.variables, around.rules).missing
    if isinstance(instruction, instructions.Copy | instructions.Add):
        for document in instruction.heredocs:
            if document.expand:
                missing |= _expand(document.content, scope.variables, _IN_DOCUMENTS).missing
    for name in sorted(missing - scope.declared):
        near = nearest(name, scope.variables)
        message = f"the variable ${name} is not defined" + (f", did you mean ${near}?" if near else "")
        yield finding("UndefinedVar", message, instruction.origin)


def _check_instruction(instruction: Instruction, scope: _Scope, around: _Surroundings) -> Found:
    origin = instruction.origin
    match instruction:
        case instructions.Workdir():
            path = _expand(instruction.path, scope.variables, around.rules).text
            # what a variable of an unknown image begins with is not known either
            told = scope.known or "$" not in instruction.path
            if not scope.workdir_set and told and not path.startswith("/"):
                message = f"the relative path {path!r} depends on the working directory of the base image"
                yield finding("WorkdirRelativePath", message, origin)
        case instructions.Cmd() | instructions.Entrypoint():
            if instruction.command.shell_form and not scope.shell_set:
                message = f"{origin.keyword.upper()} should be a JSON array, so that signals reach the program"
                yield finding("JSONArgsRecommended", message, origin)
        case instructions.Expose():
            for port in instruction.ports:
                yield from _check_port(instruction, _expand(port, scope.variables, around.rules).text)
        case instructions.Add():
            yield from _check_ignored(instruction, scope, around)
        case instructions.Copy(from_=""):
            yield from _check_ignored(instruction, scope, around)
        case _:
            return


def _check_port(instruction: instructions.Expose, ports: str) -> Found:
    from builder.convert.ports import split_specification

    for port in ports.split():
        address, published, container = split_specification(port)
        protocol = container.partition("/")[2]
        if protocol != protocol.lower():
            yield finding("ExposeProtoCasing", f"the protocol in {port!r} should be lower case", instruction.origin)
        if address or published:
            message = f"{port!r} names more than a port of the container"
            yield finding("ExposeInvalidFormat", message, instruction.origin)


def _check_ignored(instruction: instructions.Copy | instructions.Add, scope: _Scope, around: _Surroundings) -> Found:
    ignore = around.ignore
    # with exceptions it cannot be told from the name alone what of it is left
    if ignore is None or any(brings_back for brings_back, _ in ignore.patterns):
        return
    everything = {"*", "**", "**/*"} & {pattern for _, pattern in ignore.patterns}
    for word in instruction.sources:
        source = posixpath.normpath(_expand(word, scope.variables, around.rules).text).lstrip("/")
        if ignore.excluded(source) or (everything and source in {"", "."}):
            message = f"{word!r} is left out by the ignore file"
            yield finding("CopyIgnoredFile", message, instruction.origin)


def _apply(instruction: Instruction, scope: _Scope, around: _Surroundings) -> None:
    """Add to the scope what the instruction defines."""
    match instruction:
        case instructions.Env():
            new = [
                (
                    _expand(pair.key, scope.variables, around.rules).text,
                    _expand(pair.value, scope.variables, around.rules).text,
                )
                for pair in instruction.pairs
            ]
            scope.variables.update(new)
        case instructions.Arg():
            for name, default in instruction.declarations:
                scope.declared.add(name)
                value = around.build_args.get(name)
                if value is None and default is not None:
                    value = _expand(default, scope.variables, around.rules).text
                elif value is None:
                    value = around.globals.get(name)
                if value is not None:
                    scope.variables[name] = value
        case instructions.Workdir():
            scope.workdir_set = True
        case instructions.Shell():
            scope.shell_set = True
        case _:
            return

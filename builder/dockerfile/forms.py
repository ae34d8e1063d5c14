"""One statement into one instruction: arguments counted, flags read, forms told apart.

Invariants: pure; a function per instruction; an error carries the statement's lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from builder.dockerfile import flags, instructions, words
from builder.dockerfile.characters import SPACE_SET, SPACES
from builder.dockerfile.instructions import CommandLine, Declaration, From, Heredoc, Instruction, Pair
from builder.dockerfile.lexer import Statement, parse_heredoc, split_statement
from builder.dockerfile.suggest import did_you_mean
from builder.errors import BuildError, DockerfileError

_STAGE_NAME = r"[a-z][a-z0-9-_.]*\Z"
_FROM_WORDS_WITH_NAME = 3
_SHORTEST_INTERVAL_NS = 1_000_000
_MOST_RETRIES = (1 << 31) - 1
_NEVER_TRIGGERED = frozenset({"ONBUILD", "FROM", "MAINTAINER"})

_NO_FLAGS: dict[str, str] = {}
_FROM_FLAGS = {"platform": flags.TEXT}
_RUN_FLAGS = {"mount": flags.LIST, "network": flags.TEXT, "security": flags.TEXT, "device": flags.LIST}
_COPY_FLAGS = {
    "from": flags.TEXT,
    "chown": flags.TEXT,
    "chmod": flags.TEXT,
    "link": flags.BOOLEAN,
    "exclude": flags.LIST,
    "parents": flags.BOOLEAN,
}
_ADD_FLAGS = {
    "chown": flags.TEXT,
    "chmod": flags.TEXT,
    "link": flags.BOOLEAN,
    "exclude": flags.LIST,
    "keep-git-dir": flags.BOOLEAN,
    "checksum": flags.TEXT,
    "unpack": flags.BOOLEAN,
}
_HEALTHCHECK_FLAGS = {
    "interval": flags.TEXT,
    "timeout": flags.TEXT,
    "start-period": flags.TEXT,
    "start-interval": flags.TEXT,
    "retries": flags.TEXT,
}


def parse_statement(statement: Statement, escape: str) -> From | Instruction:
    """Return the instruction that ``statement`` is.

    Raises:
        DockerfileError: no such instruction, or not in one of its forms; placed at the statement.
    """
    keyword = statement.keyword.upper()
    form = FORMS.get(keyword)
    try:
        if form is None:
            if not keyword:
                raise DockerfileError("the line continues, but nothing follows it")
            raise DockerfileError(f"unknown instruction {statement.keyword}", hints=did_you_mean(keyword, FORMS))
        return form(statement, escape)
    except BuildError as error:
        raise error.at(statement.origin.source) from error.__cause__


def _flags(statement: Statement, known: dict[str, str]) -> flags.Flags:
    return flags.parse_flags(statement.flags, known, statement.keyword.upper())


def _one_argument(statement: Statement) -> str:
    _flags(statement, _NO_FLAGS)
    if not statement.rest:
        raise DockerfileError(f"{statement.keyword.upper()} requires exactly one argument")
    return statement.rest


def _some_arguments(statement: Statement) -> str:
    if not statement.rest:
        raise DockerfileError(f"{statement.keyword.upper()} requires at least one argument")
    return statement.rest


def _command(text: str, heredocs: tuple[Heredoc, ...] = ()) -> CommandLine:
    array = words.parse_json_array(text)
    if array is not None:
        return CommandLine(tuple(array), shell_form=False)
    return CommandLine((text,) if text else (), shell_form=True, heredocs=heredocs)


def _list(text: str) -> list[str]:
    array = words.parse_json_array(text)
    return words.split_blanks(text) if array is None else array


def _pairs(statement: Statement, escape: str) -> tuple[Pair, ...]:
    """``K=V K2=V2``, or the old ``K V …``: which one it is, the first word tells."""
    _flags(statement, _NO_FLAGS)
    keyword = statement.keyword.upper()
    rest = _some_arguments(statement)
    found = words.split_quoted(rest, escape)
    if found and "=" not in found[0]:
        name, value = words.split_first(rest)
        if not value:
            raise DockerfileError(f"{keyword} requires a name and a value, got only {name!r}")
        return (Pair(name, value, delimited=False),)
    pairs: list[Pair] = []
    for word in found:
        name, equals, value = word.partition("=")
        if not equals:
            message = f"{keyword}: {word!r} is not of the form name=value"
            raise DockerfileError(message, hints=("quote a value that holds blanks",))
        if not name:
            raise DockerfileError(f"{keyword}: the name before {word!r} is empty")
        pairs.append(Pair(name, value))
    if not pairs:
        raise DockerfileError(f"{keyword} requires at least one argument")
    return tuple(pairs)


def _from(statement: Statement, _escape: str) -> From:
    given = _flags(statement, _FROM_FLAGS)
    found = words.split_blanks(statement.rest)
    name = ""
    if len(found) == _FROM_WORDS_WITH_NAME and found[1].upper() == "AS":
        name = found[2].lower()
        if not re.match(_STAGE_NAME, name):
            message = (
                f"stage name {found[2]!r} must begin with a letter and hold only letters, digits, '-', '_' and '.'"
            )
            raise DockerfileError(message)
    elif len(found) != 1:
        hint = "FROM image, or FROM image AS name"
        raise DockerfileError(f"FROM requires one or three arguments, got {len(found)}", hints=(hint,))
    return From(statement.origin, found[0], name, given.text("platform"))


def _arg(statement: Statement, escape: str) -> instructions.Arg:
    _flags(statement, _NO_FLAGS)
    declarations: list[Declaration] = []
    for word in words.split_quoted(_some_arguments(statement), escape):
        name, equals, default = word.partition("=")
        if not name:
            raise DockerfileError(f"ARG: the name before {word!r} is empty")
        declarations.append(Declaration(name, default if equals else None))
    return instructions.Arg(statement.origin, tuple(declarations))


def _run(statement: Statement, _escape: str) -> instructions.Run:
    given = _flags(statement, _RUN_FLAGS)
    network = given.text("network", "default").lower()
    if network not in {"default", "none", "host"}:
        raise DockerfileError(f"network {network!r} is not one of default, none, host")
    security = given.text("security", "sandbox").lower()
    if security not in {"sandbox", "insecure"}:
        raise DockerfileError(f"security {security!r} is not one of sandbox, insecure")
    command = _command(statement.rest, statement.heredocs)
    return instructions.Run(statement.origin, command, given.values("mount"), network, security, given.values("device"))


def _sources(statement: Statement) -> tuple[tuple[str, ...], tuple[Heredoc, ...], str]:
    """Return paths, documents and the destination of COPY or ADD."""
    keyword = statement.keyword.upper()
    found = _list(statement.rest)
    if len(found) <= 1:
        raise DockerfileError(f"{keyword} requires a source and a destination, got {len(found)} argument")
    *sources, destination = found
    if parse_heredoc(destination) is not None:
        raise DockerfileError(f"{keyword}: the destination {destination!r} must not be a heredoc")
    bodies = {heredoc.name: heredoc for heredoc in statement.heredocs}
    paths: list[str] = []
    documents: list[Heredoc] = []
    for source in sources:
        begun = parse_heredoc(source)
        document = bodies.get(begun.name) if begun is not None else None
        if document is None:
            paths.append(source)
        else:
            documents.append(document)
    return tuple(paths), tuple(documents), destination


def _copy(statement: Statement, _escape: str) -> instructions.Copy:
    given = _flags(statement, _COPY_FLAGS)
    sources, heredocs, destination = _sources(statement)
    return instructions.Copy(
        statement.origin,
        sources,
        heredocs,
        destination,
        from_=given.text("from"),
        chown=given.text("chown"),
        chmod=given.text("chmod"),
        link=bool(given.boolean("link")),
        parents=bool(given.boolean("parents")),
        excludes=given.values("exclude"),
    )


def _add(statement: Statement, _escape: str) -> instructions.Add:
    given = _flags(statement, _ADD_FLAGS)
    sources, heredocs, destination = _sources(statement)
    return instructions.Add(
        statement.origin,
        sources,
        heredocs,
        destination,
        chown=given.text("chown"),
        chmod=given.text("chmod"),
        link=bool(given.boolean("link")),
        excludes=given.values("exclude"),
        keep_git_dir=given.boolean("keep-git-dir"),
        checksum=given.text("checksum"),
        unpack=given.boolean("unpack"),
    )


def _env(statement: Statement, escape: str) -> instructions.Env:
    return instructions.Env(statement.origin, _pairs(statement, escape))


def _label(statement: Statement, escape: str) -> instructions.Label:
    return instructions.Label(statement.origin, _pairs(statement, escape))


def _maintainer(statement: Statement, _escape: str) -> instructions.Maintainer:
    return instructions.Maintainer(statement.origin, _one_argument(statement))


def _expose(statement: Statement, _escape: str) -> instructions.Expose:
    _flags(statement, _NO_FLAGS)
    return instructions.Expose(statement.origin, tuple(sorted(words.split_blanks(_some_arguments(statement)))))


def _volume(statement: Statement, _escape: str) -> instructions.Volume:
    _flags(statement, _NO_FLAGS)
    paths = tuple(path.strip(SPACES) for path in _list(_some_arguments(statement)))
    if not paths:
        raise DockerfileError("VOLUME requires at least one argument")
    if not all(paths):
        raise DockerfileError("VOLUME: a path must not be empty")
    return instructions.Volume(statement.origin, paths)


def _user(statement: Statement, _escape: str) -> instructions.User:
    return instructions.User(statement.origin, _one_argument(statement))


def _workdir(statement: Statement, _escape: str) -> instructions.Workdir:
    return instructions.Workdir(statement.origin, _one_argument(statement))


def _stop_signal(statement: Statement, _escape: str) -> instructions.StopSignal:
    return instructions.StopSignal(statement.origin, _one_argument(statement))


def _cmd(statement: Statement, _escape: str) -> instructions.Cmd:
    _flags(statement, _NO_FLAGS)
    return instructions.Cmd(statement.origin, _command(statement.rest))


def _entrypoint(statement: Statement, _escape: str) -> instructions.Entrypoint:
    _flags(statement, _NO_FLAGS)
    return instructions.Entrypoint(statement.origin, _command(statement.rest))


def _shell(statement: Statement, _escape: str) -> instructions.Shell:
    _flags(statement, _NO_FLAGS)
    array = words.parse_json_array(_some_arguments(statement))
    if array is None:
        raise DockerfileError(
            f"SHELL requires a JSON array, got {statement.rest!r}", hints=('SHELL ["/bin/sh", "-c"]',)
        )
    if not array:
        raise DockerfileError("SHELL requires at least one argument")
    return instructions.Shell(statement.origin, tuple(array))


def _healthcheck(statement: Statement, _escape: str) -> instructions.Healthcheck:
    rest = _some_arguments(statement)
    end = next((at for at, character in enumerate(rest) if character in SPACE_SET), len(rest))
    kind, text = rest[:end].upper(), rest[end:].strip(SPACES)
    if kind == "NONE":
        # flags are not looked at, as they have nothing to say
        if text:
            raise DockerfileError(f"HEALTHCHECK NONE takes no arguments, got {text!r}")
        return instructions.Healthcheck(statement.origin, None)
    given = _flags(statement, _HEALTHCHECK_FLAGS)
    if kind != "CMD":
        raise DockerfileError(f"HEALTHCHECK must be followed by CMD or NONE, got {rest[:end]!r}")
    command = _command(text)
    if not command.words:
        raise DockerfileError("HEALTHCHECK CMD requires a command")
    return instructions.Healthcheck(
        statement.origin,
        command,
        interval_ns=_interval(given, "interval"),
        timeout_ns=_interval(given, "timeout"),
        start_period_ns=_interval(given, "start-period"),
        start_interval_ns=_interval(given, "start-interval"),
        retries=_retries(given.text("retries")),
    )


def _interval(given: flags.Flags, name: str) -> int:
    text = given.text(name)
    if not text:
        return 0
    from builder.dockerfile.durations import parse_duration

    try:
        interval_ns = parse_duration(text)
    except ValueError as error:
        raise DockerfileError(f"--{name}: {error}") from None
    if interval_ns and interval_ns < _SHORTEST_INTERVAL_NS:
        raise DockerfileError(f"--{name}: {text} is shorter than 1ms")
    return interval_ns


def _retries(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"\+?[0-9]+", text) or int(text) > _MOST_RETRIES:
        raise DockerfileError(f"--retries: {text!r} is no count")
    return int(text)


def _onbuild(statement: Statement, escape: str) -> instructions.Onbuild:
    _flags(statement, _NO_FLAGS)
    expression = _some_arguments(statement)
    keyword, given, rest = split_statement(expression, escape)
    if keyword.upper() in _NEVER_TRIGGERED:
        raise DockerfileError(f"{keyword.upper()} cannot be triggered by ONBUILD")
    parse_statement(Statement(keyword, given, rest, statement.heredocs, statement.origin), escape)
    for heredoc in statement.heredocs:
        expression += f"\n{heredoc.body}{heredoc.name}"
    return instructions.Onbuild(statement.origin, expression)


Form: TypeAlias = Callable[[Statement, str], From | Instruction]

FORMS: dict[str, Form] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
"""Every instruction by its keyword."""

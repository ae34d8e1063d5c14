"""A whole Dockerfile: statements grouped into stages.

Invariants: a Dockerfile has at least one stage; only ARG stands before the first FROM; parsing never looks at files,
images or arguments, so that equal text gives an equal value.
"""

from __future__ import annotations

import re

from builder.dockerfile.forms import parse_statement
from builder.dockerfile.instructions import Arg, Dockerfile, From, Instruction, Stage
from builder.dockerfile.lexer import decode, lex
from builder.dockerfile.source import Finding, Source, SourceRange
from builder.errors import DockerfileError

_KNOWN_SYNTAX = r"(docker\.io/)?(docker|moby|library)/dockerfile(-upstream)?(:[\w.-]+)?(@sha256:[0-9a-f]{64})?\Z"
_OTHER_SYNTAX = r"//[ \t]*syntax[ \t]*=[ \t]*(\S+)|\{\s*\"syntax\"\s*:\s*\"([^\"]*)\""


def parse(text: bytes | str, name: str) -> Dockerfile:
    """Return the Dockerfile that ``text`` is; ``name`` is what messages call it.

    Raises:
        DockerfileError: the text is no Dockerfile; the error knows the lines.
    """
    source = Source(name, decode(text))
    _refuse_other_languages(source)
    directives, statements, warnings = lex(source)
    if not statements:
        last = source.text.rstrip("\n").count("\n") + 1
        place = SourceRange(name, last, last) if source.text else None
        message = f"{name} holds no instructions"
        raise DockerfileError(message, source=place, hints=("a Dockerfile begins with FROM",))
    global_args: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    for statement in statements:
        instruction = parse_statement(statement, directives.escape)
        if isinstance(instruction, From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            global_args.append(instruction)
        else:
            message = f"{statement.keyword.upper()} stands before the first FROM"
            raise DockerfileError(message, source=statement.origin.source, hints=("only ARG may stand there",))
    if not stages:
        end = statements[-1].origin.source
        raise DockerfileError(f"{name} has no FROM", source=end, hints=("a stage begins with FROM",))
    return Dockerfile(
        source,
        directives,
        tuple(global_args),
        tuple(Stage(number, start, tuple(body)) for number, (start, body) in enumerate(stages)),
        (*_check_syntax(directives.syntax, name), *warnings),
    )


def parse_trigger(expression: str, place: SourceRange) -> Instruction:
    """Return the one instruction of an ONBUILD trigger; it stands where the FROM that triggers it stands.

    Raises:
        DockerfileError: none or several instructions, or one that cannot be triggered.
    """
    directives, statements, _ = lex(Source(place.file, expression))
    if len(statements) != 1:
        message = f"the ONBUILD trigger {expression!r} must be one instruction, got {len(statements)}"
        raise DockerfileError(message, source=place)
    statement = statements[0]
    placed = statement._replace(origin=statement.origin._replace(source=place))
    instruction = parse_statement(placed, directives.escape)
    if isinstance(instruction, From):
        raise DockerfileError("FROM cannot be triggered by ONBUILD", source=place)
    return instruction


def is_dockerfile_syntax(reference: str) -> bool:
    """Return whether ``reference`` names a frontend of Dockerfiles, whose language this is."""
    return re.match(_KNOWN_SYNTAX, reference) is not None


def _refuse_other_languages(source: Source) -> None:
    """Return when the text is not in the comments or the JSON of another language that asks for its own frontend."""
    first, _, rest = source.text.partition("\n")
    number, text = (2, rest) if first.startswith("#!") else (1, source.text)
    found = re.match(_OTHER_SYNTAX, text) if text.startswith(("//", "{")) else None
    if found is None:
        return
    reference = found.group(1) or found.group(2)
    message = f"{source.name} is not in the Dockerfile language: it asks for the syntax {reference!r}"
    hint = "only the Dockerfile language is built in: # syntax=docker/dockerfile:1"
    raise DockerfileError(message, source=SourceRange(source.name, number, number), hints=(hint,))


def _check_syntax(syntax: str, name: str) -> tuple[Finding, ...]:
    reference = syntax.partition(" ")[0]
    if not reference or is_dockerfile_syntax(reference):
        return ()
    message = f"{name} asks for the syntax {reference!r}, the built-in Dockerfile syntax is used"
    return (Finding("ForeignSyntax", message, SourceRange(name, 1, 1)),)

"""Reading of command lines: argparse with docker's manners.

Invariants: a wrong command line is a `UsageError` whose one line names the argument, with the nearest right one as a
hint where there is one.  On the cached-build path: nothing but argparse is imported.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from builder.options import SecretSource

ROOT_HELP = "where images and cache live, $XDG_DATA_HOME/pybuild when left out"
_USUAL_COLUMNS = 80
_MOST_COLUMNS = 120
_NOTHING_REFUSED: Mapping[str, str] = {}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)
_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal; argparse would import shutil, and with it all compressors, to learn the width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_help_columns(), max_help_position=32)


def _help_columns() -> int:
    try:
        columns = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(1).columns
    except (ValueError, OSError):
        columns = 0
    return min(columns or _USUAL_COLUMNS, _MOST_COLUMNS) - 2


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors are `UsageError`, with a suggestion for a mistyped option.

    ``refused`` are options that docker has and this command has not, and why; ``summary`` and ``example`` are for the
    documentation.
    """

    def __init__(self, prog: str, summary: str, example: str, refused: Mapping[str, str] = _NOTHING_REFUSED) -> None:
        super().__init__(
            prog=prog,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self.summary = summary
        self.example = example
        self.refused = refused

    def actions(self) -> tuple[argparse.Action, ...]:
        """All options and arguments, in the order of their definition."""
        return tuple(self._actions)

    def format_help(self) -> str:
        """The help, with a usage line that leaves the options to the list below it."""
        self.usage = f"{self.prog} [OPTIONS] {self.synopsis()}".rstrip()
        return super().format_help()

    def synopsis(self) -> str:
        """The arguments in a usage line: ``IMAGE [COMMAND...]``."""
        forms = {None: "{}", "?": "[{}]", "+": "{}...", "*": "[{}...]", "...": "[{}...]"}
        return " ".join(
            forms[action.nargs if isinstance(action.nargs, str) else None].format(action.metavar or action.dest.upper())
            for action in self._actions
            if not action.option_strings
        )

    def error(self, message: str) -> NoReturn:
        """The command line makes no sense. Raises UsageError."""
        from builder.errors import UsageError

        left = message.removeprefix("unrecognized arguments: ")
        unknown = [word for word in left.split(" ") if word.startswith("-")] if left != message else []
        if not unknown:
            raise UsageError(message, hints=(f"for example: {self.example}", f"{self.prog} --help lists the options"))
        option = unknown[0].partition("=")[0]
        if option in self.refused:
            raise UsageError(f"{option}: {self.refused[option]}")
        from builder.dockerfile.suggest import did_you_mean

        known = [name for action in self._actions if action.help != argparse.SUPPRESS for name in action.option_strings]
        near = did_you_mean(option, known) if option.startswith("--") else ()
        raise UsageError(f"unknown option {option}", hints=(*near, f"{self.prog} --help lists the options"))


def parse_bytes(text: str) -> int:
    """Number of bytes that ``512m``, ``2g``, ``64k`` or ``1048576`` mean (powers of 1024, as docker reads them).

    Raises:
        argparse.ArgumentTypeError: the text is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a size such as 512m or 2g, got {text!r}")
    return int(float(match.group(1)) * _UNITS[match.group(2).lower()])


def parse_duration(text: str) -> int:
    """Number of seconds that ``30s``, ``15m``, ``12h`` or ``7d`` mean.

    Raises:
        argparse.ArgumentTypeError: the text is no duration.
    """
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _DURATIONS:
        raise argparse.ArgumentTypeError(f"expected a duration such as 12h or 7d, got {text!r}")
    return int(number) * _DURATIONS[unit]


def parse_assignments(texts: Sequence[str], environment: dict[str, str]) -> dict[str, str]:
    """``NAME=VALUE`` pairs as a mapping; a bare ``NAME`` takes its value from ``environment`` or is left out."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if separator:
            pairs[name] = value
        elif name in environment:
            pairs[name] = environment[name]
    return pairs


def parse_output(text: str) -> dict[str, str]:
    """The fields of ``-o type=oci,dest=img.tar``.

    Source: ``docker buildx build --output``.

    Raises:
        argparse.ArgumentTypeError: the type is unknown, a field is unknown, or the destination is missing.
    """
    fields: dict[str, str] = {}
    for part in text.split(","):
        name, separator, value = part.partition("=")
        if not separator or name not in _OUTPUT_FIELDS:
            known = ", ".join(_OUTPUT_FIELDS)
            raise argparse.ArgumentTypeError(f"unknown field {part!r} of an output, known are {known}")
        fields[name] = value
    kind = fields.get("type")
    if kind not in OUTPUT_TYPES:
        raise argparse.ArgumentTypeError(f"unknown output type {kind!r}, known are {', '.join(OUTPUT_TYPES)}")
    if kind in _FILE_TYPES and not fields.get("dest"):
        raise argparse.ArgumentTypeError(f"output type {kind} needs dest=PATH")
    return fields


def parse_secret(text: str) -> tuple[str, SecretSource]:
    """Id and place of ``id=ID[,src=FILE|,env=NAME][,type=file|env]``; without a place, the variable or file ID.

    Source: ``docker buildx build --secret``.

    Raises:
        argparse.ArgumentTypeError: a field is unknown, the id is missing, or there is no such file or variable.
    """
    fields: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        name = {"source": "src"}.get(name, name)
        if name not in {"id", "src", "env", "type"} or not value:
            raise argparse.ArgumentTypeError(f"expected id=ID,src=FILE or id=ID,env=NAME, got {part!r}")
        fields[name] = value
    if "id" not in fields:
        raise argparse.ArgumentTypeError(f"a secret needs an id, got {text!r}")
    return fields["id"], _secret_source(fields)


def _secret_source(fields: dict[str, str]) -> SecretSource:
    path, variable = fields.get("src"), fields.get("env")
    if path is None and variable is None:
        if fields.get("type") != "file" and fields["id"] in os.environ:
            variable = fields["id"]
        else:
            path = fields["id"]
    elif fields.get("type") == "env" and variable is None:
        path, variable = None, path
    if variable is not None and variable not in os.environ:
        raise argparse.ArgumentTypeError(f"secret {fields['id']!r}: there is no environment variable {variable!r}")
    if variable is None and not os.path.isfile(path or ""):
        raise argparse.ArgumentTypeError(f"secret {fields['id']!r}: there is no file {path!r}")
    return SecretSource(path if variable is None else None, variable)


def parse_agent(text: str) -> tuple[str, str]:
    """Id and socket of ``ID[=SOCKET]``; without a socket that of ``$SSH_AUTH_SOCK``.

    Raises:
        argparse.ArgumentTypeError: there is no socket.
    """
    name, _, path = text.partition("=")
    path = path or os.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        raise argparse.ArgumentTypeError(f"ssh agent {name!r}: $SSH_AUTH_SOCK is not set")
    if not os.path.exists(path):
        raise argparse.ArgumentTypeError(f"ssh agent {name!r}: there is no socket {path!r}")
    return name, os.path.abspath(path)


OUTPUT_TYPES = ("oci", "docker", "image", "registry")
_FILE_TYPES = ("oci", "docker")
_OUTPUT_FIELDS = ("type", "dest", "name", "push")

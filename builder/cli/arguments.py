"""Reading of command lines: argparse with docker's manners.

Invariants: a wrong command line ends with status 2 and one line that names the argument, and the nearest right one
where there is one.  On the cached-build path: nothing but argparse is imported.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from builder.options import SecretSource

USAGE_STATUS = 2
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)
_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors are one line, with a suggestion for a mistyped option."""

    def __init__(self, prog: str, description: str, example: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """The process has ended with status 2."""
        hint = self._suggestion(message)
        sys.stderr.write(f"{self.prog}: {message}\n{hint}hint: {self.prog} --help lists the options\n")
        sys.exit(USAGE_STATUS)

    def _suggestion(self, message: str) -> str:
        unknown = re.search(r"unrecognized arguments: (-[^\s=]+)", message)
        if unknown is None:
            return ""
        import difflib

        options = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown.group(1), options, n=1)
        return f"hint: did you mean {near[0]}?\n" if near else ""


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

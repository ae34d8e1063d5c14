"""The environment of a command in an image: the image's own, a file of variables, variables one by one.

Invariants: what is given wins over the image's, the later over the earlier; nothing of the user's own environment gets
there unless it is named. Sources: ``docker run --env``, ``--env-file``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from builder.errors import UsageError
from layers.config import DEFAULT_PATH


def read_env_file(path: str, environment: Mapping[str, str], option: str = "--env-file") -> dict[str, str]:
    """The variables of the file: ``NAME=VALUE`` a line, as it stands; a bare ``NAME`` is taken from ``environment``.

    Lines that begin with ``#`` and empty ones say nothing. Quotes are part of a value, as docker reads them.

    Raises:
        UsageError: the file can't be read, or a line is no variable.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = file.read().split("\n")
    except OSError as error:
        raise UsageError(f"{option} {path!r}: {os.strerror(error.errno or 0).lower()}") from error
    variables: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.removesuffix("\r").lstrip()
        if not text or text.startswith("#"):
            continue
        name, separator, value = text.partition("=")
        if not name or name.split() != [name] or "\0" in text:
            raise UsageError(f"{option} {path}:{number}: expected NAME=VALUE, got {text!r}")
        if separator:
            variables[name] = value
        elif name in environment:
            variables[name] = environment[name]
    return variables


def check_variables(texts: Sequence[str]) -> None:
    """Nothing, when every one of ``texts`` has a name. Raises UsageError."""
    for text in texts:
        if not text.partition("=")[0]:
            raise UsageError(f"-e: expected NAME=VALUE, got {text!r}")


def compose(image: Mapping[str, str], given: Mapping[str, str], *, home: str, hostname: str, tty: bool) -> list[str]:
    """``NAME=value`` of each variable: what every container has, then the image's, then what is ``given``."""
    variables = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, "HOME": home}
    if tty:
        variables["TERM"] = os.environ.get("TERM") or "xterm"
    return [f"{name}={value}" for name, value in {**variables, **image, **given}.items()]

"""The user's configuration file, ``$XDG_CONFIG_HOME/pybuild/config.toml``.

::

    [registries]      # docs/registries.md
    insecure = ["registry.lan:5000"]

    [build]           # options of a command, as if they stood first on its command line
    progress = "plain"
    build-arg = ["PROXY=1"]
    no-cache-filter = "tests"

A file that is not there is an empty one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from builder.cli.commands import COMMANDS
from builder.errors import UsageError, describe_os_error

if TYPE_CHECKING:
    from layers.registry.settings import RegistrySettings

_REGISTRIES = "registries"


def configuration_path(environment: Mapping[str, str]) -> str:
    """Where the file is looked for."""
    directory = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME") or "/root", ".config")
    return os.path.join(directory, "pybuild", "config.toml")


def read_registry_settings(environment: Mapping[str, str]) -> RegistrySettings:
    """What the file says of registries.

    Raises:
        UsageError: the file can't be read, is no TOML, or says what makes no sense; the message names the file.
    """
    import pathlib

    from layers.errors import FormatError
    from layers.registry.configured import settings_from

    path = configuration_path(environment)
    try:
        settings = settings_from(_read_tables(path).get(_REGISTRIES, {}))
    except FormatError as error:
        raise UsageError(f"configuration {path!r}: {error}") from error
    own = os.path.join(os.path.dirname(os.path.dirname(path)), "containers", "certs.d")
    return settings._replace(certificates=(pathlib.Path(own), *settings.certificates))


def read_defaults(environment: Mapping[str, str], command: str) -> list[str]:
    """The options that the file gives ``command`` (``build``, ``cache prune``), as words of a command line.

    Raises:
        UsageError: the file can't be read, is no TOML, or has a value that no option takes.
    """
    path = configuration_path(environment)
    table: dict[str, Any] = _read_tables(path)
    for word in command.split(" "):
        found: Any = table.get(word, {})
        if not isinstance(found, dict):
            raise UsageError(f"configuration {path!r}: {word} is no table")
        table = cast("dict[str, Any]", found)
    words: list[str] = []
    for name, value in table.items():
        values = cast("list[object]", value) if isinstance(value, list) else [cast("object", value)]
        for one in values:
            if not isinstance(one, str | int):
                raise UsageError(f"configuration {path!r}: {command}: {name} is no text, number, true or false")
            words.append(f"--{name}={str(one).lower() if isinstance(one, bool) else one}")
    return words


def _read_tables(path: str) -> dict[str, Any]:
    """What the file says, nothing where it is not there; every table is known."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"configuration {describe_os_error(error)}") from error
    # most have no such file
    import tomllib

    try:
        tables = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"configuration {path!r}: {error}") from error
    known = {_REGISTRIES, *(name.partition(" ")[0] for name in COMMANDS)}
    unknown = sorted(tables.keys() - known)
    if unknown:
        raise UsageError(f"configuration {path!r}: unknown table {unknown[0]!r}, expected {_REGISTRIES} or a command")
    return tables

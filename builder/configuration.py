"""The user's configuration file, ``$XDG_CONFIG_HOME/pybuild/config.toml``.

::

    [registries]      # docs/registries.md
    insecure = ["registry.lan:5000"]

Read only where a registry takes part; a file that is not there is an empty one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from builder.errors import UsageError, describe_os_error

if TYPE_CHECKING:
    from layers.registry.settings import RegistrySettings

_KNOWN = frozenset({"registries"})


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
    import tomllib

    from layers.errors import FormatError
    from layers.registry.configured import settings_from

    path = configuration_path(environment)
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
        unknown = sorted(tables.keys() - _KNOWN)
        if unknown:
            raise FormatError(f"unknown table {unknown[0]!r}, expected {', '.join(sorted(_KNOWN))}")
        settings = settings_from(tables.get("registries", {}))
    except FileNotFoundError:
        settings = settings_from({})
    except OSError as error:
        raise UsageError(f"configuration {describe_os_error(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, FormatError) as error:
        raise UsageError(f"configuration {path!r}: {error}") from error
    own = os.path.join(os.path.dirname(os.path.dirname(path)), "containers", "certs.d")
    return settings._replace(certificates=(pathlib.Path(own), *settings.certificates))

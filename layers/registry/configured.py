"""Settings of registries from a table of a configuration file (``[registries]`` of config.toml).

::

    [registries]
    insecure = ["registry.lan:5000"]           # may speak http, or show any certificate
    ca-files = ["/etc/ssl/lan.pem"]            # trusted beside the system's
    auth-files = ["/run/secrets/auth.json"]    # in place of docker's and podman's files
    connections = 4                            # blobs that travel at a time
    part-bytes = 16777216                      # blobs go up in parts of this length; 0: whole

    [registries.mirrors]
    "docker.io" = ["mirror.lan:5000"]          # asked first, in order
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from layers.errors import FormatError
from layers.reference import Reference
from layers.registry.settings import DEFAULTS, RegistrySettings

_KNOWN = ("insecure", "ca-files", "auth-files", "connections", "part-bytes", "mirrors")
_MOST_CONNECTIONS = 32
_SHORTEST_PART = 1 << 16
_LONGEST_PART = 1 << 30


def settings_from(table: Mapping[str, Any], what: str = "registries") -> RegistrySettings:
    """The settings that the table describes; what it leaves out is as usual. ``what`` begins messages.

    Raises:
        FormatError: a key is unknown, or a value is not what it must be.
    """
    unknown = sorted(set(table) - set(_KNOWN))
    if unknown:
        raise FormatError(f'{what}: unknown key "{unknown[0]}", expected one of {", ".join(_KNOWN)}')
    mirrors = table.get("mirrors", {})
    if not isinstance(mirrors, dict):
        raise FormatError(f"{what}: mirrors is no table")
    connections = table.get("connections", DEFAULTS.connections)
    if not isinstance(connections, int) or not 1 <= connections <= _MOST_CONNECTIONS:
        raise FormatError(f"{what}: connections is {connections}, expected 1 to {_MOST_CONNECTIONS}")
    part_bytes = table.get("part-bytes", DEFAULTS.part_bytes)
    if not isinstance(part_bytes, int) or (part_bytes and not _SHORTEST_PART <= part_bytes <= _LONGEST_PART):
        raise FormatError(
            f"{what}: part-bytes is {part_bytes}, expected {_SHORTEST_PART} to {_LONGEST_PART}, or 0 for no parts"
        )
    return RegistrySettings(
        part_bytes=part_bytes,
        insecure=frozenset(_hosts(table.get("insecure", []), f"{what}: insecure")),
        mirrors={
            _host(registry, f"{what}: mirrors"): _hosts(hosts, f'{what}: mirrors of "{registry}"')
            for registry, hosts in cast("dict[str, Any]", mirrors).items()
        },
        ca_files=_paths(table.get("ca-files", []), f"{what}: ca-files"),
        auth_files=_paths(table.get("auth-files", []), f"{what}: auth-files"),
        connections=connections,
    )


def _texts(value: object, what: str) -> tuple[str, ...]:
    items = cast("list[object]", value) if isinstance(value, list) else [None]
    if not all(isinstance(item, str) for item in items):
        raise FormatError(f"{what} is no list of texts")
    return tuple(str(item) for item in items)


def _hosts(value: object, what: str) -> tuple[str, ...]:
    return tuple(_host(item, what) for item in _texts(value, what))


def _host(text: str, what: str) -> str:
    try:
        if Reference.parse(f"{text}/a/b").registry == text:
            return text
    except FormatError:
        pass
    raise FormatError(f'{what}: "{text}" is no registry, expected host[:port]')


def _paths(value: object, what: str) -> tuple[Path, ...]:
    paths = tuple(Path(item).expanduser() for item in _texts(value, what))
    for path in paths:
        if not path.is_absolute():
            raise FormatError(f'{what}: "{path}" is no absolute path')
    return paths

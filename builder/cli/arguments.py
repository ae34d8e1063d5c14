"""Values in command lines: sizes, durations, numbers, assignments, hosts, outputs, secrets.

Invariants: what makes no sense is an ArgumentTypeError that says what is expected and what was got.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
from collections.abc import Sequence

from builder.options import SecretSource
from builder.switches import read_switch

_SIZE = r"(\d+(?:\.\d+)?)\s*([kKmMgGtTpP]?)([iI]?[bB])?"
"""Compiled when it is first asked for, as all patterns of rare options."""
_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def parse_bytes(text: str) -> int:
    """Number of bytes that ``512m``, ``2g``, ``64k`` or ``1048576`` mean (powers of 1024, as docker reads them).

    Raises:
        argparse.ArgumentTypeError: the text is no size.
    """
    match = re.fullmatch(_SIZE, text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a size such as 512m or 2g, got {text!r}")
    return int(float(match.group(1)) * _UNITS[match.group(2).lower()])


def parse_switch(text: str) -> bool:
    """Whether ``text`` is true. Raises argparse.ArgumentTypeError."""
    found = read_switch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return found


def parse_seconds(text: str) -> int:
    """Seconds since 1970. Raises argparse.ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected seconds since 1970, got {text!r}")
    return int(text)


def parse_duration(text: str) -> int:
    """Number of seconds that ``30s``, ``15m``, ``12h`` or ``7d`` mean.

    Raises:
        argparse.ArgumentTypeError: the text is no duration.
    """
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _DURATIONS:
        raise argparse.ArgumentTypeError(f"expected a duration such as 12h or 7d, got {text!r}")
    return int(number) * _DURATIONS[unit]


def parse_count(text: str) -> int:
    """A whole number above zero.

    Raises:
        argparse.ArgumentTypeError: the text is none.
    """
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number above zero, got {text!r}")
    return int(text)


def parse_capability(text: str) -> str:
    """The name of a capability without ``CAP_``, or ``ALL``. capabilities(7).

    Raises:
        argparse.ArgumentTypeError: there is none of that name.
    """
    from builder.sandbox.caps import NAMES

    name = text.upper().removeprefix("CAP_")
    if name not in {*NAMES, "ALL"}:
        raise argparse.ArgumentTypeError(f"unknown capability {text!r}, expected one such as SYS_PTRACE, or ALL")
    return name


def add_capabilities(parser: argparse.ArgumentParser, whom: str) -> None:
    """``parser`` takes ``--cap-add`` and ``--cap-drop`` for ``whom``."""
    for option, what in (("--cap-add", "further"), ("--cap-drop", "dropped")):
        parser.add_argument(
            option, action="append", default=[], type=parse_capability, metavar="NAME",
            help=f"{what} capability of {whom}, or ALL",
        )  # fmt: skip


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


def parse_labels(texts: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` pairs as a mapping; a bare ``NAME`` has the empty value."""
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def parse_cache_source(text: str) -> dict[str, str]:
    """The fields of ``--cache-from type=registry,ref=NAME`` or ``type=local,src=DIR``; a name alone is a registry's.

    Source: ``docker buildx build --cache-from``.

    Raises:
        argparse.ArgumentTypeError: the type or a field is unknown, or the place is missing.
    """
    return _parse_cache(text, {"local": "src", "registry": "ref"}, frozenset())


_TARGET_FIELDS = frozenset({"mode", "mounts", "ignore-error", "image-manifest", "oci-mediatypes"})


def parse_cache_target(text: str) -> dict[str, str]:
    """The fields of ``--cache-to type=registry,ref=NAME[,mode=max]``, ``type=local,dest=DIR`` or ``type=inline``.

    ``mounts=true`` goes with ``mode=max`` alone.

    Source: ``docker buildx build --cache-to``. ``ignore-error`` is what is done anyway.

    Raises:
        argparse.ArgumentTypeError: the type, a field or the mode is unknown, or the place is missing.
    """
    fields = _parse_cache(text, {"local": "dest", "registry": "ref", "inline": ""}, _TARGET_FIELDS)
    if fields.get("mode", "min") not in {"min", "max"}:
        raise argparse.ArgumentTypeError(f"unknown mode {fields['mode']!r}, known are min, max")
    if fields["type"] == "inline" and fields.get("mode") == "max":
        raise argparse.ArgumentTypeError("an image holds the results of its own layers alone: inline has no mode=max")
    if fields.get("mounts", "false") not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"mounts is true or false, got {fields['mounts']!r}")
    if fields.get("mounts") == "true" and fields.get("mode") != "max":
        raise argparse.ArgumentTypeError("mounts=true takes the cache mounts of all stages: it needs mode=max")
    for name in ("image-manifest", "oci-mediatypes"):
        if fields.get(name, "true") != "true":
            raise argparse.ArgumentTypeError(f"a cache is an OCI image manifest: {name} is true, got {fields[name]!r}")
    if fields.get("ignore-error", "true") != "true":
        raise argparse.ArgumentTypeError("a cache that cannot be written is a warning, never an error")
    return fields


def _parse_cache(text: str, places: dict[str, str], further: frozenset[str]) -> dict[str, str]:
    """Fields with a type of ``places``, which says the field that names the place."""
    if "=" not in text and "," not in text and text not in places:
        check_reference(text)
        return {"type": "registry", "ref": text}
    fields: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        fields[name] = value
    kind = fields.get("type", "registry" if "ref" in fields else None)
    if kind not in places:
        raise argparse.ArgumentTypeError(f"unknown cache type {kind!r}, known are {', '.join(places)}")
    allowed = {"type", places[kind], *further} - {""}
    for name in fields:
        if name not in allowed:
            raise argparse.ArgumentTypeError(
                f"unknown field {name!r} of a {kind} cache, known are {', '.join(sorted(allowed))}"
            )
    if places[kind] and not fields.get(places[kind]):
        raise argparse.ArgumentTypeError(f"cache type {kind} needs {places[kind]}=…")
    if kind == "registry":
        check_reference(fields["ref"])
    return {**fields, "type": kind}


def check_reference(text: str) -> None:
    """Nothing, when ``text`` is the name of an image. Raises argparse.ArgumentTypeError."""
    from layers.errors import FormatError
    from layers.reference import Reference

    try:
        Reference.parse(text)
    except FormatError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_context(text: str) -> tuple[str, str]:
    """Name and place of ``NAME=CONTEXT``.

    Source: ``docker buildx build --build-context``.

    Raises:
        argparse.ArgumentTypeError: one of them is missing.
    """
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"expected NAME=CONTEXT, got {text!r}")
    return name, value


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
    if variable is None and (not os.path.exists(path or "") or os.path.isdir(path or "")):
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
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise argparse.ArgumentTypeError(f"ssh agent {name!r}: {path!r} is no socket; ssh-add puts a key into an agent")
    return name, os.path.abspath(path)

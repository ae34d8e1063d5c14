"""Contexts with a name, which stand for a stage or an image of that name.

A name is found as images are: ``debian`` is ``docker.io/library/debian:latest``, whichever way it is written.
``NAME::PLATFORM`` is meant where something is wanted for that platform, and goes before ``NAME`` there (BuildKit,
frontend/dockerui/config.go).
"""

from __future__ import annotations

from collections.abc import Mapping

from builder.errors import UsageError
from layers.errors import FormatError
from layers.platform import Platform, parse
from layers.reference import Reference
from unionfs.namedtuple import NamedTuple

DIRECTORY = "directory"
IMAGE = "image"
LAYOUT = "layout"
STAGE = "stage"
LAYOUT_PREFIX = "oci-layout://"


class NamedContext(NamedTuple):
    """What ``--build-context NAME=…`` names: ``value`` is a directory, an image, a layout's path, or a stage.

    ``fetched``: the directory is not the user's own. ``seconds`` is the time of what was fetched, None where it has
    none of its own.
    """

    kind: str
    value: str
    fetched: bool = False
    seconds: int | None = None


class NameTable:
    """The named contexts of a build. Raises UsageError: a name has a platform that is none."""

    def __init__(self, contexts: Mapping[str, NamedContext]) -> None:
        self._contexts = {_key(name): (name, context) for name, context in contexts.items()}

    def find(self, name: str, platform: Platform) -> tuple[str, NamedContext] | None:
        """The context that ``name`` means where it is for ``platform``, with its name as it was given."""
        if not self._contexts:
            return None
        plain = plain_name(name)
        return self._contexts.get((plain, platform.normalised())) or self._contexts.get((plain, None))


def _key(name: str) -> tuple[str, Platform | None]:
    plain, separator, platform = name.rpartition("::")
    if not separator:
        return plain_name(name), None
    try:
        return plain_name(plain), parse(platform)
    except FormatError as error:
        raise UsageError(f"build context {name!r}: {error}") from error


def plain_name(name: str) -> str:
    """``name`` in the form in which equal names are equal: familiar, without ``:latest``."""
    lower = name.lower()
    try:
        return Reference.parse(lower).name.removesuffix(":latest")
    except FormatError:
        return lower

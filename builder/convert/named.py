"""Contexts with a name, which stand for a stage or an image of that name.

A name is found as images are: ``debian`` is ``docker.io/library/debian:latest``, whichever way it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from layers.errors import FormatError
from layers.reference import Reference

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
    """The named contexts of a build."""

    def __init__(self, contexts: Mapping[str, NamedContext]) -> None:
        self._contexts = {plain_name(name): (name, context) for name, context in contexts.items()}

    def find(self, name: str) -> tuple[str, NamedContext] | None:
        """The context that ``name`` means, with its name as it was given."""
        return self._contexts.get(plain_name(name)) if self._contexts else None


def plain_name(name: str) -> str:
    """``name`` in the form in which equal names are equal: familiar, without ``:latest``."""
    lower = name.lower()
    try:
        return Reference.parse(lower).name.removesuffix(":latest")
    except FormatError:
        return lower

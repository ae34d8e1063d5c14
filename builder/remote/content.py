"""What was fetched, as COPY takes it. Values; nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable

from builder.selection import SourceTree
from unionfs.namedtuple import NamedTuple

Tell = Callable[[str, int, int | None], None]
"""Told a name, bytes so far, and bytes in all as far as that is known."""

FILE_MODE = 0o600
"""Of a file fetched by HTTP: it has none, and nobody else need read it."""


class FetchedFile(NamedTuple):
    """A file that was asked for. ``descriptor`` reads it and is closed by the caller; ``mtime`` is in seconds.

    ``name`` is what it is called in a directory. Without a ``Last-Modified`` its time is 0, as in other builders.
    """

    descriptor: int
    name: str
    sha256: str
    size_bytes: int
    mtime: int


class Content(NamedTuple):
    """Fetched files, and trees whose content is copied, each in the order of the operation's sources."""

    files: tuple[FetchedFile, ...]
    trees: tuple[SourceTree, ...]


NOTHING = Content((), ())

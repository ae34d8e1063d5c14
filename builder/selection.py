"""Which files a COPY takes: sources and wildcards against a tree.

Invariants: nothing outside the tree is selected, whatever links it holds; a source that is a link, also one a wildcard
matched, is the file it leads to under the link's own name; a wildcard never crosses ``/`` and may match nothing, a
plain source that isn't there is an error; what is selected comes in the order of the sources, sorted within each.
Source of the rules: ``COPY`` in BuildKit's reference, filepath.Match in Go.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Protocol

from builder import paths
from builder.dockerfile.ignore import Matcher, compile_wildcard
from builder.errors import ContextError
from builder.graph import Copy
from cache.contenthash import TreeEntry
from cache.hosttree import Visit
from unionfs.namedtuple import NamedTuple

_PIVOT = "/./"
# patterns are compiled where files are selected, not in each build
_WILDCARD = r"(?s:(?:[^\\]|\\.)*?[*?\[])"
_ESCAPED = r"(?s:\\(.))"


class SourceEntry(TreeEntry, Protocol):
    """A file as COPY takes it."""

    @property
    def atime_ns(self) -> int:
        """Last access."""
        ...

    @property
    def mtime_ns(self) -> int:
        """Last change of the content."""
        ...


class SourceTree(Protocol):
    """Where COPY takes files from: a build context, or the root of another step. Paths follow ``builder.paths``."""

    @property
    def title(self) -> str:
        """What the tree is called in messages."""
        ...

    def resolve(self, path: bytes) -> bytes:
        """The place ``path`` leads to, links followed inside the tree. Raises OSError(ELOOP)."""
        ...

    def lstat(self, path: bytes) -> SourceEntry | None:
        """The entry at the place ``path``, a link itself; None when there is none."""
        ...

    def names(self, path: bytes) -> list[bytes]:
        """Sorted names in the directory at the place ``path``; none when it is no directory."""
        ...

    def walk(self, path: bytes, prefix: bytes, visit: Visit | None) -> Iterator[SourceEntry]:
        """Every entry below the directory at the place ``path``: see ``cache.hosttree.walk``."""
        ...

    def absence_hints(self, path: bytes) -> tuple[str, ...]:
        """Why there may be nothing at ``path``."""
        ...


class Selected(NamedTuple):
    """One file or directory that a source names.

    ``name`` is its name in a directory of the destination; ``place`` where it lies in the tree, links followed.
    ``kept`` is, with ``--parents``, its path below the destination, else empty.
    """

    name: bytes
    place: bytes
    entry: SourceEntry
    kept: bytes = b""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory, whose content is copied."""
        return stat.S_ISDIR(self.entry.mode)


def select(tree: SourceTree, operation: Copy) -> Iterator[Selected]:
    """What the sources of ``operation`` name in ``tree``.

    Raises ContextError for a plain source that isn't there, for a malformed pattern, for links without end.
    """
    excludes = Matcher(operation.excludes)
    for source in operation.sources:
        try:
            yield from (_select_kept if operation.parents else _select)(tree, source, excludes)
        except OSError as error:
            raise ContextError(f"source {_shown(source)!r} in {tree.title}: {error.strerror}") from error


def entries_below(tree: SourceTree, selected: Selected, operation: Copy) -> Iterator[SourceEntry]:
    """What is copied of the directory ``selected``, with paths below the destination; itself not among it."""
    prefix = selected.kept + b"/" if selected.kept else b""
    return tree.walk(selected.place, prefix, exclusion(Matcher(operation.excludes)))


def kept_directories(tree: SourceTree, selected: Selected) -> Iterator[tuple[bytes, SourceEntry]]:
    """The directories on the way that ``--parents`` keeps, with their paths below the destination, topmost first."""
    parts = selected.kept.split(b"/")
    base = selected.place[: len(selected.place) - len(selected.kept)].rstrip(b"/")
    for end in range(1, len(parts)):
        path = b"/".join(parts[:end])
        entry = tree.lstat(paths.join(base, path))
        if entry is not None:
            yield path, entry


def exclusion(matcher: Matcher) -> Visit | None:
    """A walk's filter that leaves out what ``matcher`` excludes; None when that is nothing."""
    if not matcher.patterns:
        return None

    def visit(path: bytes, directory: bool) -> tuple[bool, bool]:
        if not matcher.excluded(path):
            return True, directory
        return False, directory and matcher.could_reinclude(path)

    return visit


def _select(tree: SourceTree, source: str, excludes: Matcher) -> Iterator[Selected]:
    """What ``source`` names without ``--parents``; a file that ``--exclude`` names is not among it."""
    if not re.match(_WILDCARD, source):
        yield _follow(tree, _plain(tree, source), source)
        return
    for path in _expand(tree, source):
        selected = _follow(tree, path, source)
        if selected.is_directory or not excludes.excluded(selected.name):
            yield selected


def _plain(tree: SourceTree, source: str) -> bytes:
    """The path of a source without wildcards; a backslash is itself where such a name is there, else it escapes."""
    path = paths.clean(source)
    if "\\" in source and tree.lstat(tree.resolve(path)) is None:
        return paths.clean(re.sub(_ESCAPED, r"\1", source))
    return path


def _follow(tree: SourceTree, path: bytes, source: str) -> Selected:
    """What lies at ``path``, links followed."""
    place = tree.resolve(path)
    entry = tree.lstat(place)
    if entry is None:
        raise _missing(tree, path, source)
    return Selected(path.rpartition(b"/")[2], place, entry)


def _expand(tree: SourceTree, source: str) -> list[bytes]:
    """Paths that match the pattern ``source``. Links count as directories only before the first wildcard."""
    components = os.fsdecode(paths.clean(source)).split("/")
    plain = 0
    while not re.match(_WILDCARD, components[plain]):
        plain += 1
    found = [os.fsencode("/".join(components[:plain]))]
    for number, component in enumerate(components[plain:], start=plain):
        expression = compile_wildcard(component)
        following: list[bytes] = []
        for directory in found:
            place = tree.resolve(directory) if number == plain else directory
            names = tree.names(place)
            following += [
                paths.join(directory, name) for name in names if expression.fullmatch(os.fsdecode(name)) is not None
            ]
        found = following
    return found


def _select_kept(tree: SourceTree, source: str, excludes: Matcher) -> Iterator[Selected]:
    """What ``source`` names with ``--parents``: links are not followed behind the pivot, ``**`` crosses ``/``."""
    before, pivot, after = source.partition(_PIVOT)
    base = tree.resolve(paths.clean(before)) if pivot else b""
    pattern = paths.clean(after if pivot else source)
    if not re.match(_WILDCARD, os.fsdecode(pattern)):
        pattern = paths.clean(re.sub(_ESCAPED, r"\1", os.fsdecode(pattern)))
        place = paths.join(base, pattern)
        entry = tree.lstat(place)
        if entry is None:
            raise _missing(tree, place, source)
        yield Selected(pattern.rpartition(b"/")[2], place, entry, pattern)
        return
    wanted = Matcher((os.fsdecode(pattern),))

    def visit(path: bytes, directory: bool) -> tuple[bool, bool]:
        taken = wanted.excluded(path)
        return taken, directory and not taken

    for entry in tree.walk(base, b"", visit):
        if wanted.excluded(entry.path) and not excludes.excluded(entry.path):
            place = paths.join(base, entry.path)
            yield Selected(entry.path.rpartition(b"/")[2], place, entry, entry.path)


def _missing(tree: SourceTree, path: bytes, source: str) -> ContextError:
    directory, _, name = path.rpartition(b"/")
    link = tree.lstat(paths.join(tree.resolve(directory), name))
    if link is not None and stat.S_ISLNK(link.mode):
        target = link.readlink().decode("utf-8", "backslashreplace")
        hints: tuple[str, ...] = (f"{paths.shown(path)[1:]!r} is a symbolic link to {target!r}, which is not there",)
    else:
        hints = tree.absence_hints(path)
    return ContextError(f"source {_shown(source)!r} does not exist in {tree.title}", hints=hints)


def _shown(source: str) -> str:
    """``source`` as people write it, relative."""
    return source.removeprefix("/") or "."

"""What decides the result of COPY and ADD, as keys.

On the cached-build path. Invariants: two operations with equal keys put the same files in place, up to times; whatever
can't be told without reading the target's files is taken as making a difference. A key that names the files below
(all but those of ``--link``) takes nothing more from them than `Target`, of which the same files give the same: so at
most one of `GUESSES` leads to keys that anybody has used.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence

from builder import paths
from builder.errors import ContextError
from builder.graph import Copy
from builder.identities import names_identity
from builder.refusals import failed_name, reason
from builder.selection import Selected, SourceEntry, SourceTree, entries_below, kept_directories, select
from cache.contenthash import FileMemory, TreeEntry, fingerprint
from cache.framing import Value
from cache.keys import CacheKey, KeyedSource, StepInput, copy_key
from layers.smallhash import hex_sha256
from unionfs.namedtuple import NamedTuple


class Target(NamedTuple):
    """What a key takes from the files of the step below.

    ``is_directory``: the destination may be one, so that a single file keeps its name there. ``identities``: name and
    digest of the files that say who an owner is, where nothing else in the key tells which files these are.
    """

    is_directory: bool
    identities: tuple[tuple[str, str], ...] = ()


GUESSES = (Target(is_directory=False), Target(is_directory=True))
"""What a target can be, where its files are not here: of an operation that is `guessable`."""


def keyed_sources(
    operation: Copy, tree: SourceTree, memory: FileMemory | None = None, *, check: Callable[[], None] = lambda: None
) -> tuple[KeyedSource, ...]:
    """Content hashes of what the sources of ``operation`` select in ``tree``.

    ``memory`` (``BuildCache.files``) spares reading unchanged files. ``check`` is called often and may raise.
    Raises ContextError for a missing source and for files that can't be read.
    """
    sources: list[KeyedSource] = []
    try:
        for selected in select(tree, operation):
            digest = fingerprint(_entries(tree, selected, operation), memory, check=check).digest
            name = None if selected.is_directory else os.fsdecode(selected.name)
            sources.append(KeyedSource(digest, name))
    except OSError as error:
        raise unreadable(tree, error) from error
    return tuple(sources)


def key(
    strength: str,
    operation: Copy,
    *,
    parent: StepInput,
    sources: Sequence[KeyedSource | StepInput],
    target: Target,
    remote: Sequence[tuple[str, Value]] = (),
    epoch: int | None = None,
) -> CacheKey:
    """The key of ``operation`` on the files of the step ``parent``, of which ``target`` is told (`look_at`).

    ``sources`` are those of ``keyed_sources``; or, in a definition key, the step the files come from. ``remote`` says
    what its remote sources are (``Resolved.key_parts``).
    """
    by_step = any(isinstance(source, StepInput) for source in sources)
    details: list[tuple[str, Value]] = [("inline files", tuple((file.name, file.content) for file in operation.inline))]
    if by_step:
        details += [("source patterns", operation.sources), ("excludes", operation.excludes)]
    flags = [name for name in ("link", "parents", "unpack", "unpack_remote") if getattr(operation, name)]
    return copy_key(
        strength,
        parent=None if operation.link else parent,
        destination=operation.destination,
        sources=[_nameless(source, operation, sources, target) for source in sources],
        owner=operation.chown or None,
        mode=operation.chmod or None,
        flags=flags,
        identities=target.identities,
        details=[*details, *remote],
        epoch=epoch,
    )


def looks_at_target(operation: Copy, *, by_content: bool) -> bool:
    """Whether the key depends on files of the step below: on what the destination is, or with ``--link`` on owners.

    ``by_content``: of a key that has the sources by content; one that has them by step has no names of files.
    """
    if operation.link:
        return operation.looks_below
    return by_content and not (operation.destination.endswith("/") or operation.unpack)


def guessable(operation: Copy) -> bool:
    """Whether all that can be known of the target is in `GUESSES`: the key has the files below as a whole."""
    return not operation.link


def look_at(operation: Copy, branches: Sequence[str | os.PathLike[str]]) -> Target:
    """What ``branches`` (top first) say that the key of ``operation`` depends on."""
    if operation.destination.endswith("/") or operation.unpack:
        is_directory = True
    else:
        is_directory = not operation.link and _may_be_directory(operation.destination, branches)
    return Target(is_directory, identity_digests(operation.chown, branches) if operation.link else ())


def identity_digests(owner: str, branches: Sequence[str | os.PathLike[str]]) -> tuple[tuple[str, str], ...]:
    """Name and digest of the files that say who ``owner`` is; none when it is a number."""
    if not owner or not names_identity(owner):
        return ()
    from pathlib import Path

    from builder.rootfs import GROUP, PASSWD, open_root

    with open_root(tuple(map(Path, branches))) as root:
        contents = [(path, None if root is None else root.read_file(path)) for path in (PASSWD, GROUP)]
    return tuple((paths.shown(path), "" if content is None else hex_sha256(content)) for path, content in contents)


def unreadable(tree: SourceTree, error: OSError) -> ContextError:
    """The error for a file of ``tree`` that can't be read."""
    return ContextError(f"{failed_name(error)!r} in {tree.title} can't be read: {reason(error)}")


def _entries(tree: SourceTree, selected: Selected, operation: Copy) -> Iterator[TreeEntry]:
    """The files that count for ``selected``: with the kept directories on the way, without a directory's own."""
    if selected.kept:
        for path, entry in kept_directories(tree, selected):
            yield _Placed(entry, path)
        yield _Placed(selected.entry, selected.kept)
    elif not selected.is_directory:
        yield selected.entry
    if selected.is_directory:
        yield from entries_below(tree, selected, operation)


class _Placed:
    """An entry under another path (``cache.contenthash.TreeEntry``)."""

    def __init__(self, entry: SourceEntry, path: bytes) -> None:
        self.path = path
        self.mode = entry.mode
        self.uid = entry.uid
        self.gid = entry.gid
        self.size = entry.size
        self.rdev = entry.rdev
        self.nlink = entry.nlink
        self.file_id = entry.file_id
        self.state = entry.state
        self.readlink = entry.readlink
        self.xattrs = entry.xattrs
        self.open = entry.open


def _nameless(
    source: KeyedSource | StepInput,
    operation: Copy,
    sources: Sequence[KeyedSource | StepInput],
    target: Target,
) -> KeyedSource | StepInput:
    """``source`` without its name where the result can't have the name: one file that becomes ``destination``."""
    count = len(sources) + len(operation.inline) + len(operation.http) + len(operation.git)
    if isinstance(source, StepInput) or source.name is None or count > 1 or target.is_directory:
        return source
    return source._replace(name=None)


def _may_be_directory(path: str, branches: Sequence[str | os.PathLike[str]]) -> bool:
    """Whether ``path`` might lead to a directory; False is certain, whatever whiteouts the branches hold."""
    parts = os.fsdecode(paths.clean(path)).split("/")
    for branch in branches:
        place = os.fspath(branch)
        for number, part in enumerate(parts, start=1):
            place = f"{place}/{part}"
            try:
                mode = os.lstat(place).st_mode
            except OSError:
                break
            if stat.S_ISLNK(mode) or (number == len(parts) and stat.S_ISDIR(mode)):
                return True
    return not any(parts)

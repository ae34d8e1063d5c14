"""What is fetched before there is a graph: contexts that are no directories, and the time ``SOURCE_DATE_EPOCH`` names.

Invariants: a cancellation ends it soon, and what was begun is undone by those who gave the directories.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from builder.blocking import call_blocking
from builder.contexts import Contexts, open_contexts
from builder.convert.arguments import EPOCH
from builder.convert.epoch import ContextTime, EpochSource
from builder.graph import GitSource
from builder.options import BuildOptions
from builder.remote.access import Access
from builder.remote.cancellation import Cancellation


async def fetch_contexts(options: BuildOptions, root: str, make: Callable[[], Path]) -> Contexts:
    """As `builder.contexts.open_contexts`, in a thread."""
    return await call_blocking(lambda cancel: open_contexts(options, root, make, cancel), Cancellation())


async def date_options(asked: EpochSource, contexts: Contexts, options: BuildOptions, root: str) -> BuildOptions:
    """``options`` with the seconds that are ``asked`` for; none where the source has no time.

    Raises FetchError: the source can't be had.
    """
    seconds = await call_blocking(lambda cancel: _find_seconds(asked, contexts, options, root, cancel), Cancellation())
    text = "" if seconds is None else str(seconds)
    return options._replace(build_args={**options.build_args, EPOCH: text}, source_date_epoch=seconds)


def _find_seconds(
    asked: EpochSource, contexts: Contexts, options: BuildOptions, root: str, cancel: Cancellation
) -> int | None:
    if isinstance(asked, ContextTime):
        return _seconds_of_context(contexts, asked.name)
    from builder.remote import git, http

    access = Access(options.agents.get("default"), options.secrets)
    if isinstance(asked, GitSource):
        return git.find_seconds(asked, root, access, cancel=cancel)
    found = http.fetch_file(asked, root, access.for_file(asked.url), cancel=cancel)
    with open(found.descriptor, "rb") as file:
        return found.mtime or _newest_member(file)


def _seconds_of_context(contexts: Contexts, name: str) -> int | None:
    """The time of a context: its own, or that of the newest file of an archive; None for the user's directories."""
    if not name:
        seconds, directory = contexts.seconds, contexts.main if contexts.origin else None
    else:
        named = contexts.named[name]
        seconds, directory = named.seconds, named.value if named.fetched else None
    if seconds is not None or directory is None:
        return seconds
    files = (os.path.join(place, name) for place, _, names in os.walk(directory) for name in names)
    return max((int(os.lstat(path).st_mtime) for path in files if not os.path.islink(path)), default=None)


def _newest_member(file: IO[bytes]) -> int | None:
    """The time of the newest file in an archive, None when it is none."""
    from layers.compression import Decompressed
    from layers.errors import ArchiveError
    from layers.tar.entry import REGULAR
    from layers.tar.reader import TarReader

    newest: int | None = None
    try:
        for member in TarReader(Decompressed(file)):
            if member.type == REGULAR:
                newest = max(newest or 0, member.mtime_ns // 1_000_000_000)
    except ArchiveError:
        return None
    return newest

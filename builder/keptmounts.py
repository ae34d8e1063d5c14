"""The caches of ``RUN --mount=type=cache`` that the root directory holds: what they are, and those nobody uses going.

Invariants: a cache in use stays; the locks of one that went stay, since two steps must never hold different files of
that name.  Where caches lie: `builder.cachemounts`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

from builder.cachemounts import CACHE_MOUNTS, read_id
from builder.diskuse import tree_bytes
from cache.prune import CACHE_MOUNT, Filter
from unionfs.namedtuple import NamedTuple
from unionfs.removal import remove_tree

_LOCK = ".lock"


class KeptMount(NamedTuple):
    """One cache with its spare directories. ``name`` is the SHA-256 of its id; ``id`` is empty where it is unknown."""

    name: str
    id: str
    size_bytes: int
    last_used_ns: int

    @property
    def description(self) -> str:
        """For people: what the cache is."""
        return f"cache mount {self.id}" if self.id else "cache mount whose id is not known"


def list_kept(root: str, only: Filter) -> list[KeptMount]:
    """The caches of the root directory that ``only`` fits and that hold a directory, by name."""
    found: list[KeptMount] = []
    parent = os.path.join(root, CACHE_MOUNTS)
    for name in sorted(os.listdir(parent)) if os.path.isdir(parent) else ():
        places = [place for place in _places(root, name) if os.path.isdir(place)]
        if not places:
            continue
        used_ns = max(os.stat(f"{place}{_LOCK}").st_mtime_ns for place in places)
        kept = KeptMount(name, read_id(root, name), sum(map(tree_bytes, places)), used_ns)
        if only.fits_entry(CACHE_MOUNT, name, kept.description, used_ns):
            found.append(kept)
    return found


def drop_kept(root: str, only: Filter, before_ns: int, *, dry_run: bool) -> list[int]:
    """The caches that ``only`` fits and nobody used since ``before_ns`` are gone, but those in use; bytes of each."""
    freed: list[int] = []
    for kept in list_kept(root, only):
        sizes = [_drop(place, before_ns, dry_run=dry_run) for place in _places(root, kept.name)]
        if any(sizes):
            freed.append(sum(sizes))
    return freed


def _places(root: str, name: str) -> Iterator[str]:
    """Where the directories of a cache are, or were."""
    parent = os.path.join(root, CACHE_MOUNTS, name)
    for entry in os.listdir(parent):
        if entry.endswith(_LOCK):
            yield os.path.join(parent, entry.removesuffix(_LOCK))


def _drop(place: str, before_ns: int, *, dry_run: bool) -> int:
    with open(f"{place}{_LOCK}", "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        if os.fstat(lock.fileno()).st_mtime_ns >= before_ns:
            return 0
        # what a kill left half made as well
        trees = (place, f"{place}.new")
        size_bytes = sum(map(tree_bytes, trees))
        if not dry_run:
            for tree in trees:
                remove_tree(tree)
        return size_bytes

"""What is no longer needed goes: results of steps, and the layers and blobs nobody refers to.

Invariants: what an image or a remaining record needs stays; a record goes before its layer, so that a kill in between
leaves layers without records (which the next pruning takes) and never records without layers.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from typing import NamedTuple

from builder.cachemounts import CACHE_MOUNTS
from builder.session import Session
from cache.errors import LockCancelledError
from cache.pins import pruning
from cache.prune import Filter
from layers.digest import ChainId, Digest
from layers.gc import Collected, collect
from unionfs.removal import remove_tree

_SECOND_NS = 1_000_000_000
_BLOCK_BYTES = 512
"""Unit of ``st_blocks``, stat(2)."""


class Pruned(NamedTuple):
    """What went, or would go."""

    results: int
    layers: int
    freed_bytes: int


class DiskUse(NamedTuple):
    """Bytes on disk below the root directory, by what they are for; all but the last make the last."""

    blobs: int
    layers: int
    cache_mounts: int
    downloads: int
    other: int
    total: int


def collect_garbage(session: Session) -> Collected:
    """Layers and blobs that neither an image nor a record of the cache nor a running build needs are gone."""
    with pruning(session.root) as pinned:
        return _collect(session, pinned)


def _collect(
    session: Session, pinned: frozenset[str], *, dry_run: bool = False, forgotten: frozenset[str] = frozenset()
) -> Collected:
    """As `collect_garbage`; records of the results ``forgotten`` (chain ids) count as gone already."""
    kept = [result for result in session.cache.results() if result.chain_id not in forgotten]
    # a result need not be unpacked itself, but what it stands on may be
    chains = {chain for result in kept for chain in (result.chain_id, result.parent_chain_id) if chain} | pinned
    return collect(
        session.store,
        live_chains=[ChainId(Digest(chain)) for chain in chains],
        live_digests=[Digest(result.digest) for result in kept],
        dry_run=dry_run,
    )


def prune(
    session: Session,
    *,
    everything: bool = False,
    unused_seconds: int | None = None,
    keep_bytes: int | None = None,
    only: Filter | None = None,
    dry_run: bool = False,
) -> Pruned:
    """The results that the limits name, and ``only`` fits, are forgotten, and what only they needed is gone.

    What images need stays on disk even when its record goes; of what running builds use, the records stay as well.
    """
    with pruning(session.root) as pinned:
        plan = session.cache.prune(
            in_use=pinned,
            unused_since_ns=None if unused_seconds is None else time.time_ns() - unused_seconds * _SECOND_NS,
            keep_bytes=keep_bytes,
            everything=everything,
            only=only,
            dry_run=dry_run,
        )
        collected = _collect(session, pinned, dry_run=dry_run, forgotten=frozenset(plan.chain_ids))
    fetched_bytes = 0
    if only is None and (everything or unused_seconds is not None):
        before_ns = time.time_ns() - (0 if everything else unused_seconds or 0) * _SECOND_NS
        fetched_bytes = _drop_fetched(session, before_ns, dry_run=dry_run)
        fetched_bytes += _drop_cache_mounts(session, before_ns, dry_run=dry_run)
    return Pruned(len(plan.chain_ids), len(collected.chains), collected.freed_bytes + fetched_bytes)


def _drop_cache_mounts(session: Session, before_ns: int, *, dry_run: bool) -> int:
    """Directories of cache mounts that nobody used since ``before_ns`` are gone, but those in use; their bytes.

    Their locks stay: two steps must never hold different files of that name.
    """
    freed_bytes = 0
    parents = os.path.join(session.root, CACHE_MOUNTS)
    for digest in os.listdir(parents) if os.path.isdir(parents) else ():
        for name in os.listdir(os.path.join(parents, digest)):
            place, kind = os.path.splitext(os.path.join(parents, digest, name))
            if kind == ".lock":
                freed_bytes += _drop_cache_mount(place, before_ns, dry_run=dry_run)
    return freed_bytes


def _drop_cache_mount(place: str, before_ns: int, *, dry_run: bool) -> int:
    with open(f"{place}.lock", "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        if os.fstat(lock.fileno()).st_mtime_ns >= before_ns:
            return 0
        # what a kill left half made as well
        trees = (place, f"{place}.new")
        size_bytes = sum(map(_tree_bytes, trees))
        if not dry_run:
            for tree in trees:
                remove_tree(tree)
        return size_bytes


def _drop_fetched(session: Session, before_ns: int, *, dry_run: bool) -> int:
    """Downloads and repositories that nobody used since ``before_ns`` are gone, but those in use; their bytes."""
    freed_bytes = 0
    for kind, lock, mark in (("downloads", "download", "state.json"), ("git", "git", "")):
        parent = os.path.join(session.root, kind)
        for name in os.listdir(parent) if os.path.isdir(parent) else ():
            place = os.path.join(parent, name)
            try:
                used_ns = os.stat(os.path.join(place, mark)).st_mtime_ns
            except FileNotFoundError:
                used_ns = 0
            if used_ns >= before_ns:
                continue
            # whoever works with it holds the lock, and it stays
            with suppress(LockCancelledError), session.cache.lock(f"{lock}-{name}", cancelled=lambda: True):
                freed_bytes += _tree_bytes(place)
                if not dry_run:
                    remove_tree(place)
    return freed_bytes


def disk_use(session: Session) -> DiskUse:
    """What the parts of the root directory take."""

    def used(*names: str) -> int:
        return sum(_tree_bytes(os.path.join(session.root, name)) for name in names)

    blobs, layers, mounts, downloads = used("blobs"), used("layers"), used(CACHE_MOUNTS), used("downloads", "git")
    total = used("")
    return DiskUse(blobs, layers, mounts, downloads, total - blobs - layers - mounts - downloads, total)


def _tree_bytes(directory: str) -> int:
    """Bytes on disk of a tree, itself included, as du(1) counts them; files with several names count once."""
    try:
        total = os.lstat(directory).st_blocks * _BLOCK_BYTES
    except FileNotFoundError:
        return 0
    seen: set[int] = set()
    todo = [directory]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif status.st_nlink > 1:
                    if status.st_ino in seen:
                        continue
                    seen.add(status.st_ino)
                total += status.st_blocks * _BLOCK_BYTES
    return total

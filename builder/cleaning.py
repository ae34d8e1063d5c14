"""What is no longer needed goes: results of steps, and the layers and blobs nobody refers to.

Invariants: what an image or a remaining record needs stays; a record goes before its layer, so that a kill in between
leaves layers without records (which the next pruning takes) and never records without layers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from builder import buildrecord, failedsteps
from builder.diskuse import BLOCK_BYTES, tree_bytes
from builder.keptmounts import drop_kept
from builder.session import Session
from cache.errors import LockCancelledError
from cache.pins import pruning
from cache.prune import EVERY, Filter
from layers.digest import ChainId, Digest
from unionfs.namedtuple import NamedTuple
from unionfs.removal import remove_tree

if TYPE_CHECKING:
    from layers.gc import Collected

_SECOND_NS = 1_000_000_000


class Pruned(NamedTuple):
    """What went, or would go."""

    results: int
    layers: int
    cache_mounts: int
    freed_bytes: int


def collect_garbage(session: Session) -> Collected:
    """Layers and blobs that neither an image nor a record of the cache nor a running build needs are gone."""
    with pruning(session.root) as pinned:
        return _collect(session, pinned)


def _collect(
    session: Session,
    pinned: frozenset[str],
    *,
    dry_run: bool = False,
    forgotten: frozenset[str] = frozenset(),
    only: frozenset[Digest] | None = None,
) -> Collected:
    """As `collect_garbage`; records of the results ``forgotten`` (chain ids) count as gone already.

    ``only``: no layer and no other blob goes (`layers.gc.collect`).
    """
    kept = [result for result in session.cache.results() if result.chain_id not in forgotten]
    # a result need not be unpacked itself, but what it stands on may be
    chains = {chain for result in kept for chain in (result.chain_id, result.parent_chain_id) if chain} | pinned
    if only is None and not dry_run:
        unreadable: list[str] = []
        images = frozenset(image.id.hex for image in session.store.images(lambda name, _error: unreadable.append(name)))
        if not unreadable:
            buildrecord.drop_orphans(session.root, images)
    # reads what compresses, which a build that keeps its layers here does not need
    from layers.gc import collect

    return collect(
        session.store,
        live_chains=[ChainId(Digest(chain)) for chain in chains],
        live_digests=[Digest(result.digest) for result in kept],
        dry_run=dry_run,
        only=only,
    )


def discard_archives(session: Session, digests: Collection[Digest]) -> None:
    """Blobs that were made to be sent are gone, when nothing refers to them and nobody else uses the store."""
    if digests:
        with pruning(session.root) as pinned:
            _collect(session, pinned, only=frozenset(digests))


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
        if not dry_run:
            session.cache.sweep_locks()
    freed_bytes, mounts = collected.freed_bytes, list[int]()
    if everything or unused_seconds is not None:
        before_ns = time.time_ns() - (0 if everything else unused_seconds or 0) * _SECOND_NS
        mounts = drop_kept(session.root, only or EVERY, before_ns, dry_run=dry_run)
        if only is None:
            freed_bytes += _drop_fetched(session, before_ns, dry_run=dry_run)
            freed_bytes += _drop_set_aside(session, before_ns, dry_run=dry_run)
            freed_bytes += failedsteps.remove_before(session.root, before_ns, dry_run=dry_run)
    return Pruned(len(plan.chain_ids), len(collected.chains), len(mounts), freed_bytes + sum(mounts))


def _drop_set_aside(session: Session, before_ns: int, *, dry_run: bool) -> int:
    """Indexes that could not be used and were put aside before ``before_ns`` are gone; their bytes."""
    freed_bytes = 0
    for path in session.cache.set_aside():
        with suppress(FileNotFoundError):
            # the time of a rename, rename(2)
            status = os.stat(path)
            if status.st_ctime_ns < before_ns:
                freed_bytes += status.st_blocks * BLOCK_BYTES
                if not dry_run:
                    os.unlink(path)
    return freed_bytes


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
                freed_bytes += tree_bytes(place)
                if not dry_run:
                    remove_tree(place)
    return freed_bytes

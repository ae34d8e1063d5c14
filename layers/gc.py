"""Content that nothing refers to goes.

Live are: what the images of the index refer to, the unpacked layers of those images, and what the caller names: stacks
of layers and digests (the build cache passes those of its records). Of a live stack everything below it is live, and
the blobs of its layers; of a live layer the compressed forms a push has made.

Invariants: while somebody else uses the store, what is younger than the grace time stays, since its reference may be
yet to come; putting content again makes it young. Layers go before their blobs, a stack from its top down, so that a
kill in between leaves nothing that refers to what is gone.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Collection, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from layers import media
from layers.archive import closure
from layers.config import ImageConfig
from layers.descriptor import REF_NAME, Descriptor
from layers.digest import ChainId, Digest
from layers.errors import BlobNotFoundError, DamagedBlobError, FormatError, StoreError
from layers.registry import compressed
from layers.snapshotter import Snapshotter
from layers.storage import store_error
from layers.store import Store
from unionfs.namedtuple import NamedTuple

GRACE_SECONDS = 3600


class Collected(NamedTuple):
    """What went, or would go; ``freed_bytes`` counts the blobs."""

    blobs: tuple[Digest, ...]
    chains: tuple[ChainId, ...]
    temporary: int
    freed_bytes: int


def collect(
    store: Store,
    *,
    live_chains: Iterable[ChainId] = (),
    live_digests: Iterable[Digest] = (),
    grace_seconds: float = GRACE_SECONDS,
    dry_run: bool = False,
    only: Collection[Digest] | None = None,
) -> Collected:
    """Blobs and unpacked layers that nothing refers to are gone, and so is what killed processes left.

    ``grace_seconds`` counts only while others use the store. ``dry_run``: nothing is changed. ``only``: of what nothing
    refers to these blobs and their compressed forms alone, and nothing at all while others use the store.

    Raises:
        StoreError: something cannot be read or removed.
    """
    snapshots = Snapshotter(store)
    with _alone(store) as alone:
        newest_ns = time.time_ns() - int(grace_seconds * 1e9)
        digests, chains = _live(store, snapshots, live_chains, live_digests)
        dead_chains = [chain for chain in snapshots.chains() if chain not in chains]
        # the branch itself has the times of a root
        dead_chains = [chain for chain in dead_chains if alone or _is_older(snapshots.path(chain).parent, newest_ns)]
        dead_blobs = [digest for digest in store.blobs if digest not in digests]
        if only is not None:
            meant = _with_forms(store, only) if alone else frozenset[Digest]()
            dead_chains, dead_blobs = [], [digest for digest in dead_blobs if digest in meant]
        dead_blobs = [digest for digest in dead_blobs if alone or _is_older(store.blobs.path(digest), newest_ns)]
        freed = sum(store.blobs.size(digest) or 0 for digest in dead_blobs)
        if dry_run:
            return Collected(tuple(dead_blobs), tuple(dead_chains), 0, freed)
        for chain in sorted(dead_chains, key=lambda each: _height(snapshots, each), reverse=True):
            snapshots.drop(chain)
        for digest in dead_blobs:
            store.blobs.remove(digest)
        swept = store.sweep() + snapshots.sweep()
    return Collected(tuple(dead_blobs), tuple(dead_chains), swept, freed)


@contextmanager
def _alone(store: Store) -> Generator[bool, None, None]:
    """Whether nobody else uses the store; nobody begins to inside this block, if so."""
    fd = store.use_descriptor()
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except OSError:
        alone = False
    try:
        yield alone
    finally:
        # changing a lock gives the old one up first: it is taken again in either case (flock(2))
        fcntl.flock(fd, fcntl.LOCK_SH)


def _live(
    store: Store, snapshots: Snapshotter, live_chains: Iterable[ChainId], live_digests: Iterable[Digest]
) -> tuple[set[Digest], set[ChainId]]:
    digests = set(live_digests)
    chains: set[ChainId] = set()
    for entry in store.entries():
        digests.add(entry.digest)
        try:
            _mark(store, entry, digests, chains)
        except (FormatError, BlobNotFoundError, DamagedBlobError) as error:
            name = entry.annotations.get(REF_NAME, entry.digest)
            problem = f'store: nothing is removed, since the image "{name}" cannot be read: {error}'
            raise StoreError(problem) from error
    for chain in {*live_chains, *chains}:
        stack = snapshots.layer(chain)
        for each in () if stack is None else stack.chain:
            chains.add(each)
            layer = snapshots.layer(each)
            if layer is not None:
                digests.update({layer.diff_id, layer.blob})
    return _with_forms(store, digests), chains


def _with_forms(store: Store, digests: Collection[Digest]) -> set[Digest]:
    """``digests`` and those of the compressed forms of plain layers among them."""
    found = set(digests)
    for plain, forms in compressed.blobs_of(store).items():
        if plain in found:
            found.update(forms)
    return found


def _mark(store: Store, entry: Descriptor, digests: set[Digest], chains: set[ChainId]) -> None:
    for part in closure(store, entry):
        digests.add(part.digest)
        if part.media_type in media.CONFIGS:
            chains.update(ImageConfig.from_bytes(store.blobs.read(part.digest)).rootfs.chain_ids)


def _height(snapshots: Snapshotter, chain: ChainId) -> int:
    layer = snapshots.layer(chain)
    return 0 if layer is None else len(layer.chain)


def _is_older(path: Path, newest_ns: int) -> bool:
    try:
        return path.stat().st_mtime_ns < newest_ns
    except FileNotFoundError:
        return False
    except OSError as error:
        raise store_error(path, error) from error

"""Results of steps that are elsewhere (`builder.exchange`), as one build or ``pybuild cache import`` uses them.

The records are known from the start; a step that hits takes nothing but their word, and its layer comes when it is
needed (`builder.absent`).  Invariants: what is found lies on the step's own parent, whatever chain a record names; a
place that turns out to be wrong is not asked again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from builder import cachemounts
from builder.absent import AbsentLayers
from builder.errors import BuildError
from builder.events import Journal
from builder.exchange import RemoteCache
from builder.results import LayerResult, StepResult
from builder.session import Session
from builder.steps.keys import StepKeys
from builder.steps.pull import told_fetch
from cache.keys import CacheKey
from cache.records import CacheRecord
from cache.remote import RemoteRecord
from layers.descriptor import Descriptor
from layers.digest import ChainId, Digest, chain_id
from layers.ensure import unpack_layer
from layers.errors import LayersError
from layers.reference import Reference
from unionfs.namedtuple import NamedTuple


class FoundResult(NamedTuple):
    """A result that is elsewhere, and the records by which later builds find it."""

    result: StepResult
    records: tuple[CacheRecord, ...]


class CacheOrigin:
    """A cache as a place where layers are (`builder.absent.Origin`); to be made on the event loop's thread."""

    replaceable = True

    def __init__(self, cache: RemoteCache, session: Session, journal: Journal) -> None:
        self._cache = cache
        self._fetch = told_fetch(f"fetching results from {cache.name}", journal)
        self._session = session

    @property
    def name(self) -> str:
        """See `Origin`."""
        return self._cache.name

    @property
    def repository(self) -> Reference | None:
        """See `Origin`."""
        return self._cache.place.repository

    def fetch(self, blobs: Sequence[Descriptor], cancel: threading.Event) -> None:
        """See `Origin`."""
        self._fetch(lambda _tell: self._cache.place.fetch(self._session.store, blobs, cancel))


class RemoteCaches:
    """The results elsewhere that one build may use."""

    def __init__(self, caches: Sequence[RemoteCache], session: Session, absent: AbsentLayers, journal: Journal) -> None:
        self._caches = caches
        self._session = session
        self._absent = absent
        self._warn = journal.notice
        self._origins = {cache.name: CacheOrigin(cache, session, journal) for cache in caches}

    def __bool__(self) -> bool:
        return bool(self._caches)

    def has(self, key: CacheKey) -> bool:
        """Whether one of them has a result under ``key``."""
        return any(key.digest in cache.records for cache in self._caches)

    def find(self, keys: StepKeys, parent: StepResult, identity: str) -> FoundResult | None:
        """The result under one of ``keys``, whose layer is known to be elsewhere now. Raises LostLayerError."""
        used: list[CacheKey] = [keys.definition]
        if not self.has(keys.definition):
            if keys.content is None:
                return None
            used.append(keys.content())
        for cache in self._caches:
            record = cache.records.get(used[-1].digest)
            if record is not None:
                return self._found(cache, record, used, parent, identity)
        return None

    def _found(
        self, cache: RemoteCache, record: RemoteRecord, used: Sequence[CacheKey], parent: StepResult, identity: str
    ) -> FoundResult:
        blob, diff_id = cache.layers[record.layer], Digest(record.diff_id)
        below = None if parent.chain_id is None else ChainId(Digest(parent.chain_id))
        chain = chain_id(below, diff_id)
        below_text = parent.chain_id or ""
        records = tuple(local_record(record, blob, chain, below_text, identity, key) for key in used)
        # under its other keys as well, which this build has no need to know
        keys = {record.key for record in records}
        same = [each for each in cache.records.values() if each.chain_id == chain and each.key not in keys]
        records += tuple(local_record(each, blob, chain, below_text, identity, None) for each in same)
        self._absent.note_result(blob, self._origins[cache.name], records)
        layer = LayerResult(record.diff_id, chain, blob, record.created)
        return FoundResult(StepResult(used[0].digest, (*parent.layers, layer)), records)

    def has_mount(self, mount_id: str) -> bool:
        """Whether a cache mount with that id came with one of them."""
        return any(cachemounts.identity(mount_id) in cache.mounts for cache in self._caches)

    def take_mount(self, mount_id: str, place: Path, cancel: threading.Event) -> bool:
        """Whether ``place`` (see ``cachemounts.take``) holds what the first that has the cache mount has of it."""
        name = cachemounts.identity(mount_id)
        for cache in self._caches:
            if name not in cache.mounts:
                continue
            try:
                cachemounts.take(self._session, cache, cache.mounts[name], place, cancel)
            except (LayersError, OSError, BuildError) as error:
                if cancel.is_set():
                    return False
                self._warn(f"cache mount {mount_id!r} is not taken from {cache.name!r}: {error}")
            else:
                return True
        return False


def local_record(
    record: RemoteRecord, blob: Descriptor, chain: str, parent: str, identity: str, key: CacheKey | None
) -> CacheRecord:
    """``record`` as one of this machine, under ``key`` or its own."""
    return CacheRecord(
        key=record.key if key is None else key.digest,
        kind=record.kind if key is None else key.domain,
        chain_id=chain,
        parent_chain_id=parent,
        diff_id=record.diff_id,
        media_type=blob.media_type,
        digest=blob.digest,
        size_bytes=blob.size,
        created=record.created,
        created_ns=record.created_ns,
        duration_ns=record.duration_ns,
        identity=identity,
        description=record.description,
        parts=() if key is None else key.parts,
    )


def take_all(cache: RemoteCache, session: Session, cancel: threading.Event) -> tuple[int, int]:
    """All results of ``cache`` whose parents are here or came with it are on this machine; how many, how many not.

    Raises LayersError, OSError.
    """
    waiting = {(record.chain_id, record.key): record for record in cache.records.values()}
    taken: set[str] = set()
    progress = True
    while waiting and progress:
        progress = False
        for place, record in tuple(waiting.items()):
            below = ChainId(Digest(record.parent_chain_id)) if record.parent_chain_id else None
            if below is not None and not session.snapshotter.has(below):
                continue
            if chain_id(below, Digest(record.diff_id)) != record.chain_id:
                raise LayersError(f"record {record.key} names a chain that its layers do not make")
            blob = cache.layers[record.layer]
            cache.place.fetch(session.store, (blob,), cancel)
            chain = unpack_layer(session.store, blob, Digest(record.diff_id), below)
            session.cache.add(local_record(record, blob, chain, record.parent_chain_id, "", None))
            taken.add(chain)
            del waiting[place]
            progress = True
    return len(taken), len({chain for chain, _ in waiting})

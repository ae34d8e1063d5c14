"""Layers a build knows and does not have: those of bases, and results that are elsewhere. They come when needed.

::

    FROM, a hit elsewhere ── note ──▶ known by digest ── fetch ──▶ blob in the store, result in the cache

Needed are the directory of a layer by a step that runs on it or reads it, and its bytes by an image that is stored or
written to a file; a push to a registry that has them needs neither.  Invariants: what a cache elsewhere says of a layer
is compared when the layer comes, and only then remembered on this machine; a layer is fetched by one thread at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio

from builder.blocking import call_blocking
from builder.errors import LostLayerError
from cache.records import CacheRecord
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.errors import LayersError
from layers.layer import Layer
from layers.reference import Reference
from layers.store import Store


class Origin(Protocol):
    """Where layers are. ``replaceable``: a build can do without, since what they hold can be made here."""

    @property
    def name(self) -> str:
        """The place for people."""
        ...

    @property
    def repository(self) -> Reference | None:
        """A name in the repository they are in, None where they are in no registry."""
        ...

    @property
    def replaceable(self) -> bool:
        """See above."""
        ...

    def fetch(self, blobs: Sequence[Descriptor], cancel: threading.Event) -> None:
        """``blobs`` are in the store. Raises LayersError, OSError, BuildError."""
        ...


class AbsentLayers:
    """The layers that are elsewhere; may be used by several threads. ``remember`` gets the results that came."""

    def __init__(self, store: Store, remember: Callable[[Sequence[CacheRecord]], None]) -> None:
        self._store = store
        self._remember = remember
        self._origins: dict[Digest, Origin] = {}
        self._records: dict[Digest, list[CacheRecord]] = {}
        self._lock = threading.Lock()
        self._fetching: dict[int, threading.Lock] = {}

    def note(self, blob: Descriptor, origin: Origin) -> None:
        """``origin`` has ``blob``; of several the first that said so is asked."""
        with self._lock:
            self._origins.setdefault(blob.digest, origin)
            self._fetching.setdefault(id(origin), threading.Lock())

    def note_result(self, blob: Descriptor, origin: Origin, records: Sequence[CacheRecord]) -> None:
        """``origin`` has ``blob`` and says that it is the result that ``records`` tell of.

        Raises LostLayerError: the blob is here and is not.
        """
        self.note(blob, origin)
        with self._lock:
            self._records.setdefault(blob.digest, []).extend(records)
        if self._is_here(blob):
            self._take(blob, origin)

    def knows(self, digest: Digest) -> bool:
        """Whether something is said to have the layer."""
        return digest in self._origins

    def missing(self, blobs: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
        """Those of ``blobs`` that something else has and the store has not, each once."""
        unique = {blob.digest: blob for blob in blobs if self.knows(blob.digest)}
        return tuple(blob for blob in unique.values() if not self._is_here(blob))

    def repositories(self, digest: Digest) -> tuple[Reference, ...]:
        """Names in the repositories that are said to have the layer."""
        origin = self._origins.get(digest)
        found = None if origin is None else origin.repository
        return () if found is None else (found,)

    def fetch(self, blobs: Iterable[Descriptor], cancel: threading.Event) -> None:
        """Those of ``blobs`` that are known are in the store; of others nothing is done. Blocks its thread.

        Raises:
            LostLayerError: a cache elsewhere does not have one, or it is not what the cache said.
            BuildError: a base cannot be had.
        """
        wanted: dict[int, list[Descriptor]] = {}
        origins: dict[int, Origin] = {}
        for blob in self.missing(blobs):
            origin = self._origins[blob.digest]
            wanted.setdefault(id(origin), []).append(blob)
            origins[id(origin)] = origin
        for key, origin in origins.items():
            with self._fetching[key]:
                self._fetch(origin, self.missing(wanted[key]), cancel)

    def fetch_for_step(self, blobs: Sequence[Descriptor]) -> None:
        """As `fetch`; called in the thread of a step, and ends with the step."""

        def fetch(cancel: threading.Event) -> None:
            self.fetch(blobs, cancel)

        if self.missing(blobs):
            trio.from_thread.run(call_blocking, fetch, threading.Event())

    def _fetch(self, origin: Origin, blobs: Sequence[Descriptor], cancel: threading.Event) -> None:
        if not blobs:
            return
        try:
            origin.fetch(blobs, cancel)
        except (LayersError, OSError) as error:
            if cancel.is_set() or not origin.replaceable:
                raise
            raise LostLayerError(origin.name, str(error)) from error
        for blob in blobs:
            self._take(blob, origin)

    def _take(self, blob: Descriptor, origin: Origin) -> None:
        """The results whose layer is ``blob``, which is here, are remembered. Raises LostLayerError."""
        with self._lock:
            records = self._records.pop(blob.digest, [])
        for diff_id in {record.diff_id for record in records}:
            self._compare(blob, Digest(diff_id), origin)
        if records:
            self._remember(records)

    def _compare(self, blob: Descriptor, diff_id: Digest, origin: Origin) -> None:
        if blob.digest == diff_id:
            return
        try:
            Layer(self._store.blobs, blob, diff_id).uncompressed_size()
        except LayersError as error:
            raise LostLayerError(origin.name, str(error)) from error

    def _is_here(self, blob: Descriptor) -> bool:
        return self._store.blobs.size(blob.digest) == blob.size

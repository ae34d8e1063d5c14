"""Results of steps from elsewhere and to elsewhere: ``--cache-from``, ``--cache-to``, ``pybuild cache export|import``.

    type=local      an image layout in a directory          (src=DIR, dest=DIR)
    type=registry   a manifest of its own in a repository   (ref=NAME)
    type=inline     an annotation of the image's manifest   (written only; read by type=registry of the image)

The records are read at the start, a layer when a step hits.  Invariants: a layer is unpacked on the step's own parent
and must have the diff ID the record says; whatever is wrong elsewhere is a warning and the build goes on without it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from builder import cachemounts
from builder.cachemounts import PackedMount
from builder.errors import BuildError
from builder.results import LayerResult, StepResult
from builder.session import Session
from builder.steps.keys import StepKeys
from cache.keys import CacheKey
from cache.records import CacheRecord
from cache.remote import ANNOTATION, CONFIG_TYPE, RemoteMount, RemoteRecord, decode, encode
from layers.config import ImageConfig
from layers.descriptor import Descriptor
from layers.digest import ChainId, Digest, chain_id, sha256
from layers.ensure import unpack_layer
from layers.errors import LayersError
from layers.manifest import Index, Manifest
from layers.platform import Platform
from layers.reference import Reference
from layers.store import Store, StoredImage

_LOCAL_NAME = "cache:latest"
Warn = Callable[[str], None]


class Place(Protocol):
    """Where results are kept. Calls block; they raise LayersError or OSError."""

    def read(self, platform: Platform, cancel: threading.Event) -> tuple[Manifest, bytes]:
        """The manifest and the bytes of its configuration."""
        ...

    def fetch(self, store: Store, blob: Descriptor, cancel: threading.Event) -> None:
        """``blob`` is in ``store``."""
        ...

    def write(self, store: Store, manifest: Manifest, config: bytes, cancel: threading.Event) -> None:
        """The manifest is there with all it refers to, which is in ``store``."""
        ...


class LocalPlace:
    """A directory."""

    def __init__(self, directory: str) -> None:
        self._directory = os.path.abspath(directory)

    def read(self, platform: Platform, cancel: threading.Event) -> tuple[Manifest, bytes]:
        """See `Place`."""
        del platform, cancel
        if not os.path.isfile(os.path.join(self._directory, "index.json")):
            raise LayersError(f"directory {self._directory!r} holds no results")
        with Store(self._directory) as kept:
            for entry in kept.entries():
                found = kept.read_manifest(entry)
                if not isinstance(found, Index) and found.config.media_type == CONFIG_TYPE:
                    return found, kept.blobs.read(found.config.digest)
        raise LayersError(f"directory {self._directory!r} holds no results")

    def fetch(self, store: Store, blob: Descriptor, cancel: threading.Event) -> None:
        """See `Place`."""
        del cancel
        if store.blobs.size(blob.digest) == blob.size:
            store.blobs.put(iter(()), expected=blob)
            return
        with Store(self._directory) as kept, kept.blobs.open(blob.digest) as content:
            store.blobs.put(content, expected=blob)

    def write(self, store: Store, manifest: Manifest, config: bytes, cancel: threading.Event) -> None:
        """See `Place`; what earlier results alone needed goes."""
        from layers.gc import collect

        with Store(self._directory) as kept:
            for layer in manifest.layers:
                if cancel.is_set():
                    return
                if kept.blobs.size(layer.digest) is None:
                    with store.blobs.open(layer.digest) as content:
                        kept.blobs.put(content, expected=layer)
            kept.blobs.put(config, expected=manifest.config)
            kept.blobs.put(manifest.raw)
            kept.tag(_LOCAL_NAME, manifest.descriptor())
            collect(kept, live_chains=())


class RegistryPlace:
    """A name in a registry."""

    def __init__(self, reference: str, session: Session) -> None:
        self._reference = Reference.parse(reference)
        self._session = session

    def read(self, platform: Platform, cancel: threading.Event) -> tuple[Manifest, bytes]:
        """See `Place`."""
        from layers.registry import artifacts

        return artifacts.read_manifest(self._reference, platform, self._session.registries, cancel)

    def fetch(self, store: Store, blob: Descriptor, cancel: threading.Event) -> None:
        """See `Place`."""
        from layers.registry import artifacts

        artifacts.fetch_blob(store, self._reference, blob, self._session.registries, cancel)

    def write(self, store: Store, manifest: Manifest, config: bytes, cancel: threading.Event) -> None:
        """See `Place`."""
        from layers.registry import transfer

        store.blobs.put(config, expected=manifest.config)
        image = StoredImage((), manifest.descriptor(), manifest, ImageConfig(architecture="", os=""))
        transfer.push(store, image, self._reference, settings=self._session.registries, cancel=cancel)


class RemoteCache(NamedTuple):
    """Results elsewhere, as far as they are known: records by key, cache mounts by id, and the layers they name."""

    name: str
    place: Place
    records: Mapping[str, RemoteRecord]
    mounts: Mapping[str, RemoteMount]
    layers: tuple[Descriptor, ...]


def place_of(fields: Mapping[str, str], session: Session) -> Place:
    """The place that the fields of ``--cache-from`` or ``--cache-to`` name. Raises FormatError for a bad name."""
    if fields["type"] == "local":
        return LocalPlace(fields.get("src") or fields["dest"])
    return RegistryPlace(fields["ref"], session)


def name_of(fields: Mapping[str, str]) -> str:
    """The place for people."""
    return fields.get("ref") or fields.get("src") or fields.get("dest") or fields["type"]


def open_caches(
    wanted: Iterable[Mapping[str, str]], session: Session, platform: Platform, warn: Warn, cancel: threading.Event
) -> tuple[RemoteCache, ...]:
    """Those of ``wanted`` that can be read; of the others ``warn`` is told."""
    found: list[RemoteCache] = []
    for fields in wanted:
        name = name_of(fields)
        try:
            found.append(read_cache(name, place_of(fields, session), platform, cancel))
        except (LayersError, OSError, BuildError) as error:
            warn(f"cache {name!r} is not used: {error}")
    return tuple(found)


def read_cache(name: str, place: Place, platform: Platform, cancel: threading.Event) -> RemoteCache:
    """What is at ``place``. Raises LayersError, OSError."""
    manifest, config = place.read(platform, cancel)
    raw: bytes | str = config
    if manifest.config.media_type != CONFIG_TYPE:
        raw = manifest.annotations.get(ANNOTATION, "")
        if not raw:
            raise LayersError("it is an image that was built without --cache-to type=inline")
    found = decode(raw, len(manifest.layers))
    return RemoteCache(name, place, found.records, found.mounts, manifest.layers)


class RemoteCaches:
    """The results elsewhere that one build may use."""

    def __init__(self, caches: Sequence[RemoteCache], session: Session, warn: Warn) -> None:
        self._caches = list(caches)
        self._session = session
        self._warn = warn

    def __bool__(self) -> bool:
        return bool(self._caches)

    def find(self, keys: StepKeys, parent: StepResult, identity: str, cancel: threading.Event) -> StepResult | None:
        """The result under one of ``keys``, which is now in the store and in the cache of this machine."""
        for cache in tuple(self._caches):
            try:
                found = self._take(cache, keys, parent, identity, cancel)
            except (LayersError, OSError, BuildError) as error:
                if cancel.is_set():
                    return None
                self._warn(f"cache {cache.name!r} is not used any more: {error}")
                self._caches.remove(cache)
                continue
            if found is not None:
                return found
        return None

    def has_mount(self, mount_id: str) -> bool:
        """Whether a cache mount with that id came with one of them."""
        return any(cachemounts.identity(mount_id) in cache.mounts for cache in self._caches)

    def take_mount(self, mount_id: str, place: Path, cancel: threading.Event) -> bool:
        """Whether ``place`` (see ``cachemounts.take``) holds what the first that has the cache mount has of it."""
        name = cachemounts.identity(mount_id)
        for cache in tuple(self._caches):
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

    def _take(
        self, cache: RemoteCache, keys: StepKeys, parent: StepResult, identity: str, cancel: threading.Event
    ) -> StepResult | None:
        used: list[CacheKey] = [keys.definition]
        record = cache.records.get(keys.definition.digest)
        if record is None and keys.content is not None:
            used.append(keys.content())
            record = cache.records.get(used[-1].digest)
        if record is None:
            return None
        store, blob = self._session.store, cache.layers[record.layer]
        cache.place.fetch(store, blob, cancel)
        below = None if parent.chain_id is None else ChainId(Digest(parent.chain_id))
        chain = unpack_layer(store, blob, Digest(record.diff_id), below)
        self._session.cache.add(
            *(local_record(record, blob, chain, parent.chain_id or "", identity, key) for key in used)
        )
        layer = LayerResult(record.diff_id, chain, blob, record.created)
        return StepResult(keys.definition.digest, (*parent.layers, layer))


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


def write_cache(
    records: Sequence[CacheRecord],
    mounts: Sequence[PackedMount],
    place: Place,
    session: Session,
    cancel: threading.Event,
) -> str:
    """``records`` and ``mounts`` with their layers are at ``place``; how many, for people.

    Raises: LayersError, OSError.
    """
    layers: dict[str, Descriptor] = {}
    for record in records:
        layers.setdefault(record.diff_id, Descriptor(record.media_type, Digest(record.digest), record.size_bytes))
    results = len(layers)
    for mount in mounts:
        # packed without compression: its digest is the diff ID
        layers.setdefault(mount.blob.digest, mount.blob)
    places = {diff_id: number for number, diff_id in enumerate(layers)}
    remote = [RemoteMount(mount.id, mount.blob.digest, *mount[2:], places[mount.blob.digest]) for mount in mounts]
    config = encode(records, places, remote)
    descriptor = Descriptor(CONFIG_TYPE, sha256(config), len(config))
    manifest = Manifest.create(descriptor, tuple(layers.values()), artifact_type=CONFIG_TYPE)
    place.write(session.store, manifest, config, cancel)
    return describe(results, len(mounts))


def describe(results: int, mounts: int) -> str:
    """So many results and cache mounts, for people."""
    return f"{results} results" + (f" and {mounts} cache mounts" if mounts else "")


def inline(manifest: Manifest, diff_ids: Sequence[str], records: Sequence[CacheRecord]) -> Manifest:
    """``manifest`` with the ``records`` of its own layers as an annotation."""
    places = {diff_id: number for number, diff_id in enumerate(diff_ids)}
    own = [record for record in records if record.diff_id in places]
    return Manifest.create(
        manifest.config,
        manifest.layers,
        {**manifest.annotations, ANNOTATION: encode(own, places).decode()},
        media_type=manifest.media_type,
    )


def exportable(session: Session, records: Iterable[CacheRecord]) -> list[CacheRecord]:
    """Those of ``records`` whose layers are in the store."""
    return [record for record in records if session.store.blobs.size(Digest(record.digest)) is not None]


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
            cache.place.fetch(session.store, blob, cancel)
            chain = unpack_layer(session.store, blob, Digest(record.diff_id), below)
            session.cache.add(local_record(record, blob, chain, record.parent_chain_id, "", None))
            taken.add(chain)
            del waiting[place]
            progress = True
    return len(taken), len({chain for chain, _ in waiting})

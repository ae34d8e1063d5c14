"""Results of steps from elsewhere and to elsewhere: ``--cache-from``, ``--cache-to``, ``pybuild cache export|import``.

    type=local      an image layout in a directory          (src=DIR, dest=DIR)
    type=registry   a manifest of its own in a repository   (ref=NAME)
    type=inline     an annotation of the image's manifest   (written only; read by type=registry of the image)

The records are read when a build starts (`builder.elsewhere`), layers when they are needed.  Invariant: whatever is
wrong elsewhere is a warning and the build goes on without it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from builder.cachemounts import PackedMount
from builder.errors import BuildError
from builder.session import Session
from cache.records import CacheRecord
from cache.remote import ANNOTATION, CONFIG_TYPE, RemoteMount, RemoteRecord, decode, encode
from layers.config import ImageConfig
from layers.descriptor import Descriptor
from layers.digest import Digest, sha256
from layers.errors import LayersError
from layers.manifest import Index, Manifest
from layers.platform import Platform
from layers.reference import Reference
from layers.store import Store, StoredImage
from unionfs.namedtuple import NamedTuple

_LOCAL_NAME = "cache:latest"
Warn = Callable[[str], None]


class Place(Protocol):
    """Where results are kept. Calls block; they raise LayersError or OSError."""

    def read(self, platform: Platform, cancel: threading.Event) -> tuple[Manifest, bytes]:
        """The manifest and the bytes of its configuration."""
        ...

    @property
    def repository(self) -> Reference | None:
        """The name, where it is in a registry."""
        ...

    def fetch(self, store: Store, blobs: Sequence[Descriptor], cancel: threading.Event) -> None:
        """``blobs`` are in ``store``."""
        ...

    def write(self, session: Session, manifest: Manifest, config: bytes, cancel: threading.Event) -> None:
        """The manifest is there with all it refers to, which is in the store, or known to be elsewhere."""
        ...


class LocalPlace:
    """A directory."""

    repository = None

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

    def fetch(self, store: Store, blobs: Sequence[Descriptor], cancel: threading.Event) -> None:
        """See `Place`."""
        with Store(self._directory) as kept:
            for blob in blobs:
                if cancel.is_set():
                    return
                if not store.blobs.refresh(blob.digest, blob.size):
                    with kept.blobs.open(blob.digest) as content:
                        store.blobs.put(content, expected=blob)

    def write(self, session: Session, manifest: Manifest, config: bytes, cancel: threading.Event) -> None:
        """See `Place`; what earlier results alone needed goes."""
        from layers.gc import collect

        with Store(self._directory) as kept:
            lacking = [layer for layer in manifest.layers if kept.blobs.size(layer.digest) is None]
            if session.absent is not None:
                session.absent.fetch(lacking, cancel)
            for layer in lacking:
                if cancel.is_set():
                    return
                with session.store.blobs.open(layer.digest) as content:
                    kept.blobs.put(content, expected=layer)
            kept.blobs.put(config, expected=manifest.config)
            kept.blobs.put(manifest.raw)
            kept.tag(_LOCAL_NAME, manifest.descriptor())
            collect(kept, live_chains=())


class RegistryPlace:
    """A name in a registry."""

    def __init__(self, reference: str, session: Session) -> None:
        self.repository = Reference.parse(reference)
        self._session = session

    def read(self, platform: Platform, cancel: threading.Event) -> tuple[Manifest, bytes]:
        """See `Place`."""
        from layers.registry import artifacts

        return artifacts.read_manifest(self.repository, platform, self._session.registries, cancel)

    def fetch(self, store: Store, blobs: Sequence[Descriptor], cancel: threading.Event) -> None:
        """See `Place`."""
        from layers.registry import artifacts

        artifacts.fetch_blobs(store, self.repository, blobs, self._session.registries, cancel)

    def write(self, session: Session, manifest: Manifest, config: bytes, cancel: threading.Event) -> None:
        """See `Place`."""
        from layers.registry import transfer

        session.store.blobs.put(config, expected=manifest.config)
        image = StoredImage((), manifest.descriptor(), manifest, ImageConfig(architecture="", os=""))
        transfer.push(
            session.store,
            image,
            self.repository,
            settings=session.registries,
            elsewhere=session.absent,
            cancel=cancel,
        )


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
    place.write(session, manifest, config, cancel)
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
    """Those of ``records`` whose layers are in the store or known to be elsewhere."""

    def is_there(digest: Digest) -> bool:
        known = session.absent is not None and session.absent.knows(digest)
        return known or session.store.blobs.size(digest) is not None

    return [record for record in records if is_there(Digest(record.digest))]

"""From a store into a registry."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from layers import media
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.errors import BlobNotFoundError, FormatError, LayersError
from layers.manifest import Index, Manifest
from layers.reference import Reference
from layers.registry import compressed
from layers.registry.client import RegistryClient
from layers.registry.compress import Compressor, choose
from layers.registry.errors import ContentError
from layers.registry.progress import Callback, Reporter
from layers.registry.settings import RegistrySettings, api_host
from layers.registry.workers import Transfer
from layers.store import Store, StoredImage

if TYPE_CHECKING:
    from layers.registry.transfer import Elsewhere

_MOST_MOUNT_SOURCES = 3


def push(
    store: Store,
    source: Reference | str | StoredImage,
    target: Reference,
    tags: tuple[str, ...],
    settings: RegistrySettings,
    compression: str,
    elsewhere: Elsewhere | None,
    progress: Callback | None,
    cancel: threading.Event | None,
) -> Digest:
    """As `layers.registry.transfer.push`."""
    compressor = choose(compression)
    image = source if isinstance(source, StoredImage) else store.image(source)
    store.claim()
    with Transfer(target.canonical, target.repository, settings, cancel, push=True) as transfer:
        sender = _Sender(store, target, transfer, compressor, Reporter("push", progress), elsewhere)
        blobs = tuple({blob.digest: blob for blob in (*image.manifest.layers, image.manifest.config)}.values())
        sent = dict(zip((blob.digest for blob in blobs), transfer.map(sender.send, blobs), strict=True))
        manifest = _rewrite(image.manifest, sent)
        names = _names(target, tags, manifest.digest)
        transfer.map(lambda name: sender.client().put_manifest(manifest.raw, manifest.media_type, name), names)
    return manifest.digest


def _rewrite(manifest: Manifest, sent: Mapping[Digest, Descriptor]) -> Manifest:
    """The manifest with the layers as they were sent; itself, byte by byte, when nothing changed."""
    layers = tuple(sent[layer.digest] for layer in manifest.layers)
    if all(new.digest == old.digest for new, old in zip(layers, manifest.layers, strict=True)):
        return manifest
    return Manifest.create(
        manifest.config,
        layers,
        manifest.annotations,
        media_type=manifest.media_type,
        artifact_type=manifest.artifact_type,
        subject=manifest.subject,
    )


def _names(target: Reference, tags: tuple[str, ...], digest: Digest) -> tuple[str, ...]:
    """Tags to be given, or the digest when there is none. Raises ContentError for another digest than asked for."""
    if target.digest is not None and target.digest != digest:
        raise ContentError(target.canonical, f"the image has the digest {digest} there, expected {target.digest}")
    names = tags if target.tag is None else (target.tag, *tags)
    return tuple(dict.fromkeys(names)) or (str(digest),)


class _Sender:
    """One blob at a time to the registry; called by several threads."""

    def __init__(
        self,
        store: Store,
        target: Reference,
        transfer: Transfer,
        compressor: Compressor | None,
        reporter: Reporter,
        elsewhere: Elsewhere | None,
    ) -> None:
        self._store = store
        self._transfer = transfer
        self._host = api_host(target.registry)
        self._compressor = compressor
        self._reporter = reporter
        self._elsewhere = elsewhere
        self._target = target
        self._sources = _mount_sources(store, target)

    def client(self) -> RegistryClient:
        """The client of this thread."""
        return self._transfer.client(self._host)

    def send(self, blob: Descriptor) -> Descriptor:
        """The registry holds the blob, compressed when it is a plain layer; the descriptor of what it holds."""
        reporter, client = self._reporter, self.client()
        reporter.state(blob, "waiting")
        outgoing = self._known(blob)
        if outgoing is not None and client.has_blob(outgoing):
            reporter.state(blob, "exists", outgoing)
            return outgoing
        if outgoing is not None and client.mount_blob(outgoing, self._repositories(blob)):
            reporter.state(blob, "mounted", outgoing)
            return outgoing
        if self._elsewhere is not None:
            self._elsewhere.fetch((blob,), self._transfer.stop)
        ready = self._ready(blob)
        if outgoing != ready and client.has_blob(ready):
            reporter.state(blob, "exists", ready)
            return ready
        if self._store.blobs.size(ready.digest) != ready.size:
            raise BlobNotFoundError(f"{self._transfer.subject}: blob {ready.digest} is not in the store")
        report = reporter.state(blob, "transferring", ready)
        client.send_blob(ready, self._store.blobs.path(ready.digest), report)
        reporter.state(blob, "done", ready)
        return ready

    def _repositories(self, blob: Descriptor) -> tuple[str, ...]:
        """The repositories of the same registry that may have the blob."""
        found = self._sources.get(blob.digest, ())
        others = () if self._elsewhere is None else self._elsewhere.repositories(blob.digest)
        near = (other.repository for other in others if other.registry == self._target.registry)
        return tuple(dict.fromkeys(name for name in (*near, *found) if name != self._target.repository))

    def _known(self, blob: Descriptor) -> Descriptor | None:
        """What will be sent, as far as it is known without work."""
        if self._compressor is None or media.layer_compression(blob.media_type) != "none":
            return blob
        return compressed.find(self._store, blob.digest, self._compressor.name)

    def _ready(self, blob: Descriptor) -> Descriptor:
        """What will be sent, in the store."""
        if self._compressor is None or media.layer_compression(blob.media_type) != "none":
            return blob
        known = compressed.find(self._store, blob.digest, self._compressor.name)
        if known is not None and self._store.blobs.size(known.digest) == known.size:
            return known
        return compressed.compress(
            self._store,
            blob,
            self._compressor,
            check=self.client().session.stop_when_cancelled,
            report=self._reporter.state(blob, "compressing"),
        )


def _mount_sources(store: Store, target: Reference) -> dict[Digest, tuple[str, ...]]:
    """For each layer the repositories of the same registry that may hold it: those the store knows images of."""
    found: dict[Digest, list[str]] = {}
    for entry in store.entries():
        reference = _name_of(entry)
        if reference is None or reference.registry != target.registry or reference.repository == target.repository:
            continue
        try:
            manifest = store.read_manifest(entry)
        except LayersError:
            continue  # somebody else's image is damaged or gone, which is not our concern
        for layer in () if isinstance(manifest, Index) else manifest.layers:
            sources = found.setdefault(layer.digest, [])
            if reference.repository not in sources and len(sources) < _MOST_MOUNT_SOURCES:
                sources.append(reference.repository)
    return {digest: tuple(sources) for digest, sources in found.items()}


def _name_of(entry: Descriptor) -> Reference | None:
    from layers.descriptor import REF_NAME

    try:
        return Reference.parse(entry.annotations[REF_NAME])
    except (KeyError, FormatError):
        return None

"""From a store into a registry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from layers import media
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.errors import BlobNotFoundError, FormatError, LayersError
from layers.manifest import Index, Manifest
from layers.platform import Platform
from layers.reference import Reference
from layers.registry import compressed, referrers
from layers.registry.client import RegistryClient
from layers.registry.compress import Compressor, choose
from layers.registry.errors import ContentError
from layers.registry.progress import Callback, Reporter
from layers.registry.rewriting import rewrite
from layers.registry.settings import RegistrySettings, api_host
from layers.registry.uploads import Opener
from layers.registry.workers import Transfer
from layers.store import Store, StoredImage
from layers.tree import Node, read_tree

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
    platform: Platform | None = None,
) -> Digest:
    """As `layers.registry.transfer.push`."""
    compressor = choose(compression)
    tree = _read(store, source, platform)
    store.claim()
    with Transfer(target.canonical, target.repository, settings, cancel, push=True) as transfer:
        sender = _Sender(store, target, transfer, compressor, Reporter("push", progress), elsewhere)
        blobs = tree.blobs()
        sent = dict(zip((blob.digest for blob in blobs), transfer.map(sender.send, blobs), strict=True))
        made = rewrite(
            tree,
            sent,
            lambda blob: store.blobs.read(blob.digest),
            lambda raw, media_type: store.blobs.put(raw, media_type=media_type),
        )
        gone = {blob.digest for blob in sent.values()}
        transfer.map(sender.send, [blob for blob in made.blobs() if blob.digest not in gone])
        top = made.found
        names = names_for(target, tags, top.digest)
        put_manifests(transfer, sender.client, made, names)
    return top.digest


def put_manifests(transfer: Transfer, client: Callable[[], RegistryClient], tree: Node, names: Sequence[str]) -> None:
    """The registry holds all manifests of the tree, whose blobs it has, and the top under the names.

    What is referred to goes before what refers to it, the names at the very end.
    """
    below = [node.found for node in tree.walk() if node.found.digest != tree.found.digest]
    transfer.map(partial(_put, client), [found for found in below if isinstance(found, Manifest)])
    for found in below:
        if isinstance(found, Index):  # one may be in another
            transfer.call(partial(_put, client, found))
    transfer.map(lambda name: _put(client, tree.found, name), names)


def _put(client: Callable[[], RegistryClient], found: Manifest | Index, name: str | None = None) -> None:
    here = client()
    lists = here.put_manifest(found.raw, found.media_type, name or str(found.digest))
    if found.subject is not None and not lists:
        referrers.add_by_tag(here, found.subject.digest, referrers.describe(found))


def _read(store: Store, source: Reference | str | StoredImage, platform: Platform | None) -> Node:
    """What is to be pushed: the whole index that a name stands for, or one image. Raises LayersError."""
    at_hand: dict[Digest, bytes] = {}
    if isinstance(source, StoredImage):
        # a manifest need not lie in the store to be pushed
        at_hand[source.manifest.digest] = source.manifest.raw
        top, shown = source.descriptor, str(source.names[0] if source.names else source.descriptor.digest)
    else:
        found = store.find(source) if platform is None else None
        top, shown = found or store.image(source, platform).descriptor, str(source)

    def read(descriptor: Descriptor) -> bytes:
        try:
            return at_hand.get(descriptor.digest) or store.blobs.read(descriptor.digest)
        except BlobNotFoundError as error:
            which = f" for {descriptor.platform}" if descriptor.platform is not None else f" {descriptor.digest}"
            raise BlobNotFoundError(f'image "{shown}": its manifest{which} is not in the store') from error

    return read_tree(top, read)


def names_for(target: Reference, tags: tuple[str, ...], digest: Digest) -> tuple[str, ...]:
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
        self._sources = mount_sources(store, target.registry, target.repository)

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
        blobs = self._store.blobs
        try:
            blobs.require(ready)
        except BlobNotFoundError as error:
            raise BlobNotFoundError(f"{self._transfer.subject}: blob {ready.digest} is not in the store") from error
        report = reporter.state(blob, "transferring", ready)
        try:
            client.send_blob(ready, file_opener(blobs.path(ready.digest)), report)
        except ContentError:
            # was it damaged here, or on its way?
            blobs.verify(ready.digest)
            raise
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


def file_opener(path: Path) -> Opener:
    """The content of a file."""

    def open_at(offset: int) -> BinaryIO:
        file = open(path, "rb", buffering=0)  # noqa: SIM115 - the upload closes it
        file.seek(offset)
        return file

    return open_at


def mount_sources(store: Store, registry: str, repository: str) -> dict[Digest, tuple[str, ...]]:
    """For each layer the other repositories of ``registry`` that may hold it: those the store knows images of."""
    found: dict[Digest, list[str]] = {}
    for entry in store.entries():
        reference = _name_of(entry)
        if reference is None or reference.registry != registry or reference.repository == repository:
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

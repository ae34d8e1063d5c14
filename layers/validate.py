"""Every claim of an image and of the store, compared with the bytes.

Invariants: nothing is changed, but that damaged blobs are set aside (`layers.verifying`); a claim that does not hold is
a problem, one line each, never an exception; only a store that cannot be read at all raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from layers import media
from layers.blobs import CHUNK_BYTES
from layers.compression import Decompressed
from layers.config import ImageConfig
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.errors import FormatError, LayersError
from layers.manifest import Index, Manifest
from layers.reference import Reference
from layers.snapshotter import Snapshotter
from layers.store import Store
from layers.tar import entry as tar
from layers.tar.reader import TarReader


class InvalidImageError(FormatError):
    """An image makes a claim that does not hold."""


def validate_image(store: Store, wanted: Reference | str) -> None:
    """Every claim of the image holds.

    Raises:
        ImageNotFoundError: there is no such image.
        InvalidImageError: a claim does not hold; the message has all that do not.
    """
    problems = list(image_problems(store, store.image(wanted).descriptor))
    if problems:
        raise InvalidImageError(f'image "{wanted}": ' + "; ".join(problems))


def validate_store(store: Store) -> None:
    """Every image, blob and unpacked layer of the store is what it claims to be. Raises InvalidImageError."""
    problems = [problem for entry in store.entries() for problem in image_problems(store, entry)]
    problems.extend(_blob_problems(store))
    problems.extend(_snapshot_problems(store))
    if problems:
        raise InvalidImageError(f'store "{store.root}": ' + "; ".join(problems))


def image_problems(store: Store, descriptor: Descriptor) -> Iterator[str]:
    """What of the image, or of each image of an index, does not hold."""
    try:
        found = store.read_manifest(descriptor)
    except LayersError as error:
        yield str(error)
        return
    if len(found.raw) != descriptor.size:
        yield f"manifest {descriptor.digest} has {len(found.raw)} bytes, its descriptor says {descriptor.size}"
    if found.media_type != descriptor.media_type:
        yield f"manifest {descriptor.digest} is {found.media_type}, its descriptor says {descriptor.media_type}"
    if isinstance(found, Index):
        for entry in found.manifests:
            if store.blobs.lies_here(entry.digest):
                yield from image_problems(store, entry)
    else:
        yield from _manifest_problems(store, found, descriptor)


def _manifest_problems(store: Store, manifest: Manifest, descriptor: Descriptor) -> Iterator[str]:
    if manifest.config.media_type not in media.CONFIGS:
        return
    try:
        raw = store.blobs.read(manifest.config.digest)
        config = ImageConfig.from_bytes(raw)
    except LayersError as error:
        yield str(error)
        return
    if len(raw) != manifest.config.size:
        yield f"config {manifest.config.digest} has {len(raw)} bytes, the manifest says {manifest.config.size}"
    if descriptor.platform is not None and descriptor.platform.normalised() != config.platform.normalised():
        yield f"config is for {config.platform}, the descriptor says {descriptor.platform}"
    yield from _config_problems(config)
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        yield f"manifest has {len(manifest.layers)} layers, the config names {len(diff_ids)}"
        return
    for layer, diff_id in zip(manifest.layers, diff_ids, strict=True):
        yield from _layer_problems(store, layer, diff_id)


def _config_problems(config: ImageConfig) -> Iterator[str]:
    if not config.architecture or not config.os:
        yield "config names no platform"
    filled = sum(not entry.empty_layer for entry in config.history)
    if config.history and filled != len(config.rootfs.diff_ids):
        yield f"history has {filled} entries with a layer, the config names {len(config.rootfs.diff_ids)} layers"


def _layer_problems(store: Store, layer: Descriptor, diff_id: Digest) -> Iterator[str]:
    expected = media.layer_compression(layer.media_type)
    if expected is None:
        yield f"layer {layer.digest} has the media type {layer.media_type}, which is no layer's"
    size = store.blobs.size(layer.digest)
    if size != layer.size:
        yield f"layer {layer.digest} has {size} bytes, the manifest says {layer.size}"
    try:
        with store.blobs.open(layer.digest) as blob:
            stream = Decompressed(blob)
            if expected not in {None, stream.compression}:
                yield f"layer {layer.digest} is compressed as {stream.compression}, its media type says {expected}"
            hashed = _Hashed(stream)
            yield from _entry_problems(layer, TarReader(hashed))
            if hashed.finish() != diff_id.hex:
                yield f"layer {layer.digest} has the diff ID sha256:{hashed.finish()}, the config says {diff_id}"
    except LayersError as error:
        yield str(error)


def _entry_problems(layer: Descriptor, reader: TarReader) -> Iterator[str]:
    """Paths that come twice, or lie in a directory that is no directory."""
    seen: dict[bytes, bytes] = {}
    for entry in reader:
        name = entry.name.removeprefix(b"./").strip(b"/")
        if name in seen:
            yield f"layer {layer.digest} holds {name!r} twice"
        seen[name] = entry.type
        parent = name.rpartition(b"/")[0]
        if seen.get(parent, tar.DIRECTORY) not in {tar.DIRECTORY, tar.SYMLINK}:
            yield f"layer {layer.digest} holds {name!r} in what is no directory"


class _Hashed:
    """Hashes what a reader takes, and at the end the rest."""

    def __init__(self, source: Decompressed) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data

    def finish(self) -> str:
        while self.read(CHUNK_BYTES):
            pass
        return self._hash.hexdigest()


def _blob_problems(store: Store) -> Iterator[str]:
    for digest in store.blobs:
        try:
            store.blobs.verify(digest)
        except LayersError as error:
            yield str(error)


def _snapshot_problems(store: Store) -> Iterator[str]:
    """A layer that was packed packs into its diff ID; one from an archive only that archive can prove."""
    snapshots = Snapshotter(store)
    for chain in snapshots.chains():
        layer = snapshots.layer(chain)
        if layer is None:
            yield f"layer {chain} has no description"
            continue
        missing = [each for each in layer.chain if snapshots.layer(each) is None]
        if missing:
            yield f"layer {chain} lies on {missing[0]}, which is not there"
        elif snapshots.differs(chain):
            yield f"layer {chain} does not pack into its diff ID {layer.diff_id}"

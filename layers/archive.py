"""Images in one file: the OCI archive (an image layout in a tar) and docker's archive (``docker save``).

Invariants: equal images give equal bytes: fixed order, owner, mode and time. Layers of docker's archive are named by
their diff IDs, and plain tars unless it is said otherwise. Everything streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial

from layers import gojson, media
from layers.blobs import CHUNK_BYTES
from layers.descriptor import REF_NAME, Descriptor
from layers.digest import Digest
from layers.errors import FormatError
from layers.image import Image
from layers.layout import LAYOUT
from layers.manifest import Index, Manifest
from layers.pack import Sink
from layers.reference import Reference
from layers.store import Store, StoredImage
from layers.tar import entry as tar
from layers.tar.entry import Entry, padding
from layers.tar.writer import END, encode_header

CONTAINERD_NAME = "io.containerd.image.name"
"""Annotation by which containerd and docker find the whole name of an image in an archive."""


def write_oci_archive(store: Store, images: Sequence[tuple[Descriptor, str | None]], out: Sink) -> None:
    """The images, each with all that it refers to, are in ``out`` as an OCI archive.

    ``images`` are manifests or indexes of the store and their names.

    Raises:
        BlobNotFoundError: something an image refers to is not in the store.
        ContentMismatchError: a blob is damaged; what was written is to be thrown away.
    """
    blobs: dict[Digest, int] = {}
    entries: list[gojson.JsonObject] = []
    for descriptor, name in images:
        for part in closure(store, descriptor):
            blobs[part.digest] = part.size
        entries.append(named_entry(descriptor, name).to_json())
    index = gojson.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries})
    _file(out, "oci-layout", LAYOUT)
    _file(out, "index.json", index)
    for directory in ("blobs", "blobs/sha256"):
        out.write(encode_header(Entry(directory.encode(), tar.DIRECTORY, mode=0o755)))
    for digest, size in sorted(blobs.items()):
        with store.blobs.open(digest) as blob:
            _stream(out, f"blobs/sha256/{digest.hex}", size, iter(lambda: blob.read(CHUNK_BYTES), b""))
    out.write(END)


def named_entry(descriptor: Descriptor, name: str | None) -> Descriptor:
    """The entry of an index that calls the image ``name``, whole for containerd and docker; None leaves it nameless."""
    own = {k: v for k, v in descriptor.annotations.items() if k not in {REF_NAME, CONTAINERD_NAME}}
    if name is not None:
        own[REF_NAME] = name
        with suppress(FormatError):
            # what other programs call an image need not be a name of this grammar
            own[CONTAINERD_NAME] = Reference.parse(name).canonical
    return descriptor._replace(annotations=own)


def write_docker_archive(
    store: Store, images: Iterable[tuple[StoredImage, Sequence[str]]], out: Sink, *, plain: bool = True
) -> None:
    """The images with their names are in ``out`` in the form of ``docker save``, which ``docker load`` reads.

    ``plain``: layers are uncompressed tars; otherwise they are as the manifest has them.

    Raises: as ``write_oci_archive``.
    """
    written: set[str] = set()
    manifests: list[gojson.JsonObject] = []
    for stored, names in images:
        image = Image.stored(store, stored)
        config_name = f"{image.id.hex}.json"
        if config_name not in written:
            _file(out, config_name, image.config_bytes)
            written.add(config_name)
        layers: list[str] = []
        for layer in image.layers(store.blobs):
            name = f"{layer.diff_id.hex}.tar"
            layers.append(name)
            if name in written:
                continue
            written.add(name)
            if plain:
                is_plain = layer.descriptor.digest == layer.diff_id
                size = layer.descriptor.size if is_plain else layer.uncompressed_size()
                _stream(out, name, size, layer.uncompressed())
            else:
                with layer.compressed() as blob:
                    _stream(out, name, layer.descriptor.size, iter(partial(blob.read, CHUNK_BYTES), b""))
        manifests.append({"Config": config_name, "RepoTags": list(names) or None, "Layers": layers})
    _file(out, "manifest.json", gojson.dumps(manifests))
    out.write(END)


def closure(store: Store, descriptor: Descriptor) -> Iterator[Descriptor]:
    """The descriptor and all that it refers to, of an index whatever of it is in the store.

    Raises:
        BlobNotFoundError: the manifest, a configuration or a layer is not in the store.
        DamagedBlobError: a manifest is damaged.
    """
    yield descriptor
    found = store.read_manifest(descriptor)
    if isinstance(found, Index):
        for entry in found.manifests:
            if store.blobs.lies_here(entry.digest):
                yield from closure(store, entry)
        return
    yield from parts_of(found)


def parts_of(manifest: Manifest) -> Iterator[Descriptor]:
    """Configuration and layers, the layers only where they are meant to travel with the image."""
    yield manifest.config
    for layer in manifest.layers:
        if not layer.urls:
            yield layer


def _file(out: Sink, name: str, content: bytes) -> None:
    _stream(out, name, len(content), iter((content,)))


def _stream(out: Sink, name: str, size: int, chunks: Iterator[bytes]) -> None:
    out.write(encode_header(Entry(name.encode(), size=size)))
    left = size
    for chunk in chunks:
        left -= len(chunk)
        out.write(chunk)
    if left:
        raise FormatError(f'archive: "{name}" has {size - left} bytes, expected {size}')
    out.write(bytes(padding(size)))

"""Which blob of the store is the compressed form of which layer: ``<root>/compressed.json``.

::

    {"<digest of the uncompressed layer>": {"<name of the compressor>": <descriptor of the compressed blob>}}

Invariants: the file is changed under the store's lock and replaced as a whole; a damaged or foreign one counts as
empty; an entry is a remark, not a promise: the blob may have been collected since.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from layers import gojson, media
from layers.blobs import CHUNK_BYTES
from layers.compression import Decompressed
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.errors import ContentMismatchError, FormatError
from layers.layout import locked
from layers.ownership import temporary_name
from layers.registry.compress import Compressor, usable_threads
from layers.storage import replace_file
from layers.store import Store

_FILE = "compressed.json"


def find(store: Store, layer: Digest, compressor: str) -> Descriptor | None:
    """What the layer became with this compressor; whether the blob is still there is another question."""
    return dict(_entries(_read(store), layer)).get(compressor)


def blobs_of(store: Store) -> dict[Digest, tuple[Digest, ...]]:
    """For each layer its compressed forms: what a collection keeps as long as it keeps the layer."""
    content = _read(store)
    found: dict[Digest, tuple[Digest, ...]] = {}
    for key in content:
        try:
            layer = Digest(key)
        except FormatError:
            continue
        found[layer] = tuple(blob.digest for _, blob in _entries(content, layer))
    return found


def compress(
    store: Store,
    layer: Descriptor,
    compressor: Compressor,
    *,
    diff_id: Digest | None = None,
    check: Callable[[], None] | None = None,
    report: Callable[[int], None] | None = None,
) -> Descriptor:
    """The compressed layer is in the store and remembered; its descriptor. Nothing is done when it is there already.

    ``diff_id`` is needed of a layer that is compressed in another way. ``check`` may raise to stop; ``report`` gets the
    number of bytes read.

    Raises:
        BlobNotFoundError: the layer is not in the store.
        ContentMismatchError: the layer is damaged; nothing is stored.
    """
    plain = diff_id or layer.digest
    known = find_stored(store, plain, compressor.name)
    if known is not None:
        return known
    docker = layer.media_type in media.DOCKER_LAYERS
    media_type = media.layer_media_type(compressor.algorithm, docker=docker)
    with open_plain(store, layer, plain, check, report) as content:
        made = store.blobs.put(compressor.compress(content, usable_threads()), media_type=media_type)
    made = made._replace(annotations=layer.annotations if plain == layer.digest else {})
    remember(store, plain, compressor.name, made)
    return made


def expand(
    store: Store,
    layer: Descriptor,
    diff_id: Digest,
    *,
    check: Callable[[], None] | None = None,
    report: Callable[[int], None] | None = None,
) -> Descriptor:
    """The uncompressed layer is in the store and remembered; its descriptor.

    ``check``, ``report`` and exceptions: as `compress`.
    """
    media_type = media.layer_media_type("none", docker=layer.media_type in media.DOCKER_LAYERS)
    size = store.blobs.size(diff_id)
    if size is None:
        with open_plain(store, layer, diff_id, check, report) as content:
            made = store.blobs.put(iter(lambda: content.read(CHUNK_BYTES), b""), media_type=media_type)
        remember(store, diff_id, "none", made)
        size = made.size
    return Descriptor(media_type, diff_id, size)


@contextmanager
def open_plain(
    store: Store,
    layer: Descriptor,
    diff_id: Digest,
    check: Callable[[], None] | None,
    report: Callable[[int], None] | None,
) -> Generator[BinaryIO]:
    """A reader of the uncompressed layer, which fails at the end where that is not what ``diff_id`` says."""
    with store.blobs.open(diff_id if diff_id in store.blobs else layer.digest) as blob:
        content: Any = blob
        if diff_id not in store.blobs and media.layer_compression(layer.media_type) != "none":
            content = _Verified(Decompressed(blob), diff_id)
        yield cast("BinaryIO", _Counted(content, check, report))


class _Verified:
    """Uncompressed bytes, compared with their digest where they end."""

    def __init__(self, content: Decompressed, diff_id: Digest) -> None:
        self._content = content
        self._expected = diff_id
        self._hash = hashlib.sha256()

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        data = self._content.read(size)
        self._hash.update(data)
        if not data and size and self._hash.hexdigest() != self._expected.hex:
            found = self._hash.hexdigest()
            raise ContentMismatchError(f"layer has the diff ID sha256:{found}, expected {self._expected}")
        return data


def find_stored(store: Store, layer: Digest, compressor: str) -> Descriptor | None:
    """As `find`, when the blob is in the store; it is then young for a collection."""
    known = find(store, layer, compressor)
    return known if known is not None and store.blobs.refresh(known.digest, known.size) else None


class _Counted:
    """A reader that tells how much was read."""

    def __init__(
        self, content: BinaryIO, check: Callable[[], None] | None, report: Callable[[int], None] | None
    ) -> None:
        self._content = content
        self._check = check
        self._report = report

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """The next bytes of the content."""
        if self._check is not None:
            self._check()
        data = self._content.read(size)
        if self._report is not None:
            self._report(len(data))
        return data


def remember(store: Store, layer: Digest, compressor: str, blob: Descriptor) -> None:
    """It is known of the layer that it became ``blob``; what is known of blobs that are gone is forgotten."""
    owner = store.claim()
    with _guard, locked(store.root):
        content = _read(store)
        kept: gojson.JsonObject = {}
        for key in content:
            entries = {name: old.to_json() for name, old in _entries(content, key) if old.digest in store.blobs}
            if entries:
                kept[key] = entries
        kept[layer] = {**cast("gojson.JsonObject", kept.get(layer, {})), compressor: blob.to_json()}
        replace_file(store.root / _FILE, gojson.dumps(kept), store.root / "tmp" / temporary_name(owner))


_guard = threading.Lock()


def _read(store: Store) -> gojson.JsonObject:
    try:
        return gojson.loads_object((store.root / _FILE).read_bytes(), _FILE)
    except (OSError, FormatError):
        return {}


def _entries(content: gojson.JsonObject, layer: str) -> Iterator[tuple[str, Descriptor]]:
    value = content.get(layer)
    if isinstance(value, dict):
        for name, entry in cast("gojson.JsonObject", value).items():
            try:
                yield name, Descriptor.from_json(entry, _FILE)
            except FormatError:
                continue

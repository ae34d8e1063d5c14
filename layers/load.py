"""Images out of archives: OCI archives, docker's archives, plain or compressed.

The archive is read once, forward: content goes to the store as it comes, small files of JSON are kept until the end,
when it is known what they mean. Nothing gets a name before all that it refers to is there.

Invariants: nothing of the archive becomes a file name; a blob is stored only under the digest of its bytes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from layers import gojson, media
from layers.archive import CONTAINERD_NAME, closure, named_entry
from layers.compression import HEAD_BYTES, ByteSource, Decompressed, detect
from layers.config import ImageConfig
from layers.descriptor import REF_NAME, Descriptor
from layers.digest import Digest, from_hex
from layers.errors import ArchiveError, FormatError
from layers.image import Image, put_image
from layers.limits import Bounded, Limits
from layers.manifest import Manifest
from layers.reference import Reference
from layers.store import Store
from layers.tar import entry as tar
from layers.tar.reader import TarReader
from unionfs.namedtuple import NamedTuple

_BLOBS = "blobs/sha256/"
_LARGEST_JSON = 16 << 20
_MOST_JSON = 64 << 20
_LIMITS = Limits(entries=100_000)


class LoadedImage(NamedTuple):
    """An image that is in the store now; ``names`` may be empty."""

    descriptor: Descriptor
    names: tuple[str, ...]


class _Contents(NamedTuple):
    """What an archive held: JSON by path, digests of the rest by path, links by path."""

    texts: dict[str, bytes]
    blobs: dict[str, Descriptor]
    links: dict[str, str]


def load(
    store: Store, stream: ByteSource, *, named: bool = True, limits: Limits | None = None
) -> tuple[LoadedImage, ...]:
    """The images of the archive are in the store, under the names they have there unless ``named`` is false.

    Raises:
        ArchiveError: it is no archive of images, something is missing in it, or it is beyond the limits.
        ContentMismatchError: content is not what its name or its manifest says.
    """
    contents = _read(store, stream, limits or _LIMITS)
    if "index.json" in contents.texts:
        found = _load_layout(store, contents.texts["index.json"])
    elif "manifest.json" in contents.texts:
        found = _load_docker(store, contents)
    else:
        raise ArchiveError("archive: it holds neither index.json nor manifest.json, so no images")
    return tuple(_name(store, image) if named else image for image in found)


def _read(store: Store, stream: ByteSource, limits: Limits) -> _Contents:
    contents = _Contents({}, {}, {})
    kept = 0
    reader = TarReader(Bounded(Decompressed(stream), limits))
    for number, entry in enumerate(reader):
        if number >= limits.entries:
            raise ArchiveError(f"archive: it has more than {limits.entries} entries")
        path = posixpath.normpath(entry.name.decode(errors="surrogateescape")).lstrip("/")
        if entry.type in {tar.SYMLINK, tar.HARD_LINK}:
            target = entry.linkname.decode(errors="surrogateescape")
            relative = posixpath.dirname(path) if entry.type == tar.SYMLINK else ""
            contents.links[path] = posixpath.normpath(posixpath.join(relative, target)).lstrip("/")
        elif entry.type == tar.REGULAR:
            data = (chunk for _, chunk in reader.chunks())
            if entry.size <= _LARGEST_JSON and path.endswith(
                (".json", "/json", "oci-layout", "repositories", "VERSION")
            ):
                kept += entry.size
                if kept > _MOST_JSON:
                    raise ArchiveError(f"archive: it holds more than {_MOST_JSON} bytes of JSON")
                contents.texts[path] = b"".join(data)
            else:
                contents.blobs[path] = _put(store, path, entry.size, data)
    return contents


def _put(store: Store, path: str, size: int, data: Iterator[bytes]) -> Descriptor:
    """Stores a blob; the name of one of a layout must be right. The media type tells its compression alone."""
    head = b""
    for chunk in data:
        head += chunk
        if len(head) >= HEAD_BYTES:
            break
    compression = detect(head)
    media_type = media.layer_media_type(compression) if compression in {"none", "gzip", "zstd"} else ""
    expected: Descriptor | None = None
    if path.startswith(_BLOBS):
        expected = Descriptor(media_type, from_hex(path.removeprefix(_BLOBS)), size)
    return store.blobs.put(_chain(head, data), expected=expected, media_type=media_type)


def _chain(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


def _load_layout(store: Store, raw: bytes) -> Iterator[LoadedImage]:
    """Images of an image layout; layouts inside ``docker save`` archives of today are the same."""
    index = gojson.loads_object(raw, "archive: index.json")
    for item in gojson.as_list(index.get("manifests"), "archive: index.json: manifests"):
        descriptor = Descriptor.from_json(item, "archive: index.json: manifest")
        name = descriptor.annotations.get(CONTAINERD_NAME) or descriptor.annotations.get(REF_NAME)
        for part in closure(store, descriptor):
            if store.blobs.size(part.digest) != part.size:
                raise ArchiveError(f'archive: image "{name or descriptor.digest}" lacks the blob {part.digest}')
        yield _described(descriptor, () if name is None else (name,))


def _load_docker(store: Store, contents: _Contents) -> Iterator[LoadedImage]:
    listed = gojson.loads_object(b'{"images":' + contents.texts["manifest.json"] + b"}", "archive: manifest.json")
    for item in gojson.as_list(listed.get("images"), "archive: manifest.json"):
        fields = gojson.as_object(item, "archive: manifest.json")
        config_name = posixpath.normpath(gojson.as_text(fields.get("Config"), "archive: manifest.json: Config"))
        raw = contents.texts.get(config_name)
        if raw is None and config_name in contents.blobs:
            raw = store.blobs.read(contents.blobs[config_name].digest)
        if raw is None:
            raise ArchiveError(f'archive: "{config_name}" is missing')
        config = ImageConfig.from_bytes(raw)
        paths = gojson.as_texts(fields.get("Layers"), "archive: manifest.json: Layers")
        layers = tuple(_layer(contents, path) for path in paths)
        _check_diff_ids(config, layers)
        described = store.blobs.put(raw, media_type=media.OCI_CONFIG)
        image = Image(Manifest.create(described, layers), config, raw)
        names = gojson.as_texts(fields.get("RepoTags"), "archive: manifest.json: RepoTags")
        yield _described(put_image(store, image), names)


def _layer(contents: _Contents, path: str) -> Descriptor:
    path = posixpath.normpath(path)
    for _ in range(8):
        if path in contents.blobs:
            return contents.blobs[path]
        if path not in contents.links:
            break
        path = contents.links[path]
    raise ArchiveError(f'archive: layer "{path}" is missing')


def _check_diff_ids(config: ImageConfig, layers: tuple[Descriptor, ...]) -> None:
    diff_ids: tuple[Digest, ...] = config.rootfs.diff_ids
    if len(diff_ids) != len(layers):
        raise FormatError(f"archive: image has {len(layers)} layers, its config names {len(diff_ids)} diff IDs")
    for layer, diff_id in zip(layers, diff_ids, strict=True):
        # a compressed layer is compared when it is unpacked
        if layer.media_type == media.OCI_LAYER and layer.digest != diff_id:
            raise FormatError(f"archive: layer has the diff ID {layer.digest}, its config says {diff_id}")


def _described(descriptor: Descriptor, names: tuple[str, ...]) -> LoadedImage:
    return LoadedImage(named_entry(descriptor, None), tuple(Reference.parse(name).name for name in names))


def _name(store: Store, image: LoadedImage) -> LoadedImage:
    """The image has its names in the store."""
    for name in image.names:
        store.tag(name, image.descriptor)
    return image

"""An image in the form in which it leaves: how its layers are compressed, in whose media types it is described.

Invariants: the image that comes in stays as it is; layers are converted once and remembered
(`layers.registry.compressed`); the configuration changes only where the uncompressed bytes of a layer do, which eStargz
alone does to them: it adds a table of contents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from layers import media
from layers.config import RootFS
from layers.descriptor import Descriptor
from layers.digest import Digest, sha256
from layers.image import Image
from layers.manifest import Manifest
from layers.store import Store
from unionfs.namedtuple import NamedTuple

NONE, GZIP, ZSTD, ESTARGZ = "none", "gzip", "zstd", "estargz"
COMPRESSIONS = (NONE, GZIP, ZSTD, ESTARGZ)
HIGHEST_LEVELS = {GZIP: 9, "gzip:zlib": 9, ESTARGZ: 9, ZSTD: 22}
"""Of the compressions that have levels, which begin at 0."""
_BASE = "org.opencontainers.image.base."

Report = Callable[[Descriptor, int], None]
"""Gets a layer that is converted, and how many bytes more of it were read."""


class Form(NamedTuple):
    """``compression`` is one of `COMPRESSIONS`; ``level`` None is the usual one.

    ``force``: layers that are compressed in another way are converted too, not only plain ones. ``docker``: media types
    of docker's schema 2.
    """

    compression: str = NONE
    level: int | None = None
    force: bool = False
    docker: bool = False


def reshape(
    store: Store,
    image: Image,
    form: Form,
    *,
    check: Callable[[], None] | None = None,
    report: Report | None = None,
) -> Image:
    """``image`` in ``form``; its layers are in the store, its manifest and configuration are the caller's to put.

    ``check`` may raise to stop.

    Raises:
        BlobNotFoundError: a layer is not in the store.
        ContentMismatchError: a layer is damaged.
        ValueError: the level is none of the compression.
    """
    if form == Form() and _is_plain_oci(image.manifest):
        return image
    layers: list[Descriptor] = []
    diff_ids: list[Digest] = []
    for layer in image.layers(store.blobs):
        tell = None if report is None else partial(report, layer.descriptor)
        descriptor, diff_id = _convert(store, layer.descriptor, layer.diff_id, form, check, tell)
        layers.append(_named(descriptor, docker=form.docker))
        diff_ids.append(diff_id)
    if tuple(diff_ids) != image.config.rootfs.diff_ids:
        config = image.config._replace(rootfs=RootFS(tuple(diff_ids)))
        raw = config.to_bytes()
        image = Image(image.manifest._replace(config=Descriptor(media.OCI_CONFIG, sha256(raw), len(raw))), config, raw)
    return image._replace(manifest=_describe(image.manifest, tuple(layers), docker=form.docker))


def _is_plain_oci(manifest: Manifest) -> bool:
    """Whether nothing is called by docker's names."""
    foreign = any(layer.media_type in media.DOCKER_LAYERS for layer in manifest.layers)
    return manifest.media_type == media.OCI_MANIFEST and not foreign


def _convert(
    store: Store,
    layer: Descriptor,
    diff_id: Digest,
    form: Form,
    check: Callable[[], None] | None,
    report: Callable[[int], None] | None,
) -> tuple[Descriptor, Digest]:
    """The layer as it leaves, and the digest of its uncompressed bytes."""
    have = compression_of(layer)
    if have == form.compression or (have != NONE and not form.force):
        return layer, diff_id
    # the store's own form needs none of these
    from layers import estargz
    from layers.registry import compressed
    from layers.registry.compress import choose

    if form.compression == ESTARGZ:
        return estargz.convert(store, layer, diff_id, form.level, check=check, report=report)
    compressor = choose(form.compression, form.level)
    if compressor is None:
        return compressed.expand(store, layer, diff_id, check=check, report=report), diff_id
    return compressed.compress(store, layer, compressor, diff_id=diff_id, check=check, report=report), diff_id


def compression_of(layer: Descriptor) -> str:
    """One of `COMPRESSIONS` that the layer is in; eStargz is told by its annotation."""
    found = media.layer_compression(layer.media_type) or NONE
    return ESTARGZ if found == GZIP and media.TOC_DIGEST in layer.annotations else found


def _named(layer: Descriptor, *, docker: bool) -> Descriptor:
    """The descriptor with a media type of the family; those that are no layer's stay."""
    found = media.layer_compression(layer.media_type)
    if found is None or layer.urls:
        return layer
    return layer._replace(media_type=media.layer_media_type(found, docker=docker))


def _describe(manifest: Manifest, layers: tuple[Descriptor, ...], *, docker: bool) -> Manifest:
    """The manifest of these layers; the very one that came in when nothing differs."""
    kind = media.DOCKER_MANIFEST if docker else media.OCI_MANIFEST
    config = manifest.config._replace(media_type=media.DOCKER_CONFIG if docker else media.OCI_CONFIG)
    annotations: Mapping[str, str] = manifest.annotations
    if docker:
        annotations = {name: value for name, value in annotations.items() if not name.startswith(_BASE)}
    made = Manifest.create(config, layers, annotations, media_type=kind)
    return manifest if made.raw == manifest.raw else made

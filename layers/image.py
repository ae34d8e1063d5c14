"""An image as a value: manifest, configuration, layers; and new images from old ones.

Invariants: a change is a new value; ``manifest.raw`` and ``config_bytes`` are exactly the bytes that were hashed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layers import media
from layers.blobs import BlobSource
from layers.config import ImageConfig
from layers.descriptor import NOTHING, Descriptor
from layers.digest import Digest, sha256
from layers.errors import FormatError
from layers.manifest import Manifest
from layers.store import Store, StoredImage
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from layers.layer import Layer


class Image(NamedTuple):
    """One image, wherever its blobs are."""

    manifest: Manifest
    config: ImageConfig
    config_bytes: bytes

    @property
    def id(self) -> Digest:
        """The digest of the configuration."""
        return self.manifest.config.digest

    def layers(self, source: BlobSource) -> tuple[Layer, ...]:
        """The layers, bottom first, as ``source`` has them.

        Raises:
            FormatError: manifest and configuration disagree about their number.
        """
        from layers.layer import Layer

        diff_ids = self.config.rootfs.diff_ids
        if len(diff_ids) != len(self.manifest.layers):
            raise FormatError(
                f"image {self.id.short} has {len(self.manifest.layers)} layers, its config names {len(diff_ids)}"
            )
        return tuple(
            Layer(source, descriptor, diff_id)
            for descriptor, diff_id in zip(self.manifest.layers, diff_ids, strict=True)
        )

    @classmethod
    def stored(cls, store: Store, found: StoredImage) -> Image:
        """The image of the store. Raises ContentMismatchError when its configuration is damaged."""
        return cls(found.manifest, found.config, store.blobs.read(found.manifest.config.digest))


def make_image(
    config: ImageConfig,
    layers: Sequence[Descriptor],
    annotations: Mapping[str, str] = NOTHING,
) -> Image:
    """The image of this configuration and these blobs, whose diff IDs the configuration names."""
    if len(config.rootfs.diff_ids) != len(layers):
        raise FormatError(f"image has {len(layers)} layers, its config names {len(config.rootfs.diff_ids)} diff IDs")
    config_bytes = config.to_bytes()
    descriptor = Descriptor(media.OCI_CONFIG, sha256(config_bytes), len(config_bytes))
    return Image(Manifest.create(descriptor, layers, annotations), config, config_bytes)


def put_image(store: Store, image: Image) -> Descriptor:
    """Configuration and manifest are in the store, durable; what refers to the image. The layers are the caller's."""
    store.blobs.put(image.config_bytes, expected=image.manifest.config)
    return store.blobs.put(image.manifest.raw, expected=image.manifest.descriptor())

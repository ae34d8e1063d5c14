"""Images made from other images.

Invariants: pure; layers that are kept are kept byte for byte, history and diff IDs stay in step (image-spec,
config.md: entries of ``history`` that are no empty layers match the diff IDs one to one).
"""

from __future__ import annotations

from collections.abc import Mapping

from layers.config import History, ImageConfig, RootFS
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.image import Image, make_image
from layers.manifest import Manifest


def append_layer(image: Image, descriptor: Descriptor, diff_id: Digest, history: History) -> Image:
    """The image with one more layer on top."""
    config = image.config._replace(
        rootfs=RootFS((*image.config.rootfs.diff_ids, diff_id)),
        history=(*image.config.history, history._replace(empty_layer=False)),
    )
    return make_image(config, (*image.manifest.layers, descriptor), image.manifest.annotations)


def reconfigure(image: Image, config: ImageConfig) -> Image:
    """The image with the fields of ``config``, its layers and their history as they were."""
    kept = config._replace(rootfs=image.config.rootfs, history=image.config.history)
    return make_image(kept, image.manifest.layers, image.manifest.annotations)


def annotate(image: Image, annotations: Mapping[str, str]) -> Image:
    """The image with these annotations besides those it has; the same configuration, so the same id."""
    both = {**image.manifest.annotations, **annotations}
    return image._replace(manifest=Manifest.create(image.manifest.config, image.manifest.layers, both))

"""Small images made of given contents, for tests that are about their journey and not about their files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence

from layers import media
from layers.config import History, ImageConfig, RootFS
from layers.descriptor import Descriptor
from layers.manifest import Manifest
from layers.platform import Platform
from layers.store import Store


def make_tar(name: str, content: bytes) -> bytes:
    """A layer with one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def store_image(
    store: Store,
    name: str | None,
    contents: Sequence[bytes],
    *,
    platform: Platform | None = None,
    docker: bool = False,
) -> Manifest:
    """An image with one uncompressed layer for each content is in the store, under the name when there is one."""
    system = platform or Platform("linux", "amd64")
    layers: list[Descriptor] = [
        store.blobs.put(make_tar(f"file{number}", content), media_type=media.layer_media_type("none", docker=docker))
        for number, content in enumerate(contents)
    ]
    config = ImageConfig(
        architecture=system.architecture,
        os=system.os,
        variant=system.variant,
        rootfs=RootFS(tuple(layer.digest for layer in layers)),
        history=tuple(History(created_by=f"file{number}") for number in range(len(layers))),
    )
    config_type = media.DOCKER_CONFIG if docker else media.OCI_CONFIG
    manifest = Manifest.create(
        store.blobs.put(config.to_bytes(), media_type=config_type),
        layers,
        media_type=media.DOCKER_MANIFEST if docker else media.OCI_MANIFEST,
    )
    store.blobs.put(manifest.raw)
    if name is not None:
        store.tag(name, manifest.descriptor())
    return manifest

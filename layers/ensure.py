"""Layers of images, unpacked where they are not yet.

Invariants: a layer counts only when what its archive held has the diff ID that the configuration promises; what failed
half-way is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from layers.digest import ChainId, Digest, chain_id
from layers.errors import FormatError
from layers.snapshotter import Snapshotter

if TYPE_CHECKING:
    from layers.compression import ByteSource
    from layers.config import ImageConfig
    from layers.descriptor import Descriptor
    from layers.manifest import Manifest
    from layers.store import Store


def ensure_unpacked(
    store: Store,
    manifest: Manifest,
    config: ImageConfig,
    progress: Callable[[int, int], None] | None = None,
) -> ChainId | None:
    """The image's layers are unpacked, each compared with the diff ID of the configuration. None for no layers.

    ``progress`` is called with (layers done, layers in all).

    Raises:
        FormatError: manifest and configuration disagree about the number of layers; an archive is broken.
        ContentMismatchError: a layer's bytes differ from what manifest or configuration promise.
        BlobNotFoundError: a layer's blob is not in the store.
    """
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise FormatError(f"image has {len(manifest.layers)} layers, its config names {len(diff_ids)} diff IDs")
    return ensure_layers(store, tuple(zip(manifest.layers, diff_ids, strict=True)), progress)


def ensure_layers(
    store: Store,
    layers: Sequence[tuple[Descriptor, Digest]],
    progress: Callable[[int, int], None] | None = None,
) -> ChainId | None:
    """As ``ensure_unpacked``, of layers given as (blob, diff ID), bottom first."""
    parent: ChainId | None = None
    for done, (descriptor, diff_id) in enumerate(layers):
        parent = unpack_layer(store, descriptor, diff_id, parent)
        if progress is not None:
            progress(done + 1, len(layers))
    return parent


def unpack_layer(
    store: Store,
    descriptor: Descriptor,
    diff_id: Digest,
    parent: ChainId | None,
    content: ByteSource | None = None,
) -> ChainId:
    """The layer in the blob of ``descriptor`` is unpacked on ``parent``, which is; compared with ``diff_id``.

    ``content`` is where the blob is read from when it is not yet in the store.

    Raises: as ``ensure_unpacked``.
    """
    from layers.unpack import apply_layer

    snapshots = Snapshotter(store)
    store.claim()
    chain = chain_id(parent, diff_id)
    if snapshots.has(chain):
        return chain
    below = () if parent is None else snapshots.view(parent)
    active = snapshots.prepare("unpack", parent)
    try:
        if content is not None:
            unpacked = apply_layer(content, active.path, parents=below, expected=diff_id)
        else:
            with store.blobs.open(descriptor.digest) as stream:
                unpacked = apply_layer(stream, active.path, parents=below, expected=diff_id)
        snapshots.commit(active, diff_id, parent, size=unpacked.size, blob=descriptor.digest)
    except BaseException:
        snapshots.remove(active)
        raise
    return chain

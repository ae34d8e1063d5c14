"""From the branch a step wrote to a layer: packed and usable at once, durable a little later.

::

    prepared branch ── pack_layer ──▶ unpacked layer in place, blob under a temporary name
                                         └── settle ──▶ blob in the store, on disk

Between the two the next step can stand on the layer while the disk is still writing. Invariants: a name in ``blobs/``
appears only in `settle`; nobody else may be told of the layer before, so a record of the build cache is written after
it; who dies in between leaves a temporary file, which is swept, and a directory that nothing refers to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from layers import media
from layers.blobs import BlobWriter
from layers.descriptor import Descriptor
from layers.digest import ChainId, Digest, chain_id
from layers.pack import write_changes, write_layer
from layers.snapshotter import Active, Snapshotter
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from layers.store import Store
    from unionfs.tar.stream import Packable


class CommittedLayer(NamedTuple):
    """A layer that is unpacked in its place, unless it was made of changes (`pack_changes`).

    ``notes`` say what was left out of its archive and why.
    """

    chain_id: ChainId
    diff_id: Digest
    descriptor: Descriptor
    entries: int
    notes: tuple[str, ...]


class PackedLayer(NamedTuple):
    """A layer in its place whose archive is not on disk yet: `settle` is to be called."""

    layer: CommittedLayer
    unsettled: BlobWriter | None
    """The archive; None when the store had it."""

    def discard(self) -> None:
        """The archive is given up. Idempotent."""
        if self.unsettled is not None:
            self.unsettled.discard()

    def settle(self) -> None:
        """The archive is in the store, durable. Raises StoreError when the disk is full and the like."""
        if self.unsettled is not None:
            with self.unsettled as writer:
                writer.commit(self.layer.diff_id)


def pack_layer(
    snapshots: Snapshotter, active: Active, parent: ChainId | None = None, epoch: int | None = None
) -> PackedLayer:
    """The branch is the layer on ``parent``, packed without compression and hashed in one pass.

    ``epoch``: times after this (seconds) become it.

    Raises:
        PackError: the branch cannot be read, or changed meanwhile.
        StoreError: the disk is full and the like.
    """
    store = snapshots.store
    writer = store.blobs.writer(hashing=False)
    try:
        packed = write_layer(active.path, writer, epoch=epoch, root_before=snapshots.root_attributes(parent))
        layer = snapshots.commit(active, packed.diff_id, parent, size=packed.size, epoch=epoch)
        is_there = store.blobs.refresh(packed.diff_id, packed.size)
    except BaseException:
        writer.discard()
        raise
    if is_there:
        writer.discard()
    descriptor = Descriptor(media.OCI_LAYER, packed.diff_id, packed.size)
    committed = CommittedLayer(layer.chain_id, packed.diff_id, descriptor, packed.entries, packed.notes)
    return PackedLayer(committed, None if is_there else writer)


def pack_changes(
    store: Store, changes: Iterable[Packable], parent: ChainId | None = None, epoch: int | None = None
) -> PackedLayer:
    """The changes are the layer on ``parent``, as an archive only: ``layers.ensure`` unpacks it for who needs it.

    ``epoch`` and exceptions: as `pack_layer`.
    """
    writer = store.blobs.writer(hashing=False)
    try:
        packed = write_changes(changes, writer, epoch=epoch)
        is_there = store.blobs.refresh(packed.diff_id, packed.size)
    except BaseException:
        writer.discard()
        raise
    if is_there:
        writer.discard()
    descriptor = Descriptor(media.OCI_LAYER, packed.diff_id, packed.size)
    chain = chain_id(parent, packed.diff_id)
    committed = CommittedLayer(chain, packed.diff_id, descriptor, packed.entries, packed.notes)
    return PackedLayer(committed, None if is_there else writer)


def commit_layer(
    store: Store, active: Active, parent: ChainId | None = None, epoch: int | None = None
) -> CommittedLayer:
    """As `pack_layer`, and the archive is in the store, durable."""
    packed = pack_layer(Snapshotter(store), active, parent, epoch)
    packed.settle()
    return packed.layer

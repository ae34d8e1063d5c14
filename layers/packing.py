"""From the branch a step wrote to a layer: packed and usable at once, durable a little later.

::

    prepared branch ── pack_layer ──▶ unpacked layer in place, blob under a temporary name
                                         └── settle ──▶ blob in the store, on disk

Between the two the next step can stand on the layer while the disk is still writing. Invariants: a name in ``blobs/``
appears only in `settle`; nobody else may be told of the layer before, so a record of the build cache is written after
it; who dies in between leaves a temporary file, which is swept, and a directory that nothing refers to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from layers import media
from layers.blobs import BlobWriter
from layers.descriptor import Descriptor
from layers.digest import ChainId, Digest, chain_id
from layers.pack import PackResult, Sink, write_changes, write_layer
from layers.snapshotter import Active, Snapshotter
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from layers.registry.compress import Compressor
    from layers.registry.whilepacking import WhilePacking
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
    compressed: WhilePacking | None = None
    """Its compressed form, where that is made at once."""

    def discard(self) -> None:
        """The archive is given up. Idempotent."""
        if self.unsettled is not None:
            self.unsettled.discard()
        if self.compressed is not None:
            self.compressed.discard()

    def settle(self) -> None:
        """The archive is in the store, durable. Raises StoreError when the disk is full and the like."""
        try:
            if self.unsettled is not None:
                with self.unsettled as writer:
                    writer.commit(self.layer.diff_id)
            if self.compressed is not None:
                self.compressed.settle(self.layer.diff_id)
        finally:
            self.discard()


def pack_layer(
    snapshots: Snapshotter,
    active: Active,
    parent: ChainId | None = None,
    epoch: int | None = None,
    compressor: Compressor | None = None,
    *,
    in_use: bool = False,
) -> PackedLayer:
    """The branch is the layer on ``parent``, packed without compression and hashed in one pass.

    ``epoch``: times after this (seconds) become it. ``compressor``: a large layer is compressed in the same pass.
    ``in_use``: somebody reads the branch (`Snapshotter.commit`).

    Raises:
        PackError: the branch cannot be read, or changed meanwhile.
        StoreError: the disk is full and the like.
    """

    def pack(sink: Sink) -> tuple[PackResult, ChainId]:
        packed = write_layer(active.path, sink, epoch=epoch, root_before=snapshots.root_attributes(parent))
        layer = snapshots.commit(active, packed.diff_id, parent, size=packed.size, epoch=epoch, in_use=in_use)
        return packed, layer.chain_id

    return _pack(snapshots.store, pack, compressor)


def pack_changes(
    store: Store,
    changes: Iterable[Packable],
    parent: ChainId | None = None,
    epoch: int | None = None,
    compressor: Compressor | None = None,
) -> PackedLayer:
    """The changes are the layer on ``parent``, as an archive only: ``layers.ensure`` unpacks it for who needs it.

    ``epoch``, ``compressor`` and exceptions: as `pack_layer`.
    """

    def pack(sink: Sink) -> tuple[PackResult, ChainId]:
        packed = write_changes(changes, sink, epoch=epoch)
        return packed, chain_id(parent, packed.diff_id)

    return _pack(store, pack, compressor)


class _Both:
    """A sink that is two."""

    def __init__(self, writer: BlobWriter, compressed: WhilePacking) -> None:
        self._writer = writer
        self._compressed = compressed

    def write(self, data: bytes, /) -> None:
        self._writer.write(data)
        self._compressed.write(data)


def _pack(
    store: Store, pack: Callable[[Sink], tuple[PackResult, ChainId]], compressor: Compressor | None
) -> PackedLayer:
    """What ``pack`` wrote, as a layer that is to be settled."""
    writer = store.blobs.writer(hashing=False)
    compressed = None
    try:
        if compressor is not None:
            # most layers stay as they are
            from layers.registry.whilepacking import WhilePacking

            compressed = WhilePacking(store, compressor)
        packed, chain = pack(writer if compressed is None else _Both(writer, compressed))
        is_there = store.blobs.refresh(packed.diff_id, packed.size)
        if compressed is not None:
            compressed.end()
    except BaseException:
        writer.discard()
        if compressed is not None:
            compressed.discard()
        raise
    if is_there:
        writer.discard()
    descriptor = Descriptor(media.OCI_LAYER, packed.diff_id, packed.size)
    committed = CommittedLayer(chain, packed.diff_id, descriptor, packed.entries, packed.notes)
    return PackedLayer(committed, None if is_there else writer, compressed)


def commit_layer(
    store: Store, active: Active, parent: ChainId | None = None, epoch: int | None = None
) -> CommittedLayer:
    """As `pack_layer`, and the archive is in the store, durable."""
    packed = pack_layer(Snapshotter(store), active, parent, epoch)
    packed.settle()
    return packed.layer

"""A layer that is compressed while it is packed: the bytes of later compression, and nothing left when it goes wrong."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from layers.aside import LARGE_BYTES
from layers.blobs import BlobWriter
from layers.errors import PackError, StoreError
from layers.packing import PackedLayer, pack_changes
from layers.registry import compressed
from layers.registry.compress import Compressor, choose
from layers.store import Store
from unionfs.delta import Change, iter_changes


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def make_tree(directory: Path, size: int) -> Path:
    directory.mkdir()
    text = b"".join(b"%d %x\n" % (number, number * number) for number in range(1 << 17))
    (directory / "text").write_bytes((text * (size // len(text) + 1))[:size])
    (directory / "noise").write_bytes(random.Random(5).randbytes(2 << 20))
    return directory


def compressor(kind: str = "gzip") -> Compressor:
    found = choose(kind)
    assert found is not None
    return found


def pack(store: Store, changes: Iterable[Change], kind: str = "gzip") -> PackedLayer:
    return pack_changes(store, changes, compressor=compressor(kind))


def temporary_files(store: Store) -> list[str]:
    return os.listdir(store.root / "tmp")


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_the_bytes_are_those_of_later(store: Store, tmp_path: Path, kind: str) -> None:
    tree = make_tree(tmp_path / "tree", LARGE_BYTES)
    packed = pack(store, iter_changes(tree), kind)
    packed.settle()
    layer = packed.layer.descriptor
    at_once = compressed.find(store, layer.digest, compressor(kind).name)
    assert at_once is not None
    assert store.blobs.size(at_once.digest) == at_once.size
    with Store(tmp_path / "other") as other:
        pack_changes(other, iter_changes(tree)).settle()
        assert compressed.compress(other, layer, compressor(kind)) == at_once
    assert not temporary_files(store)


def test_a_small_layer_is_left_for_later(store: Store, tmp_path: Path) -> None:
    packed = pack(store, iter_changes(make_tree(tmp_path / "tree", 1000)))
    packed.settle()
    assert compressed.find(store, packed.layer.diff_id, compressor().name) is None
    assert packed.layer.diff_id in store.blobs


def test_what_is_there_already_is_compressed_all_the_same(store: Store, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", LARGE_BYTES)
    pack_changes(store, iter_changes(tree)).settle()
    packed = pack(store, iter_changes(tree))
    assert packed.unsettled is None
    packed.settle()
    assert compressed.find(store, packed.layer.diff_id, compressor().name) is not None
    assert not temporary_files(store)


def test_a_layer_given_up_leaves_nothing(store: Store, tmp_path: Path) -> None:
    packed = pack(store, iter_changes(make_tree(tmp_path / "tree", LARGE_BYTES)))
    packed.discard()
    packed.discard()
    assert not list(store.blobs)
    assert not temporary_files(store)


def test_a_tree_that_cannot_be_read_leaves_nothing(store: Store, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", LARGE_BYTES)

    def changes() -> Iterator[Change]:
        for change in iter_changes(tree):
            yield change
            if change.path == b"text":
                raise PackError("it went away")

    with pytest.raises(PackError, match="it went away"):
        pack(store, changes())
    assert not temporary_files(store)


@pytest.mark.parametrize("later_bytes", [0, 1 << 20])
def test_a_disk_that_is_full_for_the_compressed_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later_bytes: int
) -> None:
    write = BlobWriter.write

    def write_or_fail(self: BlobWriter, data: bytes | bytearray | memoryview) -> int:
        # the compressed one alone hashes what it writes
        if self._hash is not None and self.size >= later_bytes:
            raise StoreError(f"{self.path}: {os.strerror(errno.ENOSPC)}")
        return write(self, data)

    monkeypatch.setattr(BlobWriter, "write", write_or_fail)
    packed = pack(store, iter_changes(make_tree(tmp_path / "tree", 3 * LARGE_BYTES)))
    with pytest.raises(StoreError, match="No space left on device"):
        packed.settle()
    assert compressed.find(store, packed.layer.diff_id, compressor().name) is None
    assert not temporary_files(store)

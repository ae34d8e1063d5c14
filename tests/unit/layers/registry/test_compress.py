from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import random
import sys

import pytest
import zstandard

from layers import media
from layers.descriptor import Descriptor
from layers.errors import ContentMismatchError
from layers.gc import collect
from layers.registry import compressed
from layers.registry.compress import BLOCK_BYTES, choose
from layers.store import Store
from layers.testing.simple import store_image

KINDS = ["gzip", "gzip:zlib", "zstd"] + (["gzip:isal"] if importlib.util.find_spec("isal") else [])


def content(size: int) -> bytes:
    """Neither all alike nor all noise."""
    source = random.Random(1)
    words = [source.randbytes(7) for _ in range(300)]
    return b"".join(source.choices(words, k=size // 7 + 1))[:size]


class Dribble(io.RawIOBase):
    """A reader that hands out fewer bytes than it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self, size: int = -1, /) -> bytes:
        piece = self._data[self._at : self._at + min(size, 70_001)]
        self._at += len(piece)
        return piece


def compress(kind: str, reader: object, threads: int) -> bytes:
    compressor = choose(kind)
    assert compressor is not None
    return b"".join(compressor.compress(reader, threads))  # type: ignore[arg-type]


def plain(kind: str, data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data) if kind == "zstd" else gzip.decompress(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 12345])
def test_bytes_depend_on_content_alone(kind: str, size: int) -> None:
    data = content(size)
    once = compress(kind, io.BytesIO(data), 1)
    assert plain(kind, once) == data
    assert compress(kind, io.BytesIO(data), 4) == once
    assert compress(kind, Dribble(data), 2) == once


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "zstd"])
def test_gzip_header_holds_no_time_and_no_name(kind: str) -> None:
    assert compress(kind, io.BytesIO(b"x"), 1)[:10] == bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF))


def test_names_tell_what_decides_about_the_bytes() -> None:
    names = {kind: choose(kind) for kind in KINDS}
    assert len({found.name for found in names.values() if found}) == len(KINDS)
    assert choose("none") is None
    assert choose("uncompressed") is None
    with pytest.raises(ValueError, match='compression "lzma" is none of'):
        choose("lzma")


def test_gzip_is_the_same_on_every_machine() -> None:
    # a change of these bytes changes the digests of what is pushed: it needs another name of the compressor
    found = choose("gzip")
    assert found is not None
    assert found.name == "gzip zlib-ng-2 2.3.3"
    data = content(BLOCK_BYTES + 12345) + random.Random(2).randbytes(3 * BLOCK_BYTES) + content(BLOCK_BYTES)
    made = compress("gzip", io.BytesIO(data), 2)
    assert gzip.decompress(made) == data
    assert hashlib.sha256(made).hexdigest() == "9e2a430d0f6b84910f014a5bb12ba6606af69e6bd3d56dc4d1b8895c86aa54c9"


def test_noise_is_stored_and_hardly_grows() -> None:
    noise = random.Random(3).randbytes(4 * BLOCK_BYTES)
    made = compress("gzip", io.BytesIO(noise), 2)
    assert gzip.decompress(made) == noise
    assert len(made) < len(noise) * 1.0001
    # noise with something in it that is none
    mixed = noise[:BLOCK_BYTES] + bytes(BLOCK_BYTES // 4) + noise[: 3 * BLOCK_BYTES // 4]
    assert len(compress("gzip", io.BytesIO(mixed), 2)) < 2 * BLOCK_BYTES


def test_without_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    before = compress("gzip", io.BytesIO(b"data"), 1)
    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.setitem(sys.modules, "isal", None)
    assert compress("gzip", io.BytesIO(b"data"), 1) == before
    with pytest.raises(ValueError, match="needs the Python package isal"):
        choose("gzip:isal")


@pytest.mark.parametrize(
    ("compression", "level", "name"),
    [("gzip", 9, "zlib-ng-9"), ("gzip:zlib", 1, "zlib-1 "), ("gzip", 0, "zlib-ng-0"), ("zstd", 0, "zstd-3 ")],
)
def test_levels(compression: str, level: int, name: str) -> None:
    found = choose(compression, level)
    assert found is not None
    assert name in found.name
    data = content(3 * BLOCK_BYTES)
    made = b"".join(found.compress(io.BytesIO(data), 2))
    assert plain(compression, made) == data


def test_a_level_that_is_none() -> None:
    for compression in ("gzip", "gzip:zlib", "gzip:isal", "zstd"):
        with pytest.raises(ValueError, match="has no level 23"):
            choose(compression, 23)


def test_a_reader_that_fails_stops_the_threads() -> None:
    class Broken(io.RawIOBase):
        def __init__(self) -> None:
            self.blocks = 3

        def read(self, size: int = -1, /) -> bytes:
            self.blocks -= 1
            if self.blocks < 0:
                raise OSError(5, "broken")
            return bytes(BLOCK_BYTES)

    with pytest.raises(OSError, match="broken"):
        compress("gzip:zlib", Broken(), 2)


# -- what is remembered ----------------------------------------------------------------------------------------------
@pytest.fixture
def layer(store: Store) -> Descriptor:
    return store.blobs.put(content(BLOCK_BYTES + 5), media_type=media.OCI_LAYER)


def test_a_layer_is_compressed_once(store: Store, layer: Descriptor) -> None:
    compressor = choose("gzip")
    assert compressor is not None
    counts: list[int] = []
    made = compressed.compress(store, layer, compressor, report=counts.append)
    assert made.media_type == media.OCI_LAYER_GZIP
    assert sum(counts) == layer.size
    assert store.blobs.size(made.digest) == made.size
    assert compressed.find(store, layer.digest, compressor.name) == made
    assert compressed.blobs_of(store) == {layer.digest: (made.digest,)}
    counts.clear()
    assert compressed.compress(store, layer, compressor, report=counts.append) == made
    assert not counts
    store.blobs.remove(made.digest)
    assert compressed.compress(store, layer, compressor, report=counts.append) == made
    assert counts


def test_other_compressors_do_not_interfere(store: Store, layer: Descriptor) -> None:
    made = []
    for kind in KINDS:
        compressor = choose(kind)
        assert compressor is not None
        made.append(compressed.compress(store, layer, compressor).digest)
    assert compressed.blobs_of(store) == {layer.digest: tuple(made)}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": 1}', '{"sha256:0": {"gzip": {}}}'])
def test_a_damaged_memory_is_an_empty_one(store: Store, layer: Descriptor, text: str) -> None:
    (store.root / "compressed.json").write_text(text)
    compressor = choose("zstd")
    assert compressor is not None
    assert compressed.find(store, layer.digest, compressor.name) is None
    assert compressed.blobs_of(store) == {}
    made = compressed.compress(store, layer, compressor)
    assert compressed.find(store, layer.digest, compressor.name) == made


def test_a_damaged_layer_is_not_compressed(store: Store, layer: Descriptor) -> None:
    path = store.blobs.path(layer.digest)
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)
    compressor = choose("zstd")
    assert compressor is not None
    with pytest.raises(ContentMismatchError, match="is damaged"):
        compressed.compress(store, layer, compressor)
    assert list(store.blobs) == [layer.digest]
    assert not list((store.root / "tmp").iterdir())


def test_a_collection_keeps_what_live_layers_became(store: Store) -> None:
    made = store_image(store, "kept:1", [b"content"])
    compressor = choose("gzip")
    assert compressor is not None
    blob = compressed.compress(store, made.layers[0], compressor)
    collect(store, grace_seconds=0)
    assert blob.digest in store.blobs
    store.untag("kept:1")
    collect(store, grace_seconds=0)
    assert list(store.blobs) == []

"""Streams of every kind, whole, cut off, damaged, and followed by something."""

import bz2
import gzip
import io
import lzma
import random
import struct

import pytest
import zstandard

from layers.compression import Decompressed, detect
from layers.errors import ArchiveError

RAW = random.Random(1).randbytes(300_000) + bytes(1_000_000) + b"end"
SKIPPABLE = b"\x5f\x2a\x4d\x18" + struct.pack("<I", 5) + b"table"


def zstd(raw: bytes, **options: object) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(raw)


WHOLE = {
    "none": RAW + RAW,
    "gzip": gzip.compress(RAW, 1) + gzip.compress(RAW, 9),
    "bzip2": bz2.compress(RAW) * 2,
    "xz": lzma.compress(RAW, preset=0) * 2,
    "zstd": SKIPPABLE + zstd(RAW, write_checksum=True) + SKIPPABLE + zstd(RAW, write_content_size=False),
}
COMPRESSED = [name for name in WHOLE if name != "none"]


class Trickle:
    """Gives what was asked for in small pieces."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, 777))


def drain(data: bytes, size: int = 100_000) -> tuple[Decompressed, bytes]:
    stream = Decompressed(Trickle(data))
    parts = []
    while chunk := stream.read(size):
        assert len(chunk) <= size
        parts.append(chunk)
    assert stream.read(size) == b""
    return stream, b"".join(parts)


@pytest.mark.parametrize("name", WHOLE)
def test_whole(name: str) -> None:
    stream, data = drain(WHOLE[name])
    assert data == RAW + RAW
    assert (stream.compression, stream.read_bytes, stream.compressed_bytes) == (name, len(data), len(WHOLE[name]))


@pytest.mark.parametrize("cut", [1, 3, 5, 9, 100, 5000])
@pytest.mark.parametrize("name", COMPRESSED)
def test_cut_off(name: str, cut: int) -> None:
    with pytest.raises(ArchiveError, match="cut off"):
        drain(WHOLE[name][:-cut])


@pytest.mark.parametrize("name", COMPRESSED)
def test_damaged(name: str) -> None:
    data = bytearray(WHOLE[name])
    data[len(data) // 3] ^= 0x55
    with pytest.raises(ArchiveError, match="damaged"):
        drain(bytes(data))


@pytest.mark.parametrize("name", COMPRESSED)
def test_followed_by_something_else(name: str) -> None:
    with pytest.raises(ArchiveError, match=r"damaged|cut off"):
        drain(WHOLE[name] + b"something else")


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_followed_by_zeros(name: str) -> None:
    assert drain(WHOLE[name] + bytes(1000))[1] == RAW + RAW


def test_gzip_without_isal_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "isal", None)
    assert drain(WHOLE["gzip"])[1] == RAW + RAW
    with pytest.raises(ArchiveError, match="cut off"):
        drain(WHOLE["gzip"][:-1])


def test_output_is_bounded_however_well_it_was_compressed() -> None:
    stream = Decompressed(io.BytesIO(zstd(bytes(1 << 28))))
    assert len(stream.read(1 << 16)) <= 1 << 16
    assert stream.compressed_bytes < 1 << 16


@pytest.mark.parametrize(
    ("head", "name"),
    [(b"", "none"), (b"\x1f", "none"), (b"\x1f\x8b", "gzip"), (b"\x50\x2a\x4d\x18", "zstd"), (b"BZ", "none")],
)
def test_detect(head: bytes, name: str) -> None:
    assert detect(head) == name

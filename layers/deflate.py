"""DEFLATE (RFC 1951) as zlib-ng makes it: the same bytes on every machine (docs/adr/0031).

The package zlib-ng brings its library along, in the one version that pyproject.toml names. So neither the zlib of the
machine nor its processor decides about bytes that become digests.

Invariants: output depends on content and level alone; a block that `deflate_block` makes begins and ends at a byte, so
that blocks stand one after the other.
"""

from __future__ import annotations

import zlib
from typing import Any, Protocol, cast

BLOCK_BYTES = 1 << 20
RAW = -15
"""Window bits of a stream without header."""
_MEMORY_LEVEL = 8
_SAMPLES = 8
_SAMPLE_BYTES = 4 << 10
_NOISE = 31 / 32
_LONGEST_STORED = 0xFFFF


class Deflater(Protocol):
    """One stream being made."""

    def compress(self, data: bytes, /) -> bytes:
        """What is ready of the stream when ``data`` is in it."""
        ...

    def flush(self, mode: int = zlib.Z_FINISH, /) -> bytes:
        """The rest; with ``Z_SYNC_FLUSH`` up to a byte after which the stream may go on."""
        ...


def _library() -> Any:
    # loaded where something is compressed; its stubs leave types open
    from zlib_ng import zlib_ng

    return zlib_ng


def version() -> str:
    """That of the library, which decides about bytes."""
    return str(_library().ZLIBNG_RUNTIME_VERSION)


def new_deflater(level: int, window_bits: int, dictionary: bytes = b"") -> Deflater:
    """A stream that begins."""
    # the window of gzip's own header takes no dictionary, not even an empty one
    more = (dictionary,) if dictionary else ()
    made = _library().compressobj(level, zlib.DEFLATED, window_bits, _MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, *more)
    return cast("Deflater", made)


def crc32(data: bytes, value: int) -> int:
    """The checksum of gzip (RFC 1952, 8), seven times as fast as the machine's zlib often is."""
    return int(_library().crc32(data, value))


def deflate_block(level: int, block: bytes, before: bytes) -> bytes:
    """The block, which is no end; ``before`` is what may be referred to.

    What hardly becomes smaller, as it is compressed already, is stored: a sixth of the time.
    """
    if len(block) == BLOCK_BYTES and level and _is_noise(level, block):
        return _stored(block)
    deflater = new_deflater(level, RAW, before)
    return deflater.compress(block) + deflater.flush(zlib.Z_SYNC_FLUSH)


def _is_noise(level: int, block: bytes) -> bool:
    """Whether no sample of the block becomes smaller by a 32nd."""
    compress = _library().compress
    for start in range(0, BLOCK_BYTES, BLOCK_BYTES // _SAMPLES):
        sample = block[start : start + _SAMPLE_BYTES]
        if len(compress(sample, level, RAW)) < _NOISE * _SAMPLE_BYTES:
            return False
    return True


def _stored(block: bytes) -> bytes:
    """The block as it is (RFC 1951, 3.2.4)."""
    parts: list[bytes] = []
    for start in range(0, len(block), _LONGEST_STORED):
        piece = block[start : start + _LONGEST_STORED]
        parts += (b"\x00", len(piece).to_bytes(2, "little"), (len(piece) ^ 0xFFFF).to_bytes(2, "little"), piece)
    return b"".join(parts)

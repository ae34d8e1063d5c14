"""Layers compressed for their journey: gzip and zstd whose bytes depend on content and compressor alone.

gzip is made of blocks of 1 MiB, each deflated by itself with the 32 KiB before it as a dictionary and ended at a byte
boundary (RFC 1951, Z_SYNC_FLUSH), one gzip member around all, time 0, no name, unknown system (RFC 1952). So the bytes
are the same for any number of threads and any way of reading. zstd is made with worker threads, whose output does not
depend on their number, in jobs of 2 MiB, which are held in memory.

``gzip`` is made by the zlib-ng that the package zlib-ng brings along in one exact version: its bytes are the same on
every machine, of any age and of either architecture, whatever else is installed (`layers.deflate`, docs/adr/0031).
``gzip:isal`` is ISA-L, three times as fast and a little larger, whose bytes differ between x86-64 and arm64;
``gzip:zlib`` is the machine's own zlib. The name of the compressor is part of what is remembered
(`layers.registry.compressed`). The id of an image never depends on any of this.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import BinaryIO, Literal

from layers import deflate
from layers.deflate import BLOCK_BYTES, RAW, crc32, deflate_block
from layers.forms import HIGHEST_LEVELS
from unionfs.namedtuple import NamedTuple

__all__ = ["BLOCK_BYTES", "Compressor", "check_level", "choose", "usable_threads"]

_WINDOW_BYTES = 32 << 10
_HEADER = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF))
_LAST_BLOCK = b"\x03\x00"
_ZLIB_NG_LEVEL = 2
_ZLIB_LEVEL = 6
_ISAL_LEVEL = 2
_ZSTD_LEVEL = 3
_ZSTD_JOB_BYTES = 2 << 20
_MEMORY_LEVEL = 8

Deflate = Callable[[bytes, bytes], bytes]


class Compressor(NamedTuple):
    """One way to compress. ``name`` says all that decides about the bytes."""

    algorithm: Literal["gzip", "zstd"]
    name: str
    compress: Callable[[BinaryIO, int], Iterator[bytes]]
    """Reader and number of threads to the compressed bytes, in order."""


def choose(compression: str, level: int | None = None) -> Compressor | None:
    """The compressor for ``gzip``, ``gzip:isal``, ``gzip:zlib``, ``zstd``; None for ``none``.

    ``level``: 0 to 9 for ``gzip`` and ``gzip:zlib``; 1 to 22 for zstd (0: the usual one).

    Raises:
        ValueError: there is no such compression, or no such level of it.
    """
    if compression in {"none", "uncompressed"}:
        return None
    check_level(compression, level)
    if compression == "zstd":
        # loads what reads mails and archives; where gzip is wanted it is done without
        from importlib.metadata import version

        level = level or _ZSTD_LEVEL
        return Compressor("zstd", f"zstd-{level} jobs of 2 MiB zstandard {version('zstandard')}", partial(_zstd, level))
    if compression == "gzip":
        return _zlib_ng(_ZLIB_NG_LEVEL if level is None else level)
    if compression == "gzip:zlib":
        return _zlib(_ZLIB_LEVEL if level is None else level)
    if compression == "gzip:isal":
        return _isal()
    raise ValueError(f'compression "{compression}" is none of gzip, gzip:isal, gzip:zlib, zstd, none')


def check_level(compression: str, level: int | None) -> None:
    """Nothing, when ``compression`` has the level. Raises ValueError."""
    most = HIGHEST_LEVELS.get(compression)
    if level is not None and (most is None or not 0 <= level <= most):
        there = "none" if most is None else f"0 to {most}"
        raise ValueError(f'compression "{compression}" has no level {level}, there are {there}')


def _zlib_ng(level: int) -> Compressor:
    return Compressor(
        "gzip", f"gzip zlib-ng-{level} {deflate.version()}", partial(_gzip, partial(deflate_block, level))
    )


def _isal() -> Compressor:
    from importlib.metadata import PackageNotFoundError, version

    try:
        name = f"gzip isal-{_ISAL_LEVEL} {version('isal')}"
    except PackageNotFoundError:
        raise ValueError('compression "gzip:isal" needs the Python package isal') from None
    return Compressor("gzip", name, partial(_gzip, _deflate_isal))


def _zlib(level: int) -> Compressor:
    name = f"gzip zlib-{level} {zlib.ZLIB_RUNTIME_VERSION}"
    return Compressor("gzip", name, partial(_gzip, partial(_deflate_zlib, level)))


def usable_threads() -> int:
    """As many threads as there are processors for this process, at most 8."""
    return min(8, len(os.sched_getaffinity(0)))


def _deflate_zlib(level: int, block: bytes, before: bytes) -> bytes:
    deflater = zlib.compressobj(level, zlib.DEFLATED, RAW, _MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, before)
    return deflater.compress(block) + deflater.flush(zlib.Z_SYNC_FLUSH)


def _deflate_isal(block: bytes, before: bytes) -> bytes:
    from isal import isal_zlib

    # its stub is partial
    deflater = isal_zlib.compressobj(  # pyright: ignore[reportUnknownMemberType]
        _ISAL_LEVEL, zlib.DEFLATED, RAW, _MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, before
    )
    compressed: bytes = deflater.compress(block)  # pyright: ignore[reportUnknownMemberType]  # as above
    return compressed + deflater.flush(zlib.Z_SYNC_FLUSH)


def _gzip(deflated: Deflate, content: BinaryIO, threads: int) -> Iterator[bytes]:
    checksum = size = 0
    before = b""
    waiting: deque[Future[bytes]] = deque()
    yield _HEADER
    with ThreadPoolExecutor(threads, thread_name_prefix="deflate") as pool:
        try:
            while block := _read_block(content):
                waiting.append(pool.submit(deflated, block, before))
                checksum = crc32(block, checksum)
                size += len(block)
                before = block[-_WINDOW_BYTES:]
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
    yield _LAST_BLOCK + checksum.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")


def _zstd(level: int, content: BinaryIO, threads: int) -> Iterator[bytes]:
    import zstandard

    # its stub is partial
    parameters = zstandard.ZstdCompressionParameters.from_level(  # pyright: ignore[reportUnknownMemberType]
        level, threads=max(1, threads), job_size=_ZSTD_JOB_BYTES, write_checksum=True, write_content_size=False
    )
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    while block := _read_block(content):
        if piece := stream.compress(block):
            yield piece
    yield stream.flush()


def _read_block(content: BinaryIO) -> bytes:
    """Exactly BLOCK_BYTES, fewer only at the end, whatever the reader hands out at a time."""
    block = content.read(BLOCK_BYTES)
    if len(block) in {0, BLOCK_BYTES}:
        return block
    parts = [block]
    missing = BLOCK_BYTES - len(block)
    while missing and (more := content.read(missing)):
        parts.append(more)
        missing -= len(more)
    return b"".join(parts)

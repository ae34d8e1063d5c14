"""Compressed streams: told apart by their first bytes, read without holding them in memory.

Invariants: what a stream is called never matters, only what it begins with. Output comes in pieces no longer than asked
for, however well it was compressed. A stream that ends in the middle of compressed data is an ArchiveError, never a
short file; so is one that is damaged.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable
from typing import IO, Any, Protocol, cast

from layers.errors import ArchiveError
from layers.zstdframes import FrameWalker

CHUNK_BYTES = 1 << 18
HEAD_BYTES = 6
"""As many bytes of a stream decide what it is."""
_LARGEST_ZSTD_WINDOW = 1 << 27
_LARGEST_XZ_MEMORY = 1 << 28
_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)
# a zstd stream may begin with a skippable frame (RFC 8878, 3.1.2), as those of zstd:chunked do
_SKIPPABLE_REST = b"\x2a\x4d\x18"


class ByteSource(Protocol):
    """What bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, none only at the end."""
        ...


def detect(head: bytes) -> str:
    """``gzip``, ``zstd``, ``bzip2``, ``xz`` or ``none`` by the first `HEAD_BYTES` of a stream."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[1:4] == _SKIPPABLE_REST and head[0] & 0xF0 == 0x50:  # noqa: PLR2004 - 0x184D2A50 to 0x184D2A5F
        return "zstd"
    return "none"


class Decompressed:
    """A stream with its compression taken off.

    ``compression`` is what was found; ``read_bytes`` and ``compressed_bytes`` count what went out and what came in.
    """

    def __init__(self, source: ByteSource) -> None:
        self._input = _Input(source)
        self.compression = detect(self._input.head)
        self.read_bytes = 0
        self._inner = _open(self.compression, self._input)

    @property
    def compressed_bytes(self) -> int:
        """Bytes taken from the source so far."""
        return self._input.count

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, none only at the end.

        Raises:
            ArchiveError: the compressed data is damaged or cut off.
        """
        data = self._inner.read(size)
        self.read_bytes += len(data)
        return data


def _open(compression: str, source: _Input) -> ByteSource:
    if compression == "zstd":
        return _Zstd(source)
    if compression in _DECODERS:
        return _Members(source, compression, _DECODERS[compression])
    return source


class _Input:
    """The source, its beginning looked at, its bytes counted."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.count = 0
        head = b""
        while len(head) < HEAD_BYTES and (more := source.read(HEAD_BYTES - len(head))):
            head += more
        self.head = head
        self._unread = head

    def read(self, size: int, /) -> bytes:
        if self._unread:
            data, self._unread = self._unread[:size], self._unread[size:]
        else:
            data = self._source.read(size)
        self.count += len(data)
        return data


class _Decoder(Protocol):
    """One member of a compressed file."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Members:
    """gzip, bzip2, xz: members one after the other, zeros allowed after the last."""

    def __init__(self, source: ByteSource, name: str, make: Callable[[], _Decoder]) -> None:
        self._source = source
        self._name = name
        self._make = make
        self._decoder: _Decoder | None = make()
        self._next = b""

    def read(self, size: int, /) -> bytes:
        data = b""
        while not data:
            decoder = self._decoder or self._begin()
            if decoder is None:
                break
            data = self._step(decoder, size)
            if decoder.eof:
                self._next = decoder.unused_data
                self._decoder = None
        return data

    def _step(self, decoder: _Decoder, size: int) -> bytes:
        more = self._next
        self._next = b""
        if not more and decoder.needs_input():
            more = self._source.read(CHUNK_BYTES)
            if not more:
                raise ArchiveError(f"archive: its {self._name} data is cut off")
        try:
            return decoder.decompress(more, size)
        except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
            raise ArchiveError(f"archive: its {self._name} data is damaged: {error}") from error
        except Exception as error:
            # the errors of isal and zlib-ng derive from Exception alone
            if type(error).__module__.partition(".")[0] in {"igzip_lib", "zlib_ng"}:
                raise ArchiveError(f"archive: its {self._name} data is damaged: {error}") from error
            raise

    def _begin(self) -> _Decoder | None:
        """The decoder of the next member, None when there is none."""
        while not self._next.strip(b"\0"):
            self._next = self._source.read(CHUNK_BYTES)
            if not self._next:
                return None
        self._next = self._next.lstrip(b"\0")
        self._decoder = self._make()
        return self._decoder


class _ZlibObject(Protocol):
    """What zlib-ng and isal have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _gzip_object() -> _ZlibObject:
    """Isal's decoder where it is installed, else zlib-ng's: 1.7 and 1.4 times as fast as zlib's."""
    library: Any
    try:
        from isal import isal_zlib as library
    except ImportError:
        from zlib_ng import zlib_ng as library
    return cast("_ZlibObject", library.decompressobj(wbits=31))


class _Gzip:
    """What was put in and did not fit into the output stays here."""

    def __init__(self) -> None:
        self._inner = _gzip_object()

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class _Buffered:
    """The decoders of bz2 and lzma keep what they have not used."""

    def __init__(self, inner: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._inner = inner

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def needs_input(self) -> bool:
        return self._inner.needs_input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(data, max_length)


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": _Gzip,
    "bzip2": lambda: _Buffered(bz2.BZ2Decompressor()),
    "xz": lambda: _Buffered(lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_LARGEST_XZ_MEMORY)),
}


class _Zstd:
    """All frames of a zstd stream; the library does not tell a cut-off stream from a whole one, the walker does."""

    def __init__(self, source: ByteSource) -> None:
        import zstandard

        self._source = source
        self._walker = FrameWalker()
        self._errors = zstandard.ZstdError
        context = zstandard.ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW)
        self._reader = context.stream_reader(
            cast("IO[bytes]", _Walked(source, self._walker)), CHUNK_BYTES, read_across_frames=True
        )

    def read(self, size: int, /) -> bytes:
        try:
            data = self._reader.read(size)
        except self._errors as error:
            raise ArchiveError(f"archive: its zstd data is damaged: {error}") from error
        if not data and size and not self._walker.between_frames:
            raise ArchiveError("archive: its zstd data is cut off")
        return data


class _Walked:
    """Passes bytes on and shows them to the walker."""

    def __init__(self, source: ByteSource, walker: FrameWalker) -> None:
        self._source = source
        self._walker = walker

    def read(self, size: int = CHUNK_BYTES, /) -> bytes:
        data = self._source.read(size)
        self._walker.walk(data)
        return data

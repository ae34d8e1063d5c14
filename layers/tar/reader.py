"""Members of a tar stream, one after the other (POSIX.1-2017, pax; GNU tar manual, "Basic Tar Format").

Understood: v7, ustar, PAX (global and per file), GNU long names, base-256 numbers, sparse files of the old GNU form and
of PAX 0.0, 0.1 and 1.0, SCHILY.xattr and LIBARCHIVE.xattr records.

Invariants: the stream is read once, forward, in blocks; memory holds one header and at most one chunk. What breaks the
format is an ArchiveError: a wrong checksum, a header that is cut off, a record beyond its limit.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Protocol

from layers.errors import ArchiveError
from layers.tar import entry as tar
from layers.tar.entry import BLOCK, Entry, padding, show
from layers.tar.numbers import read_field, read_integer
from layers.tar.pax import Records, apply_records, read_records
from layers.tar.sparse import SparseMap, old_gnu_map, pax_map

_LAYOUT = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_LARGEST_RECORDS = 1 << 20
_LARGEST_LONG_NAME = 1 << 16
_CHUNK = 1 << 20
_LARGEST_ID = (1 << 32) - 1
# dev_t of Linux: 12 and 20 bits
_LARGEST_MAJOR, _LARGEST_MINOR = (1 << 12) - 1, (1 << 20) - 1
_LARGEST_SIZE = (1 << 63) - 1
# of time_t, in nanoseconds
_LARGEST_TIME_NS = ((1 << 63) - 1) * 1_000_000_000
_ZERO = bytes(BLOCK)
_EXTENSIONS = frozenset({b"x", b"g", b"L", b"K", b"X"})
_TYPES = {b"\0": tar.REGULAR, b"7": tar.REGULAR, b"S": tar.REGULAR} | {
    kind: kind
    for kind in (
        tar.REGULAR,
        tar.HARD_LINK,
        tar.SYMLINK,
        tar.CHARACTER_DEVICE,
        tar.BLOCK_DEVICE,
        tar.DIRECTORY,
        tar.FIFO,
    )
}
_SKIPPED = frozenset({b"V", b"M", b"N"})
"""Volume labels, continuations of other volumes, old long names: nothing that becomes a file."""


class ByteSource(Protocol):
    """What archives are read from."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, fewer only where the source likes, none only at the end."""
        ...


class TarReader:
    """Iterates over the members of a stream; content of the member at hand comes from ``chunks``.

    What of a member's content was not read when the next is asked for is passed over.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._left = 0
        self._padding = 0
        self._global: Records = {}
        self._global_bytes = 0
        self._map: SparseMap | None = None

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        self._pass_over()
        records: Records = dict(self._global)
        extended = 0
        while True:
            block = self._header()
            if block is None:
                if extended:
                    raise ArchiveError("archive: it ends after an extended header")
                raise StopIteration
            kind = block[156:157]
            if kind in _EXTENSIONS:
                extended += self._extension(kind, block, records, extended)
                continue
            entry = self._member(kind, block, records)
            if entry is not None:
                return entry
            self._pass_over()
            records, extended = dict(self._global), 0

    def chunks(self) -> Iterator[tuple[int, bytes]]:
        """The stored content of the member at hand as (offset in the file, bytes), ascending."""
        for offset, length in self._map if self._map is not None else ((0, self._left),):
            position, left = offset, length
            while left:
                chunk = self._read_some(min(left, _CHUNK))
                self._left -= len(chunk)
                yield position, chunk
                position += len(chunk)
                left -= len(chunk)

    # -- headers ----------------------------------------------------------------------------------------------------
    def _header(self) -> bytes | None:
        """The next header block, its checksum right; None at the end of the archive."""
        block = self._read_block()
        if block is None:
            return None
        if block == _ZERO:
            if (self._read_block() or _ZERO) != _ZERO:
                raise ArchiveError("archive: a block of zeros stands between its entries")
            return None
        stored = read_field(block[148:156], "checksum")
        blank = 8 * 32 - sum(block[148:156])
        total = (zlib.adler32(block[:256], 0) & 0xFFFF) + (zlib.adler32(block[256:], 0) & 0xFFFF) + blank
        if total != stored:
            # old tars summed signed characters
            signed = total - 256 * sum(byte > 127 for byte in block[:148] + block[156:])  # noqa: PLR2004 - sign bit
            if signed != stored:
                raise ArchiveError(f"archive: header has the checksum {stored}, expected {total}: no tar or damaged")
        return block

    def _extension(self, kind: bytes, block: bytes, records: Records, before: int) -> int:
        """Takes in a header that speaks about the next member or about all that follow; its bytes if of the next.

        ``before``: the bytes of those that came before it for the same member.
        """
        size = read_field(block[124:136], "size of an extended header")
        limit = _LARGEST_LONG_NAME if kind in {b"L", b"K"} else _LARGEST_RECORDS
        taken = self._global_bytes if kind == b"g" else before
        if not 0 <= size <= limit or taken + size > _LARGEST_RECORDS:
            raise ArchiveError(f"archive: extended header has {taken + size} bytes, at most {limit} are taken")
        body = self._read_exactly(size + padding(size))[:size]
        if kind == b"g":
            self._global_bytes += size
            self._global.update(read_records(body))
            records.update(self._global)
            return 0
        if kind in {b"x", b"X"}:
            records.update(read_records(body))
        else:
            records[b"path" if kind == b"L" else b"linkpath"] = body.split(b"\0", 1)[0]
        return size or 1

    def _member(self, kind: bytes, block: bytes, records: Records) -> Entry | None:
        """The member that the header and the records describe; None for one that becomes no file."""
        (name, mode, uid, gid, size, mtime, _, _, linkname, magic, _, _, major, minor, prefix) = _LAYOUT.unpack(block)
        name = name.split(b"\0", 1)[0]
        if magic[:6] == b"ustar\0" and prefix[0]:
            name = prefix.split(b"\0", 1)[0] + b"/" + name
        stored = read_integer(records[b"size"], "size") if b"size" in records else read_field(size, "size")
        device = kind in {tar.CHARACTER_DEVICE, tar.BLOCK_DEVICE}
        found = Entry(
            name=name,
            type=_TYPES.get(kind, tar.REGULAR),
            mode=read_field(mode, "mode") & 0o7777,
            uid=read_field(uid, "uid"),
            gid=read_field(gid, "gid"),
            size=stored,
            mtime_ns=read_field(mtime, "mtime") * 1_000_000_000,
            linkname=linkname.split(b"\0", 1)[0],
            major=read_field(major, "device number") if device else 0,
            minor=read_field(minor, "device number") if device else 0,
        )
        if records:
            found = apply_records(found, records)
        if found.type == tar.REGULAR and found.name.endswith(b"/"):
            found = found._replace(type=tar.DIRECTORY)
        _check_numbers(found)
        if len(found.name) > tar.LARGEST_PATH_BYTES or len(found.linkname) > tar.LARGEST_PATH_BYTES:
            raise ArchiveError(f"archive: entry {show(found.name)} has a name over {tar.LARGEST_PATH_BYTES} bytes")
        found = found._replace(name=found.name.rstrip(b"/") or found.name[:1])
        return self._begin(kind, block, records, found, stored)

    def _begin(
        self, kind: bytes, block: bytes, records: Mapping[bytes, bytes], found: Entry, stored: int
    ) -> Entry | None:
        """Sets up the content of the member."""
        has_content = found.type == tar.REGULAR or kind == b"D"
        self._left = stored if has_content else 0
        self._padding = padding(self._left)
        self._map = None
        if kind in _SKIPPED:
            return None
        if kind == b"D":
            # GNU's listing of a directory: a directory whose content is names
            return found._replace(type=tar.DIRECTORY, size=0)
        if found.type != tar.REGULAR:
            return found._replace(size=0)
        if kind == b"S":
            found = self._sparse(found, old_gnu_map(block, self._read_exactly))
        elif b"GNU.sparse.major" in records or b"GNU.sparse.map" in records or b"GNU.sparse.size" in records:
            found = self._sparse(found, pax_map(records, self._read_content))
        return found

    def _sparse(self, found: Entry, sparse: tuple[SparseMap, int]) -> Entry:
        pieces, real_size = sparse
        if real_size > _LARGEST_SIZE:
            raise ArchiveError(f"archive: sparse entry {show(found.name)} has the size {real_size}")
        if sum(length for _, length in pieces) != self._left:
            raise ArchiveError(
                f"archive: sparse entry {show(found.name)} stores {self._left} bytes, its map says other"
            )
        self._map = pieces
        return found._replace(size=real_size, sparse=pieces)

    # -- bytes ------------------------------------------------------------------------------------------------------
    def _pass_over(self) -> None:
        left = self._left + self._padding
        while left:
            left -= len(self._read_some(min(left, _CHUNK)))
        self._left = self._padding = 0

    def _read_content(self, size: int) -> bytes:
        """Bytes of the stored content that are no data of the file."""
        if size > self._left:
            raise ArchiveError("archive: the map of a sparse entry is longer than the entry")
        self._left -= size
        return self._read_exactly(size)

    def _read_some(self, size: int) -> bytes:
        chunk = self._source.read(size)
        if not chunk:
            raise ArchiveError("archive: it ends in the middle of an entry")
        return chunk

    def _read_exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            parts.append(self._read_some(size))
            size -= len(parts[-1])
        return b"".join(parts)

    def _read_block(self) -> bytes | None:
        """One block; None when the stream ends where a header could stand."""
        block = self._source.read(BLOCK)
        if len(block) == BLOCK:
            return block
        return block + self._read_exactly(BLOCK - len(block)) if block else None


def _check_numbers(found: Entry) -> None:
    if found.size < 0:
        raise ArchiveError(f"archive: entry {show(found.name)} has the size {found.size}")
    if abs(found.mtime_ns) > _LARGEST_TIME_NS:
        raise ArchiveError(f"archive: entry {show(found.name)} has a time that no file can have")
    if not (0 <= found.major <= _LARGEST_MAJOR and 0 <= found.minor <= _LARGEST_MINOR):
        raise ArchiveError(f"archive: entry {show(found.name)} is the device {found.major}:{found.minor}")
    for number in (found.uid, found.gid):
        # -1 would mean "leave as it is" to chown(2)
        if not 0 <= number < _LARGEST_ID:
            raise ArchiveError(f"archive: entry {show(found.name)} has the id {number}")

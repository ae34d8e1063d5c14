"""The archive of a layer becomes a branch directory.

Invariants: the directory appears whole or not at all: it is filled under a temporary name beside its place, verified,
then renamed, so a bad archive changes nothing. The stream is read once, whatever its size, and to its end, so that the
digest of the uncompressed bytes is that of everything that came. Limits stop what would only fill the disk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from layers.aside import LARGE_BYTES, HashAside, ReadAhead
from layers.compression import ByteSource, Decompressed
from layers.digest import Digest, from_hex
from layers.errors import ArchiveError, ContentMismatchError
from layers.extraction import Extractor, Rights
from layers.limits import Limits
from layers.lowerview import LowerView
from layers.ownership import temporary_name, this_process
from layers.storage import store_error
from layers.tar.reader import TarReader
from unionfs.namedtuple import NamedTuple
from unionfs.removal import remove_tree

_CHUNK = 1 << 19
_REFUSED = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT})


class UnpackResult(NamedTuple):
    """What came: the digest and length of the uncompressed tar, its compression, entries, what was left out and why."""

    diff_id: Digest
    size: int
    compression: str
    compressed_size: int
    entries: int
    notes: tuple[str, ...]


def apply_layer(
    stream: ByteSource,
    target_dir: Path,
    *,
    parents: Sequence[Path] = (),
    expected: Digest | None = None,
    rights: Rights | None = None,
    limits: Limits | None = None,
) -> UnpackResult:
    """The directory, absent or empty before, holds the layer and serves as a branch as it lies.

    ``stream`` is a tar, plain or compressed, told by its content. ``parents`` are the layers below, top first: entries
    that come without their parent directories find them there, and the root has the attributes it has there.
    ``expected`` is the diff ID that must result.

    Raises:
        ArchiveError: the archive is broken, hostile or beyond the limits.
        ContentMismatchError: the digest is not the expected one, or what the stream itself verifies.
        StoreError: the filesystem does not take it: full, read-only.
    """
    temporary = target_dir.parent / temporary_name(this_process())
    try:
        try:
            temporary.mkdir(mode=0o700)
            result = _fill(temporary, stream, parents, rights or Rights.of_this_process(), limits or Limits())
            if expected is not None and result.diff_id != expected:
                raise ContentMismatchError(f"layer has the diff ID {result.diff_id}, expected {expected}")
            temporary.rename(target_dir)
        except BaseException:
            remove_tree(temporary)
            raise
    except OSError as error:
        if error.errno in _REFUSED and temporary.parent.is_dir():
            raise ArchiveError(f"archive: it does not fit together: {(error.strerror or '').lower()}") from error
        raise store_error(target_dir, error) from error
    return result


class _Hashed:
    """Hashes what is read and minds the limits on bytes; what is large is read ahead."""

    def __init__(self, source: Decompressed, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._hash = HashAside()
        self._buffer = b""
        self._position = 0
        self._ahead: ReadAhead | None = None

    def read(self, size: int, /) -> bytes:
        """Headers come from a buffer: a call a block would cost more than the hash."""
        if self._position == len(self._buffer):
            self._fill()
        data = self._buffer[self._position : self._position + size]
        self._position += len(data)
        return data

    def drain(self) -> Digest:
        """The digest of everything, after reading the rest."""
        while self._fill():
            pass
        return from_hex(self._hash.hexdigest())

    def close(self) -> None:
        """Nothing is read any more. Idempotent."""
        if self._ahead is not None:
            self._ahead.close()
        self._hash.close()

    def _fill(self) -> bool:
        if self._ahead is None and self._source.read_bytes >= LARGE_BYTES:
            self._ahead = ReadAhead(self._read_chunk)
        self._buffer = self._read_chunk() if self._ahead is None else self._ahead.next()
        self._position = 0
        return bool(self._buffer)

    def _read_chunk(self) -> bytes:
        """The next bytes of the source, hashed. In the thread that reads ahead, once there is one."""
        chunk = self._source.read(_CHUNK)
        self._hash.update(chunk)
        self._limits.check(self._source)
        return chunk


def _fill(directory: Path, stream: ByteSource, parents: Sequence[Path], rights: Rights, limits: Limits) -> UnpackResult:
    source = Decompressed(stream)
    hashed = _Hashed(source, limits)
    root_before = parents[0].stat() if parents else None
    extractor = Extractor(os.fsencode(directory), LowerView(parents), rights, root_before)
    entries = sparse_bytes = 0
    try:
        reader = TarReader(hashed)
        for entry in reader:
            entries += 1
            if entries > limits.entries:
                raise ArchiveError(f"archive: it has more than {limits.entries} entries")
            # holes take no room here, and do in whatever reads them
            sparse_bytes += 0 if entry.sparse is None else entry.size
            if sparse_bytes > limits.total_bytes:
                raise ArchiveError(f"archive: its sparse files have more than {limits.total_bytes} bytes")
            extractor.add(entry, reader.chunks())
        extractor.finish()
        diff_id = hashed.drain()
    finally:
        hashed.close()
        extractor.close()
    return UnpackResult(
        diff_id, source.read_bytes, source.compression, source.compressed_bytes, entries, extractor.notes
    )

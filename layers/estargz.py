"""eStargz: a gzip layer whose files can be fetched one at a time.

::

    member  header of the first file                        each member is a gzip stream of its own; one after the other
    member  content of the first file, at most 4 MiB        they are a gzip layer for whoever knows nothing of this
    member  more of it …
    member  padding, header of the next file
    …
    member  padding, header and content of stargz.index.json: where each content begins, and its digest
    footer  an empty member whose extra field says where the member before it begins

Invariants: the bytes depend on the tar, the level and the version of zlib-ng alone, not on the number of threads. The
uncompressed bytes are the tar that came in, its headers written anew, with the landmark that says that nothing is to be
prefetched before it and the table of contents behind it; so the layer has a diff ID of its own.

Source: docs/estargz.md of stargz-snapshotter.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from typing import IO, BinaryIO

from layers import deflate, gojson, media
from layers.blobs import CHUNK_BYTES
from layers.deflate import new_deflater
from layers.descriptor import Descriptor
from layers.digest import Digest, from_hex
from layers.store import Store
from layers.tar import entry as tar
from layers.tar.entry import Entry, padding
from layers.tar.reader import TarReader
from layers.tar.writer import END, encode_header
from unionfs.namedtuple import NamedTuple

UNCOMPRESSED_SIZE = "io.containers.estargz.uncompressed-size"
TOC_NAME = b"stargz.index.json"
LANDMARK = b".no.prefetch.landmark"
_LANDMARKS = frozenset({LANDMARK, b".prefetch.landmark", TOC_NAME})
_LANDMARK_CONTENT = b"\x0f"
_DIFF_ID = "containerd.io/uncompressed"
_CHUNK = 4 << 20
_LEVEL = 6
_GZIP = 31
_SECOND_NS = 1_000_000_000
_TYPES = {
    tar.REGULAR: "reg",
    tar.HARD_LINK: "hardlink",
    tar.SYMLINK: "symlink",
    tar.CHARACTER_DEVICE: "char",
    tar.BLOCK_DEVICE: "block",
    tar.DIRECTORY: "dir",
    tar.FIFO: "fifo",
}
_KEPT_IN_MEMORY = 8 << 20
_LONGEST_HEADERS = 1 << 20


def convert(
    store: Store,
    layer: Descriptor,
    diff_id: Digest,
    level: int | None,
    *,
    check: Callable[[], None] | None = None,
    report: Callable[[int], None] | None = None,
) -> tuple[Descriptor, Digest]:
    """The layer as eStargz is in the store and remembered; its descriptor and its diff ID.

    Raises: as `layers.registry.compressed.compress`.
    """
    from layers.registry import compressed
    from layers.registry.compress import check_level, usable_threads

    check_level("estargz", level)
    level = _LEVEL if level is None else level
    name = f"estargz zlib-ng-{level} {deflate.version()}"
    made = compressed.find_stored(store, diff_id, name)
    if made is None:
        with compressed.open_plain(store, layer, diff_id, check, report) as content:
            writer = Writer(content, level, usable_threads())
            made = store.blobs.put(writer.chunks(), media_type=media.OCI_LAYER_GZIP)
        annotations = {
            media.TOC_DIGEST: str(writer.toc_digest),
            UNCOMPRESSED_SIZE: str(writer.size),
            _DIFF_ID: str(writer.diff_id),
        }
        made = made._replace(annotations=annotations)
        compressed.remember(store, diff_id, name, made)
    told = {key: value for key, value in made.annotations.items() if key != _DIFF_ID}
    return made._replace(annotations=told), Digest(made.annotations[_DIFF_ID])


class _Piece(NamedTuple):
    """Bytes that become one member; ``fields`` are those of the table's entry whose content it is, else empty."""

    data: bytes
    fields: gojson.JsonObject


class Writer:
    """One conversion of a tar. ``toc_digest``, ``diff_id`` and ``size`` (uncompressed) are there after `chunks`."""

    def __init__(self, content: BinaryIO, level: int, threads: int) -> None:
        self._content = content
        self._level = level
        self._threads = max(1, threads)
        self._hash = hashlib.sha256()
        self._offset = 0
        self._rest = b""
        self.size = 0
        self.toc_digest = from_hex("0" * 64)
        self.diff_id = self.toc_digest

    def chunks(self) -> Iterator[bytes]:
        """The blob, piece by piece; to be called once."""
        # the table may be large where there are many small files
        with tempfile.SpooledTemporaryFile(max_size=_KEPT_IN_MEMORY) as table:
            table.write(b'{"version":1,"entries":[')
            yield from self._compressed(table)
            table.seek(-1, 1)
            table.write(b"]}")
            yield from self._end(table)

    def _compressed(self, table: IO[bytes]) -> Iterator[bytes]:
        """The members, deflated side by side, in order; entries of the table are written as their place is known."""
        waiting: deque[tuple[_Piece, Future[bytes] | None]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="deflate") as pool:
            try:
                for piece in self._pieces():
                    self._count(piece.data)
                    made = pool.submit(_deflate, self._level, piece.data) if piece.data else None
                    waiting.append((piece, made))
                    while len(waiting) > self._threads:
                        yield self._place(*waiting.popleft(), table)
                while waiting:
                    yield self._place(*waiting.popleft(), table)
            finally:
                for _, future in waiting:
                    if future is not None:
                        future.cancel()

    def _place(self, piece: _Piece, future: Future[bytes] | None, table: IO[bytes]) -> bytes:
        member = b"" if future is None else future.result()
        if piece.fields:
            fields = {**piece.fields, "offset": self._offset} if piece.data else piece.fields
            table.write(gojson.dumps(fields) + b",")
        self._offset += len(member)
        return member

    def _count(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)

    def _pieces(self) -> Iterator[_Piece]:
        """Headers with the padding before them, and contents in chunks."""
        entry = Entry(LANDMARK, mode=0o644, size=len(_LANDMARK_CONTENT))
        before = encode_header(entry)
        yield _Piece(before, {})
        yield from _content(entry, [(0, _LANDMARK_CONTENT)])
        before = bytes(padding(entry.size))
        reader = TarReader(self._content)
        for entry in reader:
            if entry.name.removeprefix(b"./").lstrip(b"/") in _LANDMARKS:
                continue
            with_content = entry.type == tar.REGULAR and entry.size > 0
            before += encode_header(entry._replace(sparse=None, size=entry.size if with_content else 0), fractions=True)
            if with_content or len(before) > _LONGEST_HEADERS:
                yield _Piece(before, {})
                before = b""
            if with_content:
                yield from _content(entry, reader.chunks())
                before = bytes(padding(entry.size))
            else:
                yield _Piece(b"", _describe(entry))
        # what follows the archive counts for its digest alone
        while self._content.read(CHUNK_BYTES):
            pass
        self._rest = before

    def _end(self, table: IO[bytes]) -> Iterator[bytes]:
        """The table of contents and the footer."""
        size = table.tell()
        table.seek(0)
        found = hashlib.sha256()
        deflater = new_deflater(self._level, _GZIP)
        entry = Entry(TOC_NAME, mode=0o444, size=size)
        start = self._offset
        if self._rest:
            member = _deflate(self._level, self._rest)
            self._count(self._rest)
            start += len(member)
            yield member
        head = encode_header(entry)
        self._count(head)
        yield deflater.compress(head)
        while data := table.read(CHUNK_BYTES):
            found.update(data)
            self._count(data)
            yield deflater.compress(data)
        tail = bytes(padding(size)) + END
        self._count(tail)
        yield deflater.compress(tail) + deflater.flush()
        self.toc_digest = from_hex(found.hexdigest())
        self.diff_id = from_hex(self._hash.hexdigest())
        yield footer(start)


def footer(offset: int) -> bytes:
    """The last 51 bytes: an empty member that says that the table's member begins at ``offset``."""
    field = b"%016xSTARGZ" % offset
    extra = b"SG" + len(field).to_bytes(2, "little") + field
    header = bytes((0x1F, 0x8B, 8, 4, 0, 0, 0, 0, 0, 0xFF)) + len(extra).to_bytes(2, "little") + extra
    return header + b"\x01\x00\x00\xff\xff" + bytes(8)


def _content(entry: Entry, stored: Iterable[tuple[int, bytes]]) -> Iterator[_Piece]:
    """The content in chunks, each with its entry of the table; the last one's ``chunkSize`` is 0."""
    first = _describe(entry)
    start = 0
    for data in _cut(stored, entry.size):
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if entry.size <= _CHUNK:
            fields: gojson.JsonObject = {**first, "digest": digest}
        else:
            fields = dict(first) if start == 0 else {"name": first["name"], "type": "chunk"}
            last = start + len(data) == entry.size
            fields |= {"chunkOffset": start, "chunkSize": 0 if last else len(data)}
        yield _Piece(data, {**fields, "chunkDigest": digest})
        start += len(data)


def _cut(stored: Iterable[tuple[int, bytes]], size: int) -> Iterator[bytes]:
    """The content, holes filled with zeros, in pieces of the length of a chunk."""
    buffer = bytearray()
    filled = 0
    for offset, data in chain(stored, ((size, b""),)):
        for part in _zeros_then(offset - filled, data):
            buffer += part
            while len(buffer) >= _CHUNK:
                yield bytes(buffer[:_CHUNK])
                del buffer[:_CHUNK]
        filled = offset + len(data)
    if buffer:
        yield bytes(buffer)


def _zeros_then(zeros: int, data: bytes) -> Iterator[bytes]:
    while zeros > 0:
        step = min(zeros, CHUNK_BYTES)
        yield bytes(step)
        zeros -= step
    yield data


def _describe(entry: Entry) -> gojson.JsonObject:
    """The entry of the table, without what is said of content."""
    name = entry.name.decode("utf-8", "replace")
    fields: gojson.JsonObject = {
        "name": name + "/" if entry.type == tar.DIRECTORY else name,
        "type": _TYPES.get(entry.type, "reg"),
    }
    if entry.type == tar.REGULAR and entry.size:
        fields["size"] = entry.size
    fields["modtime"] = datetime.fromtimestamp(entry.mtime_ns // _SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields |= gojson.without_empty({"linkName": entry.linkname.decode("utf-8", "replace")})
    fields |= {"mode": entry.mode, "uid": entry.uid, "gid": entry.gid}
    if entry.type in {tar.CHARACTER_DEVICE, tar.BLOCK_DEVICE}:
        fields |= {"devMajor": entry.major, "devMinor": entry.minor}
    if entry.xattrs:
        fields["xattrs"] = {
            key.decode("utf-8", "replace"): base64.b64encode(value).decode()
            for key, value in sorted(entry.xattrs.items())
        }
    return fields | {"NumLink": 0}


def _deflate(level: int, data: bytes) -> bytes:
    """One gzip member: time 0, no name."""
    deflater = new_deflater(level, _GZIP)
    return deflater.compress(data) + deflater.flush()

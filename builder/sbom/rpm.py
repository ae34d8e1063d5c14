"""Packages of rpm: its database as SQLite (rpm 4.16 and later) and as ndb (SUSE).

Source: rpm, docs/manual/format_header.md and lib/backend/ndb.

::

    header   number of index entries · length of the data, 4 bytes each, big-endian
             entries of 16 bytes: tag · type · offset into the data · count
             data

The older database of Berkeley DB is told from these and noted.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from typing import NoReturn

from builder.sbom.packages import Distribution, Package, Reader, first_line, purl
from unionfs.namedtuple import NamedTuple

_PLACES = (b"var/lib/rpm/", b"usr/lib/sysimage/rpm/", b"usr/share/rpm/")
_SQLITE = frozenset(place + b"rpmdb.sqlite" for place in _PLACES)
_NDB = frozenset(place + b"Packages.db" for place in _PLACES)
_BERKELEY = frozenset(place + b"Packages" for place in _PLACES)

_NAME, _VERSION, _RELEASE, _EPOCH = 1000, 1001, 1002, 1003
_SUMMARY, _VENDOR, _LICENSE, _URL, _ARCH, _SOURCE = 1004, 1011, 1014, 1020, 1022, 1044
_INT32, _STRING, _STRING_ARRAY, _I18N = 4, 6, 8, 9
_MOST_TAGS = 1 << 16
_LARGEST_HEADER = 64 << 20
_ENTRY = struct.Struct(">iiii")
_NDB_HEADER = struct.Struct("<8I")
_NDB_SLOT = struct.Struct("<4I")
_NDB_BLOB = struct.Struct("<4I")
_NDB_PAGE_BYTES = 4096
_NDB_BLOCK_BYTES = 16
_SLOT_MAGIC = int.from_bytes(b"Slot", "little")
_BLOB_MAGIC = int.from_bytes(b"BlbS", "little")
_KEY_PACKAGES = frozenset({"gpg-pubkey"})


class _Header(NamedTuple):
    """The values of a header by tag: texts, or whole numbers."""

    values: dict[int, str | int]

    def text(self, tag: int) -> str:
        return str(self.values.get(tag, ""))


def _read_sqlite(path: bytes, raw: bytes, distribution: Distribution) -> Iterator[Package]:
    database = sqlite3.connect(":memory:")
    try:
        # a database in WAL mode could not be opened from memory; versions 1 are those of a rollback journal
        database.deserialize(raw[:18] + b"\x01\x01" + raw[20:])
        rows = database.execute("SELECT blob FROM Packages").fetchall()
    except sqlite3.Error as error:
        raise ValueError(str(error)) from error
    finally:
        database.close()
    for (blob,) in rows:
        yield from _packages(path, bytes(blob), distribution)


def _read_ndb(path: bytes, raw: bytes, distribution: Distribution) -> Iterator[Package]:
    """Pages of slots, each of which says where a header lies (rpm, lib/backend/ndb/rpmpkg.c)."""
    if raw[:4] != b"RpmP":
        raise ValueError("it is no database of rpm")
    pages = _NDB_HEADER.unpack_from(raw)[4]
    first = _NDB_HEADER.size // _NDB_SLOT.size
    for number in range(first, min(pages * _NDB_PAGE_BYTES, len(raw)) // _NDB_SLOT.size):
        magic, index, block, _ = _NDB_SLOT.unpack_from(raw, number * _NDB_SLOT.size)
        if magic != _SLOT_MAGIC:
            raise ValueError("its slots are damaged")
        if not index:
            continue
        start = block * _NDB_BLOCK_BYTES
        if start + _NDB_BLOB.size > len(raw):
            raise ValueError("it is cut off")
        blob_magic, blob_index, _, length = _NDB_BLOB.unpack_from(raw, start)
        if blob_magic != _BLOB_MAGIC or blob_index != index:
            raise ValueError("one of its headers is damaged")
        start += _NDB_BLOB.size
        yield from _packages(path, raw[start : start + length], distribution)


def _read_berkeley(path: bytes, raw: bytes, distribution: Distribution) -> NoReturn:
    del path, raw, distribution
    raise ValueError("databases of rpm in the form of Berkeley DB are not read")


def _packages(path: bytes, blob: bytes, distribution: Distribution) -> Iterator[Package]:
    header = _read_header(blob)
    name = header.text(_NAME)
    if not name or name in _KEY_PACKAGES:
        return
    epoch = header.text(_EPOCH)
    version = f"{header.text(_VERSION)}-{header.text(_RELEASE)}"
    qualifiers = {
        "arch": header.text(_ARCH),
        "distro": distribution.qualifier,
        "epoch": epoch,
        "upstream": header.text(_SOURCE),
    }
    yield Package(
        kind="rpm",
        name=name,
        version=f"{epoch}:{version}" if epoch else version,
        place="/" + path.decode("utf-8", "replace"),
        purl=purl("rpm", distribution.id, name, version, qualifiers),
        supplier=first_line(header.text(_VENDOR)),
        license=first_line(header.text(_LICENSE)),
        homepage=first_line(header.text(_URL)),
        description=first_line(header.text(_SUMMARY)),
    )


def _read_header(blob: bytes) -> _Header:
    """The values that packages are told by. Raises ValueError."""
    if len(blob) < 8 or len(blob) > _LARGEST_HEADER:  # noqa: PLR2004 - two counts of 4 bytes
        raise ValueError(f"a header has {len(blob)} bytes")
    count, length = struct.unpack_from(">ii", blob)
    start = 8 + _ENTRY.size * count
    if not 0 <= count <= _MOST_TAGS or length < 0 or start + length > len(blob):
        raise ValueError("a header is damaged")
    values: dict[int, str | int] = {}
    for number in range(count):
        tag, kind, offset, _ = _ENTRY.unpack_from(blob, 8 + number * _ENTRY.size)
        if tag in _WANTED and 0 <= offset < length:
            value = _value(blob, kind, start + offset, start + length)
            if value is not None:
                values[tag] = value
    return _Header(values)


_WANTED = frozenset({_NAME, _VERSION, _RELEASE, _EPOCH, _SUMMARY, _VENDOR, _LICENSE, _URL, _ARCH, _SOURCE})


def _value(blob: bytes, kind: int, start: int, end: int) -> str | int | None:
    """The first value at ``start``; None for kinds that none of the tags has."""
    if kind == _INT32:
        return int.from_bytes(blob[start : start + 4], "big") if start + 4 <= end else None
    if kind in {_STRING, _STRING_ARRAY, _I18N}:
        stop = blob.find(b"\0", start, end)
        return None if stop < 0 else blob[start:stop].decode("utf-8", "replace")
    return None


READERS = (
    Reader(_SQLITE.__contains__, _read_sqlite),
    Reader(_NDB.__contains__, _read_ndb),
    Reader(_BERKELEY.__contains__, _read_berkeley),
)

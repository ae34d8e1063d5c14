"""PAX records: what the extended headers of an archive say (POSIX.1-2017, pax, "Extended Header").

Invariants: a record is whole or an ArchiveError; later records win over earlier ones; unknown keys are kept and have
no effect.
"""

from __future__ import annotations

import base64
import binascii
import urllib.parse

from layers.errors import ArchiveError
from layers.tar.entry import NO_XATTRS, Entry, show
from layers.tar.numbers import read_integer, read_seconds

Records = dict[bytes, bytes]

_SCHILY = b"SCHILY.xattr."
_LIBARCHIVE = b"LIBARCHIVE.xattr."
_LONGEST_XATTR_NAME = 255


def read_records(body: bytes) -> Records:
    """The records in the content of an extended header. Raises ArchiveError."""
    records: Records = {}
    position = 0
    while position < len(body):
        space = body.find(b" ", position, position + 20)
        digits = body[position:space] if space > 0 else b""
        end = position + int(digits) if digits.isdigit() else 0
        record = body[space + 1 : end]
        key, equals, value = record.partition(b"=")
        if end <= space or end > len(body) or not record.endswith(b"\n") or not equals or not key:
            raise ArchiveError(f"archive: PAX record {body[position : position + 40]!r} is malformed")
        if key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:
            # version 0.0 repeats the two keys: kept as the list that version 0.1 writes
            mapped = records.get(b"GNU.sparse.map", b"")
            records[b"GNU.sparse.map"] = (mapped + b"," if mapped else b"") + value[:-1]
        else:
            records[key] = value[:-1]
        position = end
    return records


def apply_records(entry: Entry, records: Records) -> Entry:
    """The entry with what the records say; an empty value takes back what a global record said."""
    name = records.get(b"GNU.sparse.name") or records.get(b"path") or entry.name
    linkname = records.get(b"linkpath") or entry.linkname
    if b"\0" in name or b"\0" in linkname:
        raise ArchiveError(f"archive: PAX record holds a name with a NUL byte: {name[:40]!r} {linkname[:40]!r}")
    uid, gid, mtime = (records.get(key) for key in (b"uid", b"gid", b"mtime"))
    return entry._replace(
        name=name,
        linkname=linkname,
        uid=read_integer(uid, "uid") if uid else entry.uid,
        gid=read_integer(gid, "gid") if gid else entry.gid,
        mtime_ns=read_seconds(mtime, "mtime") if mtime else entry.mtime_ns,
        xattrs=_xattrs(records) or NO_XATTRS,
    )


def _xattrs(records: Records) -> dict[bytes, bytes]:
    """The attributes of a file; a name is what the kernel takes for one. Raises ArchiveError."""
    found: dict[bytes, bytes] = {}
    for key, value in records.items():
        if key.startswith(_LIBARCHIVE):
            name = urllib.parse.unquote_to_bytes(key[len(_LIBARCHIVE) :])
            try:
                found.setdefault(name, base64.b64decode(value + b"=" * (-len(value) % 4), validate=True))
            except binascii.Error as error:
                raise ArchiveError(f"archive: PAX record {key[:60]!r} is no base64") from error
    found.update((key[len(_SCHILY) :], value) for key, value in records.items() if key.startswith(_SCHILY))
    for name in found:
        if not 0 < len(name) <= _LONGEST_XATTR_NAME or b"\0" in name:
            raise ArchiveError(f"archive: {show(name)} is no name of an attribute")
    return found

"""Headers of tar archives: ustar, with PAX records only for what ustar cannot say (POSIX.1-2017, pax).

PAX records are written for: a name over 100 bytes that does not split at a slash, a link name over 100 bytes, ids over
2097151, sizes of 8 GiB and more, times before 1970 or after 2242, fractions of a second when asked for, xattrs
(``SCHILY.xattr.``; those with a ``=`` in their name, which would end there, as libarchive has them). Values that are no
UTF-8 are announced with ``hdrcharset=BINARY``.

Invariants: equal entries give equal bytes; user and group names are empty; the records of a header are sorted.
"""

from __future__ import annotations

import binascii
import struct
import zlib

from unionfs.tar.entry import BLOCK, DIRECTORY, Entry, padding

END = bytes(2 * BLOCK)
"""What ends an archive."""

_LAYOUT = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_MAGIC = b"ustar\x0000"
_BLANK_SUM = b" " * 8
_NAME = 100
_PREFIX = 155
_LARGEST_ID = 0o7777777
_LARGEST_SIZE = 0o77777777777
_SECOND_NS = 1_000_000_000
_NO_DEVICE = b"0000000\x00"


def encode_header(entry: Entry, *, fractions: bool = False) -> bytes:
    """The blocks that go before the content of the entry.

    ``fractions``: the time keeps its fraction of a second; otherwise it is cut to whole seconds.
    """
    records = [_xattr(key, value) for key, value in entry.xattrs.items()]
    name = entry.name + b"/" if entry.type == DIRECTORY else entry.name
    prefix = b""
    if len(name) > _NAME:
        prefix, name = _split(name, records)
    linkname = entry.linkname
    if len(linkname) > _NAME:
        records.append((b"linkpath", linkname))
        linkname = linkname[:_NAME]
    uid = _number(entry.uid, _LARGEST_ID, b"uid", records)
    gid = _number(entry.gid, _LARGEST_ID, b"gid", records)
    size = _number(entry.size, _LARGEST_SIZE, b"size", records)
    mtime, fraction = divmod(entry.mtime_ns, _SECOND_NS)
    if fractions and fraction:
        records.append((b"mtime", _decimal_seconds(entry.mtime_ns)))
        mtime = min(max(mtime, 0), _LARGEST_SIZE)
    else:
        mtime = _number(mtime, _LARGEST_SIZE, b"mtime", records)
    header = _ustar(name, entry.type, entry.mode, uid, gid, size, mtime, linkname, prefix, entry.major, entry.minor)
    return _pax(entry.name, records) + header if records else header


def _ustar(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    linkname: bytes = b"",
    prefix: bytes = b"",
    major: int = 0,
    minor: int = 0,
) -> bytes:
    device = (b"%07o\0" % major, b"%07o\0" % minor) if major or minor else (_NO_DEVICE, _NO_DEVICE)
    header = _LAYOUT.pack(
        name,
        b"%07o\0" % mode,
        b"%07o\0" % uid,
        b"%07o\0" % gid,
        b"%011o\0" % size,
        b"%011o\0" % mtime,
        _BLANK_SUM,
        kind,
        linkname,
        _MAGIC,
        b"",
        b"",
        device[0],
        device[1],
        prefix,
    )
    # adler32 keeps the plain sum of its bytes in the low half, exactly for up to 256 of them
    total = (zlib.adler32(header[:256], 0) & 0xFFFF) + (zlib.adler32(header[256:], 0) & 0xFFFF)
    return b"%b%06o\0 %b" % (header[:148], total, header[156:])


def _split(name: bytes, records: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Prefix and name whose join is the name; a record and what fits when there is no such slash."""
    slash = name.find(b"/", len(name) - _NAME - 1, min(_PREFIX + 1, len(name) - 1))
    if slash > 0:
        return name[:slash], name[slash + 1 :]
    records.append((b"path", name))
    return b"", name[:_NAME]


def _number(value: int, largest: int, key: bytes, records: list[tuple[bytes, bytes]]) -> int:
    """The value, or 0 and a record when the field cannot hold it."""
    if 0 <= value <= largest:
        return value
    records.append((key, b"%d" % value))
    return 0


def _xattr(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    """The record of an attribute; a key ends at its first ``=``, so such a name is quoted, and its value in base64."""
    if b"=" not in key:
        return b"SCHILY.xattr." + key, value
    quoted = b"".join(b"%c" % byte if 32 < byte < 127 and byte not in b"%=" else b"%%%02X" % byte for byte in key)  # noqa: PLR2004 - printable ASCII
    return b"LIBARCHIVE.xattr." + quoted, binascii.b2a_base64(value, newline=False).rstrip(b"=")


def _decimal_seconds(time_ns: int) -> bytes:
    sign = "-" if time_ns < 0 else ""
    seconds, fraction = divmod(abs(time_ns), _SECOND_NS)
    return f"{sign}{seconds}.{fraction:09d}".rstrip("0").encode()


def _pax(name: bytes, records: list[tuple[bytes, bytes]]) -> bytes:
    """A header of type ``x`` with the records."""
    records.sort()
    if not all(_is_text(key) and (_is_text(value) or key.startswith(b"SCHILY.xattr.")) for key, value in records):
        records.insert(0, (b"hdrcharset", b"BINARY"))
    body = b"".join(_record(key, value) for key, value in records)
    title = b"PaxHeaders.0/" + name.rpartition(b"/")[2][: _NAME - 13]
    return _ustar(title, b"x", 0o644, 0, 0, len(body), 0) + body + bytes(padding(len(body)))


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _record(key: bytes, value: bytes) -> bytes:
    """``<length> <key>=<value>`` and a newline, where the length counts itself."""
    rest = b" %b=%b\n" % (key, value)
    length = len(rest) + len(str(len(rest)))
    if len(str(length)) + len(rest) != length:
        length += 1
    return b"%d%b" % (length, rest)

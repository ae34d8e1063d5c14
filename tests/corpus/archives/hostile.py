"""Archives that want more than they may: what is in each, and what is said about it.

Each case is a name, the bytes of the archive, and either a part of the error, or ``None`` with the paths the archive
may make. Wherever an archive says OUTSIDE, the test puts the path of a directory that must stay as it is.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from typing import NamedTuple

from layers.tar.entry import (
    CHARACTER_DEVICE,
    DIRECTORY,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Entry,
    padding,
)
from layers.tar.writer import END, encode_header


class Case(NamedTuple):
    name: str
    archive: bytes
    error: str | None
    paths: frozenset[bytes] = frozenset()


def file(name: bytes, content: bytes = b"evil", **fields: object) -> bytes:
    header = encode_header(Entry(name, REGULAR, size=len(content), **fields))
    return header + content + bytes(padding(len(content)))


def link(name: bytes, target: bytes) -> bytes:
    return encode_header(Entry(name, SYMLINK, 0o777, linkname=target))


def hard(name: bytes, target: bytes) -> bytes:
    return encode_header(Entry(name, HARD_LINK, linkname=target))


def directory(name: bytes, mode: int = 0o755) -> bytes:
    return encode_header(Entry(name, DIRECTORY, mode))


def with_checksum(header: bytes) -> bytes:
    blank = header[:148] + b" " * 8 + header[156:512]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def raw_size(size_field: bytes) -> bytes:
    header = bytearray(encode_header(Entry(b"f")))
    header[124:136] = size_field.ljust(12, b"\0")
    return with_checksum(bytes(header))


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    """An extended header; ``kind``: g for all that follow, L and K for the long names of GNU."""
    header = bytearray(encode_header(Entry(b"PaxHeaders/x", REGULAR, size=len(records))))
    header[156:157] = kind
    return with_checksum(bytes(header)) + records + bytes(padding(len(records)))


def patched(entry: Entry, offset: int, value: bytes) -> bytes:
    """The header of the entry with other bytes at an offset."""
    header = encode_header(entry)
    return with_checksum(header[:offset] + value + header[offset + len(value) :])


def base256(number: int, width: int) -> bytes:
    return b"\x80" + number.to_bytes(width - 1, "big")


MTIME, UID, SIZE, MAJOR, MINOR = 136, 108, 124, 329, 337
NULL_DEVICE = Entry(b"null", CHARACTER_DEVICE, major=1, minor=3)


def record(key: bytes, value: bytes) -> bytes:
    for length in range(len(key) + len(value) + 3, len(key) + len(value) + 20):
        line = b"%d %b=%b\n" % (length, key, value)
        if len(line) == length:
            return line
    raise AssertionError(key)


def paths(*names: bytes) -> frozenset[bytes]:
    return frozenset((b"", *names))


def cases(outside: bytes) -> tuple[Case, ...]:
    """``outside`` is an absolute path, without a slash at its end, that holds one file, ``kept``."""
    escape = b"../" * 40 + outside.lstrip(b"/")
    own = outside.lstrip(b"/")
    inside = [b"/".join(own.split(b"/")[: count + 1]) for count in range(own.count(b"/") + 1)]
    return (
        # -- names
        Case("absolute name stays inside", file(outside + b"/new"), None, paths(*inside, own + b"/new")),
        Case("double slashes stay inside", file(b"//" + own + b"//new"), None, paths(*inside, own + b"/new")),
        Case("dot-dot", file(b"../evil"), '".."'),
        Case("dot-dot in the middle", file(b"a/../../evil"), '".."'),
        Case("dot-dot that would stay inside", file(b"a/../b"), '".."'),
        Case("dot-dot to a real directory", file(escape + b"/new"), '".."'),
        Case("dot-dot as a directory", directory(b".."), '".."'),
        Case("component over 255 bytes", file(b"x" * 256), "over 255 bytes"),
        Case("path over 4096 bytes", file(b"x/" * 2100 + b"y"), "over 4096 bytes"),
        Case("name with a NUL byte", pax(record(b"path", b"a\0b")) + file(b"x"), "NUL"),
        Case("root as a file", file(b"./"[:1]), "root"),
        Case("root as a symbolic link", link(b".", outside), "root"),
        Case("root with a trailing slash as a link", link(b"./", outside), "root"),
        # -- links
        Case(
            "through an absolute link",
            link(b"l", outside) + file(b"l/new"),
            None,
            paths(b"l", *inside, own + b"/new"),
        ),
        Case(
            "through a relative link",
            link(b"l", escape) + file(b"l/new"),
            None,
            paths(b"l", *inside, own + b"/new"),
        ),
        Case(
            "through links through links",
            directory(b"a") + link(b"a/b", b"../c") + link(b"c", outside) + file(b"a/b/new"),
            None,
            paths(b"a", b"a/b", b"c", *inside, own + b"/new"),
        ),
        Case("links in a circle", link(b"a", b"b") + link(b"b", b"a") + file(b"a/x"), "links"),
        Case("link to itself", link(b"a", b"a") + file(b"a/x"), "links"),
        Case("link without a target", link(b"l", b""), "no target"),
        Case("a file replaces a link", link(b"l", outside + b"/kept") + file(b"l"), None, paths(b"l")),
        Case(
            "a directory replaces a link",
            link(b"l", outside) + directory(b"l") + file(b"l/new"),
            None,
            paths(b"l", b"l/new"),
        ),
        Case(
            "a link replaces a directory that was filled",
            directory(b"d") + file(b"d/x") + link(b"d", outside) + file(b"d/new"),
            None,
            paths(b"d", *inside, own + b"/new"),
        ),
        Case(
            "directory modes do not reach through a link",
            directory(b"d", 0o777) + link(b"d", outside),
            None,
            paths(b"d"),
        ),
        Case(
            "whiteout through a link",
            link(b"l", outside) + file(b"l/.wh.kept", b""),
            None,
            paths(b"l", *inside, own + b"/.wh.kept"),
        ),
        Case(
            "opaque through a link",
            link(b"l", outside) + file(b"l/.wh..wh..opq", b""),
            None,
            paths(b"l", *inside, own + b"/.wh..wh..opq"),
        ),
        Case("a file as a parent", file(b"f") + file(b"f/x"), "no directory"),
        # -- hard links
        Case("hard link outside, absolute", hard(b"h", outside + b"/kept"), "not in the archive"),
        Case("hard link outside, relative", hard(b"h", escape + b"/kept"), '".."'),
        Case("hard link through a link", link(b"l", outside) + hard(b"h", b"l/kept"), "not in the archive"),
        Case("hard link to what comes later", hard(b"h", b"f") + file(b"f"), "not in the archive"),
        Case("hard link to a directory", directory(b"d") + hard(b"h", b"d"), "directory"),
        Case("hard link to the root", hard(b"h", b"/"), "no file"),
        Case("hard link to a whiteout", file(b".wh.a", b"") + hard(b"h", b".wh.a"), "no file"),
        Case(
            "hard link to a link is the link",
            link(b"l", outside + b"/kept") + hard(b"h", b"l") + file(b"x"),
            None,
            paths(b"l", b"h", b"x"),
        ),
        Case("hard link to itself", file(b"h") + hard(b"h", b"h"), "not in the archive"),
        # -- whiteouts
        Case("whiteout of the root", file(b".wh.", b""), "hide the directory"),
        Case("whiteout of dot", file(b"a/.wh..", b""), "hide the directory"),
        Case("whiteout of dot-dot", file(b"a/.wh...", b""), "hide the directory"),
        Case("an entry below a whiteout", file(b".wh.a/b"), "under a whiteout"),
        Case("a whiteout that is a directory", directory(b".wh.a"), "no regular file"),
        Case("a whiteout that is a link", link(b".wh.a", outside), "no regular file"),
        Case("a whiteout with content makes an empty mark", file(b".wh.a", b"content"), None, paths(b".wh.a")),
        Case("bookkeeping of aufs", file(b".wh..wh.plnk") + file(b".wh..wh.aufs", b""), None, paths()),
        Case("a device that is a whiteout", encode_header(Entry(b"d", CHARACTER_DEVICE)), "0:0"),
        # -- twice
        Case("a file twice", file(b"f", b"1") + file(b"f", b"2"), None, paths(b"f")),
        Case("a file over a filled directory", directory(b"d") + file(b"d/x") + file(b"d"), None, paths(b"d")),
        Case("a directory over a file", file(b"d") + directory(b"d"), None, paths(b"d")),
        Case("an entry over its whiteout", file(b".wh.f", b"") + file(b"f"), None, paths(b"f")),
        Case("a whiteout over its entry", file(b"f") + file(b".wh.f", b""), None, paths(b"f")),
        Case(
            "a directory over its whiteout", file(b".wh.d", b"") + directory(b"d"), None, paths(b"d", b"d/.wh..wh..opq")
        ),
        Case(
            "a whiteout over its directory", directory(b"d") + file(b".wh.d", b""), None, paths(b"d", b"d/.wh..wh..opq")
        ),
        # -- format
        Case("cut off in the content", file(b"f", bytes(5000))[:-600], "ends in the middle"),
        Case("cut off in the header", file(b"f")[:100], "ends in the middle"),
        Case("no tar", b"this is no archive" * 100, "checksum"),
        Case("damaged checksum", b"g" + file(b"f")[1:], "checksum"),
        Case("size is no number", raw_size(b"12x"), "octal"),
        Case("size is negative", raw_size(b"\xff" * 12), "size"),
        Case("size beyond everything", raw_size(b"\x80" + b"\xff" * 11), "ends in the middle"),
        Case("PAX record without a length", pax(b"path=x\n") + file(b"f"), "malformed"),
        Case("PAX record beyond its header", pax(b"99 path=x\n") + file(b"f"), "malformed"),
        Case("PAX record of length 0", pax(b"0 path=x\n") + file(b"f"), "malformed"),
        Case("PAX size is no number", pax(record(b"size", b"-5")) + file(b"f"), "number"),
        Case("PAX header too long", raw_pax_length(1 << 30), "extended header"),
        Case("uid of -1", pax(record(b"uid", b"4294967295")) + file(b"f"), "id"),
        Case("zeros between entries", file(b"a") + bytes(512) + file(b"b"), "zeros"),
        Case("sparse map beyond the file", sparse(b"0,100", 10), "misplaced"),
        Case("sparse map backwards", sparse(b"10,4,0,4", 100), "misplaced"),
        Case("sparse map that says other than is stored", sparse(b"0,1", 100), "map says other"),
        Case("sparse map of an odd length", sparse(b"0,1,2", 100), "odd"),
        Case("long name beyond everything", raw_pax_length(1 << 30, b"L"), "extended header"),
        Case("long name of a negative length", raw_pax_length(-1, b"L"), "extended header"),
        Case("long name with dot-dot", pax(b"../../evil", b"L") + file(b"x"), '".."'),
        Case("long link name with dot-dot", pax(b"../../evil", b"K") + hard(b"x", b"y"), '".."'),
        Case("long name without an entry", pax(b"name", b"L"), "after an extended header"),
        Case("PAX records without an entry", pax(record(b"path", b"x")), "after an extended header"),
        Case("PAX path for all that follow", pax(record(b"path", b"../evil"), b"g") + file(b"x"), '".."'),
        Case("PAX link with dot-dot", pax(record(b"linkpath", b"../" * 9 + b"x")) + hard(b"h", b"f"), '".."'),
        Case(
            "extended headers without end",
            pax(b"".join(pax_filling(900_000)), b"x") * 3 + file(b"f"),
            "extended header",
        ),
        Case(
            "records for all without end", pax(b"".join(pax_filling(900_000)), b"g") * 3 + file(b"f"), "extended header"
        ),
        Case("PAX size beyond everything", pax(record(b"size", b"9" * 20)) + file(b"f"), "ends in the middle"),
        Case("PAX time is no number", pax(record(b"mtime", b"nan")) + file(b"f"), "seconds"),
        Case("PAX time beyond everything", pax(record(b"mtime", b"9" * 20)) + file(b"f"), "no file can have"),
        Case("PAX time before everything", pax(record(b"mtime", b"-" + b"9" * 20)) + file(b"f"), "no file can have"),
        Case("time beyond everything", patched(Entry(b"f"), MTIME, base256(1 << 85, 12)), "no file can have"),
        Case("time of a directory", patched(Entry(b"d", DIRECTORY), MTIME, base256(1 << 85, 12)), "no file can have"),
        Case(
            "time of a link", patched(Entry(b"l", SYMLINK, linkname=b"x"), MTIME, base256(1 << 85, 12)), "no file can"
        ),
        Case("uid beyond everything", patched(Entry(b"f"), UID, base256(1 << 40, 8)), "id"),
        Case("device number beyond everything", patched(NULL_DEVICE, MAJOR, base256(1 << 40, 8)), "is the device"),
        Case("device number of 31 bits", patched(NULL_DEVICE, MAJOR, base256(1 << 31, 8)), "is the device"),
        Case("minor number of 21 bits", patched(NULL_DEVICE, MINOR, base256(1 << 21, 8)), "is the device"),
        Case("sparse size of 20 digits", sparse(b"0,4", 10**20 - 1), "has the size"),
        Case("sparse size of 64 bits", sparse(b"0,4", 1 << 63), "has the size"),
        Case("a hole of a terabyte", sparse(b"0,4", 1 << 40), "sparse files have more"),
        Case("no name", patched(Entry(b"x"), 0, bytes(100)), "names the root"),
        Case("a terminal is told things", file(b"a\nb\x1b[31m/.."), r'"a\\x0ab\\x1b\[31m/\.\."'),
        Case(
            "link target over 4096 bytes", pax(record(b"linkpath", b"x" * 5000)) + link(b"l", b"t"), "over 4096 bytes"
        ),
        Case(
            "a hard link that has content",
            file(b"f") + patched(hard_entry(), SIZE, b"%011o\0" % 4) + b"x" * 512,
            "checksum",
        ),
        Case(
            "a device through a link",
            link(b"l", outside) + encode_header(NULL_DEVICE._replace(name=b"l/null")),
            None,
            paths(b"l", *inside, own + b"/null"),
        ),
        # -- attributes
        Case("attribute with a NUL byte", pax(record(b"SCHILY.xattr.user.a\0b", b"v")) + file(b"f"), "no name of an"),
        Case("attribute without a name", pax(record(b"SCHILY.xattr.", b"v")) + file(b"f"), "no name of an"),
        Case(
            "attribute of 300 bytes", pax(record(b"SCHILY.xattr." + b"user." * 60, b"v")) + file(b"f"), "no name of an"
        ),
        Case("attribute in no base64", pax(record(b"LIBARCHIVE.xattr.user.a", b"!")) + file(b"f"), "no base64"),
        Case("capabilities that are none", capable(b"security.capability"), None, paths(b"f")),
        Case("an ACL that is none", capable(b"system.posix_acl_access"), None, paths(b"f")),
        Case("an attribute of no namespace", capable(b"nonsense"), None, paths(b"f")),
        # -- compression
        Case("gzip in gzip", packed(gzip.compress(whole(file(b"f")))), "ends in the middle|checksum"),
        Case("gzip with something behind", packed(whole(file(b"f"))) + b"garbage", "gzip data is"),
        Case(
            "gzip with a wrong sum",
            packed(whole(file(b"f")))[:-8] + bytes(4) + packed(whole(file(b"f")))[-4:],
            "damaged",
        ),
        Case("gzip with a wrong length", packed(whole(file(b"f")))[:-4] + b"\0\0\0\1", "damaged"),
        Case("gzip with a name without end", b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (2 << 20), "cut off"),
        Case("zstd with a window of 2 GiB", b"\x28\xb5\x2f\xfd\x00\xa8\x01\0\0", "memory"),
        Case("bzip2 that is cut", bz2.compress(whole(file(b"f")))[:-5], "cut off"),
        Case("xz that is cut", lzma.compress(whole(file(b"f")))[:-5], "cut off"),
        Case("xz that is damaged", damaged(lzma.compress(whole(file(b"f")))), "damaged"),
        # -- marks of unions as attributes
        Case(
            "a mark of overlayfs as an attribute",
            pax(record(b"SCHILY.xattr.user.overlay.whiteout", b"y")) + file(b"f", b""),
            None,
            paths(b"f"),
        ),
    )


def raw_pax_length(size: int, kind: bytes = b"x") -> bytes:
    header = bytearray(encode_header(Entry(b"x")))
    header[124:136] = b"%011o\0" % size if size >= 0 else b"\xff" * 12
    header[156:157] = kind
    return with_checksum(bytes(header))


def pax_filling(size: int) -> list[bytes]:
    return [record(b"comment%d" % number, b"x" * 1000) for number in range(size // 1000)]


def hard_entry() -> Entry:
    return Entry(b"h", HARD_LINK, linkname=b"f")


def capable(name: bytes) -> bytes:
    return pax(record(b"SCHILY.xattr." + name, b"nonsense")) + file(b"f")


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def damaged(content: bytes) -> bytes:
    return content[:-20] + bytes((content[-20] ^ 1,)) + content[-19:]


def sparse(pieces: bytes, real_size: int) -> bytes:
    records = record(b"GNU.sparse.map", pieces) + record(b"GNU.sparse.size", b"%d" % real_size)
    return pax(records) + file(b"s", b"evil")


def zip_bomb(size: int) -> bytes:
    """zstd of a tar with one file of ``size`` zeros: a frame of RLE blocks of 128 KiB, four bytes each."""
    header = encode_header(Entry(b"zeros", size=size))
    block = 1 << 17
    raw = struct.pack("<I", (len(header) << 3))[:3] + header
    run = struct.pack("<I", (block << 3) | 2)[:3] + b"\0"
    last = struct.pack("<I", (block << 3) | 3)[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x58" + raw + run * (size // block) + last


def whole(archive: bytes) -> bytes:
    """The archive with its end."""
    return archive + END

"""One member of an archive, as a value.

Invariants: names are bytes as they stand in the archive, without the slash that marks a directory; times are
nanoseconds; ``size`` is that of the file, which for a sparse file is not the length of what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from unionfs.namedtuple import NamedTuple

BLOCK = 512
LARGEST_PATH_BYTES = 4096

REGULAR = b"0"
HARD_LINK = b"1"
SYMLINK = b"2"
CHARACTER_DEVICE = b"3"
BLOCK_DEVICE = b"4"
DIRECTORY = b"5"
FIFO = b"6"

NO_XATTRS: Mapping[bytes, bytes] = MappingProxyType({})
_LONGEST_SHOWN = 200
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


def show(name: bytes) -> str:
    """A name for a message: quoted, on one line, without characters that a terminal would obey."""
    return f'"{name[:_LONGEST_SHOWN].decode(errors="backslashreplace").translate(_CONTROLS)}"'


class Entry(NamedTuple):
    """A member. ``type`` is one of the constants above; ``mode`` holds the permission bits alone.

    ``sparse`` lists the (offset, length) of what is stored of a sparse file, ascending; None for a plain one.
    """

    name: bytes
    type: bytes = REGULAR
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    linkname: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: Mapping[bytes, bytes] = NO_XATTRS
    sparse: tuple[tuple[int, int], ...] | None = None


def padding(size: int) -> int:
    """Bytes from the end of content of that size to the next block."""
    return -size % BLOCK

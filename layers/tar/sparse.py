"""Maps of sparse files in GNU's forms (GNU tar manual, "Storing Sparse Files").

Invariants: the pieces of a map ascend, do not overlap and end within the file; their number is limited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from layers.errors import ArchiveError
from layers.tar.entry import BLOCK
from layers.tar.numbers import read_field, read_integer

SparseMap = tuple[tuple[int, int], ...]

_MOST_PIECES = 1 << 20
_IN_HEADER = 4
_IN_EXTENSION = 21
_PIECE = 24
_LONGEST_LINE = 24


def old_gnu_map(header: bytes, read: Callable[[int], bytes]) -> tuple[SparseMap, int]:
    """Map and real size from a header of type ``S``; ``read`` gives the extension blocks that follow it."""
    pieces = _fields(header, 386, _IN_HEADER)
    extended = header[482]
    while extended:
        block = read(BLOCK)
        pieces += _fields(block, 0, _IN_EXTENSION)
        extended = block[504]
        if len(pieces) > _MOST_PIECES:
            raise ArchiveError(f"archive: sparse entry has more than {_MOST_PIECES} pieces")
    return _checked(pieces, read_field(header[483:495], "size of a sparse entry"))


def pax_map(records: Mapping[bytes, bytes], read_content: Callable[[int], bytes]) -> tuple[SparseMap, int]:
    """Map and real size from PAX records; version 1.0 keeps the map before the data, which ``read_content`` gives."""
    size_text = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size") or b""
    real_size = read_integer(size_text, "GNU.sparse.realsize")
    if records.get(b"GNU.sparse.major") == b"1":
        numbers = _leading_numbers(read_content)
    else:
        text = records.get(b"GNU.sparse.map", b"")
        numbers = [read_integer(item, "GNU.sparse.map") for item in text.split(b",")] if text else []
    if len(numbers) % 2:
        raise ArchiveError("archive: the map of a sparse entry has an odd number of numbers")
    return _checked(list(zip(numbers[::2], numbers[1::2], strict=True)), real_size)


def _fields(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    pieces: list[tuple[int, int]] = []
    for position in range(start, start + count * _PIECE, _PIECE):
        if not block[position]:
            break
        offset = read_field(block[position : position + 12], "offset of a sparse entry")
        pieces.append((offset, read_field(block[position + 12 : position + _PIECE], "length of a sparse entry")))
    return pieces


def _leading_numbers(read_content: Callable[[int], bytes]) -> list[int]:
    """The decimal numbers, a line each, that stand in whole blocks before the data: their count of pairs first."""
    blocks: list[bytes] = []
    lines, wanted = 0, 1
    while lines < wanted:
        blocks.append(read_content(BLOCK))
        lines += blocks[-1].count(b"\n")
        if wanted == 1 and lines:
            wanted = 1 + 2 * read_integer(b"".join(blocks).split(b"\n", 1)[0], "number of sparse pieces")
        if wanted > 2 * _MOST_PIECES or len(blocks) * BLOCK > _LONGEST_LINE * (wanted + BLOCK):
            raise ArchiveError(f"archive: the map of a sparse entry is malformed or has over {_MOST_PIECES} pieces")
    return [read_integer(line, "sparse map") for line in b"".join(blocks).split(b"\n")[1:wanted]]


def _checked(pieces: list[tuple[int, int]], real_size: int) -> tuple[SparseMap, int]:
    end = 0
    for offset, length in pieces:
        if offset < end or length < 0 or offset + length > real_size:
            raise ArchiveError(f"archive: piece {offset}+{length} of a sparse entry of {real_size} bytes is misplaced")
        end = offset + length
    return tuple(piece for piece in pieces if piece[1]), real_size

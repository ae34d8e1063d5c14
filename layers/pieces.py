"""Pieces of content as they come, read in other sizes."""

from __future__ import annotations

from collections.abc import Generator


class Pieces:
    """Something to read from, that has the bytes of all pieces one after the other; not safe for several threads."""

    def __init__(self, pieces: Generator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, none only at the end. Raises what the pieces raise."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data

    def close(self) -> None:
        """No more pieces are made: what makes them has let go of what it held."""
        self._pieces.close()

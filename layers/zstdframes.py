"""Where the frames of a zstd stream begin and end (RFC 8878, 3.1), told from the compressed bytes alone.

Invariants: the walk looks at headers and steps over content; it says nothing about whether the content is right.
"""

from __future__ import annotations

_SKIPPABLE = 0x184D2A50
_RLE = 1
_DICTIONARY_BYTES = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)


class FrameWalker:
    """Follows a stream piece by piece."""

    def __init__(self) -> None:
        self._part = b""
        self._skip = 0
        self._checksum = 0
        self._wanted = 4
        self._next = self._magic

    @property
    def between_frames(self) -> bool:
        """Whether a frame has ended and no other has begun; also before the first."""
        return not self._skip and not self._part and self._next == self._magic

    def walk(self, data: bytes) -> None:
        """Takes in the next bytes of the stream."""
        position = 0
        while position < len(data):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
                position += step
                continue
            step = self._wanted - len(self._part)
            self._part += data[position : position + step]
            position += step
            if len(self._part) == self._wanted:
                part, self._part = self._part, b""
                self._next(part)

    def _expect(self, wanted: int, state: str, skip: int = 0) -> None:
        """After ``skip`` bytes the state gets the next ``wanted``."""
        self._wanted = wanted
        self._skip = skip
        self._next = {"magic": self._magic, "size": self._size, "frame": self._frame, "block": self._block}[state]

    def _magic(self, part: bytes) -> None:
        if int.from_bytes(part, "little") & 0xFFFFFFF0 == _SKIPPABLE:
            self._expect(4, "size")
        else:
            self._expect(1, "frame")

    def _size(self, part: bytes) -> None:
        self._expect(4, "magic", int.from_bytes(part, "little"))

    def _frame(self, part: bytes) -> None:
        descriptor = part[0]
        single_segment = descriptor >> 5 & 1
        content_size = _CONTENT_SIZE_BYTES[descriptor >> 6] or single_segment
        self._checksum = 4 * (descriptor >> 2 & 1)
        self._expect(3, "block", (1 - single_segment) + _DICTIONARY_BYTES[descriptor & 3] + content_size)

    def _block(self, part: bytes) -> None:
        header = int.from_bytes(part, "little")
        stored = 1 if header >> 1 & 3 == _RLE else header >> 3
        if header & 1:
            self._expect(4, "magic", stored + self._checksum)
        else:
            self._expect(3, "block", stored)

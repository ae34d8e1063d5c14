"""What an archive may hold at most: what would only fill the disk is stopped."""

from __future__ import annotations

from layers.compression import Decompressed
from layers.errors import ArchiveError
from unionfs.namedtuple import NamedTuple


class Limits(NamedTuple):
    """``ratio`` counts from ``ratio_free_bytes`` on: zeros compress well."""

    entries: int = 10_000_000
    total_bytes: int = 512 << 30
    ratio: int = 1000
    ratio_free_bytes: int = 8 << 30

    def check(self, source: Decompressed) -> None:
        """Nothing, while what came out of ``source`` is within the limits. Raises ArchiveError."""
        if source.read_bytes > self.total_bytes:
            raise ArchiveError(f"archive: it has more than {self.total_bytes} bytes")
        if source.read_bytes > self.ratio_free_bytes + source.compressed_bytes * self.ratio:
            raise ArchiveError(f"archive: it grew more than {self.ratio} times when decompressed")


class Bounded:
    """A decompressed stream that ends in an ArchiveError where it passes the limits."""

    def __init__(self, source: Decompressed, limits: Limits) -> None:
        self._source = source
        self._limits = limits

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, none only at the end."""
        data = self._source.read(size)
        self._limits.check(self._source)
        return data

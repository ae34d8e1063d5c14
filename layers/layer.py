"""A layer of an image: its bytes as they travel and as they are, from wherever blobs come.

Invariants: bytes are verified while they are read, the compressed ones against the descriptor, the others against the
diff ID.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import BinaryIO

from layers.blobs import CHUNK_BYTES, BlobSource
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.errors import ContentMismatchError
from unionfs.namedtuple import NamedTuple


class Layer(NamedTuple):
    """One layer. ``source`` has the blob that ``descriptor`` refers to."""

    source: BlobSource
    descriptor: Descriptor
    diff_id: Digest

    def compressed(self) -> BinaryIO:
        """The blob as it travels; the caller closes it."""
        return self.source.open(self.descriptor.digest)

    def uncompressed(self) -> Generator[bytes]:
        """The tar, piece by piece.

        Raises:
            ContentMismatchError: at the end, when it is not what the diff ID says.
        """
        # the decoders of all compressions, which a cached build does without
        import hashlib

        from layers.compression import Decompressed

        found = hashlib.sha256()
        with self.compressed() as blob:
            stream = Decompressed(blob)
            while chunk := stream.read(CHUNK_BYTES):
                found.update(chunk)
                yield chunk
        if found.hexdigest() != self.diff_id.hex:
            raise ContentMismatchError(
                f"layer {self.descriptor.digest} has the diff ID sha256:{found.hexdigest()}, expected {self.diff_id}"
            )

    def uncompressed_size(self) -> int:
        """Bytes of the tar; a compressed one is read through."""
        return sum(len(chunk) for chunk in self.uncompressed())

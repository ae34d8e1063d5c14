"""The compressed form of a layer, made while its archive is written: what is known to leave is read once.

::

    archive ──▶ temporary blob, hashed
        └── chunks ──▶ thread: compressed, hashed, temporary blob ── settle ──▶ both in the store, remembered

Invariants: what is compressed are the very bytes whose digest names the layer, so nothing is read back and nothing is
believed; the bytes are those that `layers.registry.compressed.compress` would make later; small layers are left to it;
after ``settle`` or ``discard`` no thread is left.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from queue import Queue
from typing import BinaryIO, cast

from layers import media
from layers.aside import LARGE_BYTES
from layers.blobs import BlobWriter
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.pieces import Pieces
from layers.registry import compressed
from layers.registry.compress import Compressor, usable_threads
from layers.store import Store

_MOST_CHUNKS = 4


class _GivenUpError(Exception):
    """Nobody wants the compressed layer any more."""


class WhilePacking:
    """A sink beside that of the archive; `end` follows the last chunk, `settle` or `discard` comes last."""

    def __init__(self, store: Store, compressor: Compressor) -> None:
        self._store = store
        self._compressor = compressor
        self._first: list[bytes] = []
        self._first_bytes = 0
        self._chunks: Queue[bytes] = Queue(_MOST_CHUNKS)
        self._thread: threading.Thread | None = None
        self._writer: BlobWriter | None = None
        self._failure: BaseException | None = None
        self._given_up = self._ended = False

    def write(self, chunk: bytes) -> None:
        """The chunk is part of the layer. Nobody changes it afterwards."""
        if self._thread is not None:
            self._put(chunk)
            return
        self._first.append(chunk)
        self._first_bytes += len(chunk)
        if self._first_bytes >= LARGE_BYTES:
            self._begin()

    def end(self) -> None:
        """The layer is whole; what is left of the work goes on beside."""
        if self._thread is not None:
            self._chunks.put(b"")

    def settle(self, diff_id: Digest) -> None:
        """The compressed layer is in the store, durable, and remembered as that of ``diff_id``, unless it is small.

        Raises what went wrong in the thread: StoreError when the disk is full and the like.
        """
        if self._thread is None or self._writer is None:
            return
        self._thread.join()
        with self._writer as writer:
            if self._failure is not None:
                raise self._failure
            size = writer.size
            media_type = media.layer_media_type(self._compressor.algorithm, docker=False)
            made = Descriptor(media_type, writer.commit(), size)
        compressed.remember(self._store, diff_id, self._compressor.name, made)

    def discard(self) -> None:
        """The thread has ended, and left nothing. Idempotent, and nothing after `settle`."""
        self._first.clear()
        if self._thread is not None and self._thread.is_alive():
            self._given_up = True
            self._chunks.put(b"")
            self._thread.join()
        if self._writer is not None:
            self._writer.discard()

    def _begin(self) -> None:
        self._writer = self._store.blobs.writer()
        self._thread = threading.Thread(target=self._run, args=(self._writer,), name="compress", daemon=True)
        self._thread.start()
        for chunk in self._first:
            self._put(chunk)
        self._first.clear()

    def _put(self, chunk: bytes) -> None:
        # an empty one is the end
        if chunk:
            self._chunks.put(chunk)

    def _run(self, writer: BlobWriter) -> None:
        try:
            content = cast("BinaryIO", Pieces(self._take()))
            for piece in self._compressor.compress(content, usable_threads()):
                writer.write(piece)
        except BaseException as error:  # noqa: BLE001 - raised where the layer is settled
            self._failure = error
            # whoever writes the archive does not wait for ever
            while not self._ended:
                self._ended = not self._chunks.get()

    def _take(self) -> Generator[bytes]:
        while chunk := self._chunks.get():
            if self._given_up:
                raise _GivenUpError
            yield chunk
        self._ended = True
        if self._given_up:
            raise _GivenUpError

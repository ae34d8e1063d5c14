"""Work on large content in threads of their own: reading what comes next, hashing what goes by.

::

    files ◀── chunks ── decompressed, counted               `ReadAhead`
                             └── chunks ──▶ SHA-256         `HashAside`

OpenSSL and the compressors release the interpreter's lock, so all sides run at once. Invariants: what passes by is the
same in the same order; at most `_MOST_CHUNKS` chunks are on their way; a failure in the thread is raised in the caller;
after ``close`` no thread is left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue

from layers.smallhash import Sha256

LARGE_BYTES = 8 << 20
"""Below this a thread costs more than it saves."""
_MOST_CHUNKS = 4


class HashAside:
    """SHA-256 of all chunks; in a thread of its own from `LARGE_BYTES` on."""

    def __init__(self) -> None:
        self._hash = Sha256()
        self._seen = 0
        self._chunks: Queue[bytes] = Queue(_MOST_CHUNKS)
        self._thread: threading.Thread | None = None

    def update(self, chunk: bytes) -> None:
        """The chunk counts. Nobody changes it afterwards."""
        if self._thread is None:
            if self._seen < LARGE_BYTES:
                self._seen += len(chunk)
                self._hash.update(chunk)
                return
            self._thread = threading.Thread(target=self._run, name="hash", daemon=True)
            self._thread.start()
        if chunk:
            self._chunks.put(chunk)

    def hexdigest(self) -> str:
        """The digest of all chunks; none may follow."""
        self.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        """The thread has ended. Idempotent."""
        if self._thread is not None and self._thread.is_alive():
            self._chunks.put(b"")
            self._thread.join()

    def _run(self) -> None:
        while chunk := self._chunks.get():
            self._hash.update(chunk)


class ReadAhead:
    """What ``read`` returns, called again and again in a thread of its own until it returns nothing."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._chunks: Queue[bytes | BaseException] = Queue(_MOST_CHUNKS)
        self._closed = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="read", daemon=True)
        self._thread.start()

    def next(self) -> bytes:
        """The next chunk, nothing at the end. Raises what ``read`` raised there."""
        if self._ended:
            return b""
        chunk = self._chunks.get()
        if isinstance(chunk, BaseException):
            self._ended = True
            raise chunk
        self._ended = not chunk
        return chunk

    def close(self) -> None:
        """The thread has ended: at once, or when the ``read`` that it is in returns. Idempotent."""
        self._closed = self._ended = True
        while self._thread.is_alive():
            while not self._chunks.empty():
                self._chunks.get()
            self._thread.join(0.01)

    def _run(self) -> None:
        chunk: bytes | BaseException = b"-"
        while chunk and not self._closed and not isinstance(chunk, BaseException):
            try:
                chunk = self._read()
            except BaseException as error:  # noqa: BLE001 - raised where the chunk would have gone
                chunk = error
            self._chunks.put(chunk)

"""Requests that wait for the copy of a large file, and the threads that copy.

::

    handler raises CopyPendingError → wait(copy, request) ─→ thread: copy.run() ─→ fd becomes readable
    loop → finished() → the requests, to be asked again → answered(request) once there is an answer

Invariants: a thread runs one copy and nothing else of the filesystem; a copy that no request waits for any more is
dropped, by the thread that serves.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque

from unionfs.ops import LongCopy
from unionfs.transport.handoff import Start

Request = bytes


class Deferred:
    """The waiting requests of one mount."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when a copy has come to its end."""
        self._waiting: dict[LongCopy, list[Request]] = {}
        self._used: dict[Request, set[LongCopy]] = {}
        self._ended: deque[LongCopy] = deque()
        self._threads: dict[LongCopy, threading.Thread] = {}

    def wait(self, copy: LongCopy, request: Request) -> None:
        """``request``, unlike any other one, is among those of ``finished`` once the copy has run."""
        self._used.setdefault(request, set()).add(copy)
        if copy in self._waiting:
            self._waiting[copy].append(request)
            return
        self._waiting[copy] = [request]
        thread = threading.Thread(target=self._run, args=(copy,), name="fuse-copy", daemon=True)
        self._threads[copy] = thread
        self._start(thread)

    def finished(self) -> list[Request]:
        """The requests whose copies have come to their ends since the last call, the earliest first."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        requests: list[Request] = []
        while self._ended:
            copy = self._ended.popleft()
            self._threads.pop(copy).join()
            requests += self._waiting.pop(copy)
        return requests

    def answered(self, request: Request) -> None:
        """``request`` waits no more: it got its answer. Copies that only it needed are dropped."""
        for copy in self._used.pop(request, ()):
            if not any(copy in used for used in self._used.values()):
                copy.drop()

    def close(self) -> None:
        """Nobody waits, nothing is copied. Idempotent."""
        for request in tuple(self._used):
            self.answered(request)
        for thread in self._threads.values():
            thread.join()
        self._threads.clear()
        self._waiting.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _run(self, copy: LongCopy) -> None:
        copy.run()
        self._ended.append(copy)
        os.eventfd_write(self.fd, 1)

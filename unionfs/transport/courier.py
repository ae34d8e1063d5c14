"""Messages to the kernel that must not be sent by the thread that answers it.

An invalidation may wait in the kernel for a lock or a page whose holder waits for an answer of this very server. So
one more thread sends them, in order; it starts with the first message, which most mounts never have.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue

from unionfs.transport.handoff import Start

Message = Callable[[], object]


class Courier:
    """Calls what is posted, one after the other, in a thread of its own."""

    def __init__(self, start: Start = threading.Thread.start) -> None:
        self._start = start
        self._queue: SimpleQueue[Message | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def post(self, message: Message) -> None:
        """``message`` will be called; an ``OSError`` it raises is ignored, since it is but a hint."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._deliver, name="fuse-notify", daemon=True)
            self._start(self._thread)
        self._queue.put(message)

    def after(self, call: Message) -> None:
        """``call`` is made once all that was posted before has been delivered: at once when there is nothing."""
        if self._thread is None:
            call()
        else:
            self._queue.put(call)

    def finish(self, wait_seconds: float) -> bool:
        """Nothing more will be posted; whether all has been delivered, after at most ``wait_seconds``."""
        if self._thread is None:
            return True
        self._queue.put(None)
        self._thread.join(wait_seconds)
        return not self._thread.is_alive()

    def _deliver(self) -> None:
        while (message := self._queue.get()) is not None:
            # ENOENT: the kernel does not know the node; ENODEV, ENOTCONN: it has let the mount go
            with contextlib.suppress(OSError):
                message()

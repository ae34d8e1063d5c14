"""What the filesystem tells the kernel unasked.

::

    filesystem → queue → one thread → write(/dev/fuse)

An invalidation may wait in the kernel for a lock or a page whose holder waits for an answer of this very server, so
it is never written by the thread that answers. The thread starts with the first message: most mounts never have one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from queue import SimpleQueue

from unionfs.transport.protocol import (
    INVAL_ENTRY_OUT,
    INVAL_INODE_OUT,
    OLDEST_MINOR_WITH_EPOCH,
    OUT_HEADER,
    Notification,
)
from unionfs.types import ROOT_INO, Ino


class KernelNotifier:
    """The `ops.Notifier` of a mount served by the direct transport."""

    def __init__(self, device_fd: int) -> None:
        """``device_fd`` belongs to the caller."""
        self.minor = 0
        """The protocol agreed upon; 0 before INIT, when the kernel remembers nothing yet."""
        self._device_fd = device_fd
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def invalidate_entry(self, parent: Ino, name: bytes) -> None:
        """The kernel forgets what ``name`` in ``parent`` leads to."""
        self._post(Notification.INVAL_ENTRY, INVAL_ENTRY_OUT.pack(parent, len(name), 0) + name + b"\0")

    def invalidate_inode(self, ino: Ino) -> None:
        """The kernel forgets the attributes and the cached content of ``ino``."""
        self._post(Notification.INVAL_INODE, INVAL_INODE_OUT.pack(ino, 0, 0))

    def invalidate_all(self) -> None:
        """The kernel looks every name up again; before protocol 7.44 only the root's attributes and listing."""
        if self.minor >= OLDEST_MINOR_WITH_EPOCH:
            self._post(Notification.INC_EPOCH, b"")
        self.invalidate_inode(ROOT_INO)

    def finish(self, wait_seconds: float) -> bool:
        """Nothing more will be posted; whether all messages are written, after at most ``wait_seconds``."""
        if self._thread is None:
            return True
        self._queue.put(None)
        self._thread.join(wait_seconds)
        return not self._thread.is_alive()

    def _post(self, kind: Notification, payload: bytes) -> None:
        if not self.minor:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="fuse-notify", daemon=True)
            self._thread.start()
        self._queue.put(OUT_HEADER.pack(OUT_HEADER.size + len(payload), kind, 0) + payload)

    def _write_all(self) -> None:
        while (message := self._queue.get()) is not None:
            # ENOENT: the kernel does not know the node; ENODEV, ENOTCONN: it has let the mount go
            with contextlib.suppress(OSError):
                os.write(self._device_fd, message)

"""What the filesystem tells the kernel unasked, as messages on /dev/fuse."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from unionfs.transport.courier import Courier
from unionfs.transport.handoff import Start
from unionfs.transport.protocol import (
    INVAL_ENTRY_OUT,
    INVAL_INODE_OUT,
    OLDEST_MINOR_WITH_EPOCH,
    OUT_HEADER,
    STORE_OUT,
    Notification,
)
from unionfs.types import ROOT_INO, Ino


def store(device_fd: int, node: Ino, content: bytes) -> None:
    """The kernel has all of the file ``node`` in its cache, or asks for it when it is read.

    Sent by the thread that answers: it waits for the pages, so no READ of them may be on its way. None is while the
    first open of a file is answered.
    """
    payload = STORE_OUT.pack(node, 0, len(content), 0) + content
    with contextlib.suppress(OSError):
        os.write(device_fd, OUT_HEADER.pack(OUT_HEADER.size + len(payload), Notification.STORE, 0) + payload)


class KernelNotifier:
    """The `ops.Notifier` of a mount served by the direct transport."""

    def __init__(self, device_fd: int, start: Start) -> None:
        """``device_fd`` belongs to the caller; -1 while there is none. ``start`` starts a thread when one is needed."""
        self.device_fd = device_fd
        self.minor = 0
        """The protocol agreed upon; 0 before INIT, when the kernel remembers nothing yet."""
        self.epoch = 0
        """How often everything was invalidated: listings the kernel keeps from before are not to be trusted."""
        self._courier = Courier(start)

    def invalidate_entry(self, parent: Ino, name: bytes) -> None:
        """The kernel forgets what ``name`` in ``parent`` leads to."""
        self._post(Notification.INVAL_ENTRY, INVAL_ENTRY_OUT.pack(parent, len(name), 0) + name + b"\0")

    def invalidate_inode(self, ino: Ino) -> None:
        """The kernel forgets the attributes and the cached content of ``ino``."""
        self._post(Notification.INVAL_INODE, INVAL_INODE_OUT.pack(ino, 0, 0))

    def invalidate_attributes(self, ino: Ino) -> None:
        """The kernel forgets the attributes of ``ino`` at once: without content it waits for nobody."""
        if self.minor:
            # ENOENT: it does not know the node
            with contextlib.suppress(OSError):
                os.write(self.device_fd, _message(Notification.INVAL_INODE, INVAL_INODE_OUT.pack(ino, -1, 0)))

    def invalidate_all(self) -> None:
        """The kernel looks every name up again; before protocol 7.44 only the root's attributes and listing."""
        self.epoch += 1
        if self.minor >= OLDEST_MINOR_WITH_EPOCH:
            self._post(Notification.INC_EPOCH, b"")
        self.invalidate_inode(ROOT_INO)

    def when_told(self, call: Callable[[], None]) -> None:
        """``call`` is made, perhaps by another thread, once the kernel has got all it was told before."""
        self._courier.after(call)

    def finish(self, wait_seconds: float) -> bool:
        """Nothing more will be told; whether all has been written, after at most ``wait_seconds``."""
        return self._courier.finish(wait_seconds)

    def _post(self, kind: Notification, payload: bytes) -> None:
        if self.minor:
            message = _message(kind, payload)
            self._courier.post(lambda: os.write(self.device_fd, message))


def _message(kind: Notification, payload: bytes) -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size + len(payload), kind, 0) + payload

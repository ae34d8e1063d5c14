"""One union served by the direct transport in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable

from unionfs import mounting
from unionfs.mounting import MountOptions
from unionfs.ops import FilesystemOps, Notifier
from unionfs.transport.direct.connection import Connection, Log, Settings
from unionfs.transport.direct.notify import KernelNotifier
from unionfs.transport.handoff import Handoff
from unionfs.transport.loop import Loop
from unionfs.wire import Message


class DirectMount:
    """A mount attached at a mount point; it answers as soon as it is made."""

    def __init__(
        self,
        mount_point: bytes,
        options: MountOptions,
        make_filesystem: Callable[[Notifier], FilesystemOps],
        settings: Settings,
        log: Log,
    ) -> None:
        """The filesystem is made before anything is mounted, so that it may have a branch at the mount point.

        Raises:
            MountError, UnionError, OSError: nothing is mounted.
        """
        own_right = os.geteuid() == 0
        device_fd = mounting.open_device() if own_right else -1
        handoff = Handoff()
        notifier = KernelNotifier(device_fd, handoff.start)
        try:
            ops = make_filesystem(notifier)
        except BaseException:
            _close(device_fd)
            raise
        try:
            if own_right:
                mount_fd = mounting.mount_detached(device_fd, options)
            else:
                mount_fd = -1
                notifier.device_fd = device_fd = mounting.mount_for_user(mount_point, options)
        except BaseException:
            ops.close()
            _close(device_fd)
            raise
        self._connection = Connection(device_fd, ops, notifier, settings, handoff, log)
        self._loop = Loop(handoff)
        self._loop.add(self._connection, lambda: None)
        self._connection.serve()  # INIT waits already
        if mount_fd >= 0:
            self._attach(mount_fd, mount_point)

    def trace(self, log: Log) -> None:
        """Each request is logged from now on."""
        self._connection.trace = log

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """``ready`` is called whenever ``fd`` can be read, while `run` runs."""
        self._loop.watch(fd, ready)

    def run(self) -> None:
        """Serves until the kernel has let the mount go, or until `stop`."""
        self._loop.run(while_mounted=True)

    def stop(self) -> None:
        """`run` returns soon."""
        self._loop.stop()

    def statistics(self) -> Message:
        """Requests served so far, and what was agreed with the kernel."""
        opcodes = self._connection.counts()
        return {"transport": "direct", "requests": sum(opcodes.values()), "opcodes": opcodes}

    def close(self) -> None:
        """The device and the filesystem are closed. Idempotent."""
        self._connection.close()
        self._loop.close()

    def _attach(self, mount_fd: int, mount_point: bytes) -> None:
        try:
            mounting.attach(mount_fd, mount_point)
        except BaseException:
            os.close(mount_fd)
            self.close()
            raise
        os.close(mount_fd)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)

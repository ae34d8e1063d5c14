"""The union server: one process, one thread, all the mounts of a build.

::

    client                                server
      {"mount": SPEC}                 →
                                      ←   {"mounted": true} + mount descriptor, read end of a pipe
                                      ←   {"failed": "one line", "hint": "…"}   in place of it
      (end of stream)                 →   every mount is dropped, the server ends

    pipe of a mount:  {"requests": N, "opcodes": {…}} and end of file once the kernel has let the mount go and all
                      that was written is in its branches; {"aborted": "why"} when the kernel was told to give it up;
                      end of file alone: the server died, or dropped the mount with its client

Invariants: the server never touches a path of its own mounts; what fails in one mount is no concern of the others.
Run as ``python -m unionfs.server FD`` with FD a connected unix stream socket (`unionfs.wire`).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable

from unionfs import mountspec, wire
from unionfs.branch import BranchStack
from unionfs.constantscans import ConstantScans
from unionfs.errors import UnionError
from unionfs.mounting import MountError, MountOptions, mount_detached, open_device, stack_depth
from unionfs.mountspec import MountSpec
from unionfs.ops import FilesystemOps, Notifier
from unionfs.owned import open_union
from unionfs.serverprocess import MOST_SAID_BYTES
from unionfs.transport.direct.connection import Connection, Settings
from unionfs.transport.direct.notify import KernelNotifier
from unionfs.transport.handoff import Handoff
from unionfs.transport.loop import Loop
from unionfs.transport.protocol import BUFFER_BYTES
from unionfs.types import Passthrough

Filesystem = Callable[[MountSpec, Notifier], FilesystemOps]
"""Makes the filesystem of a specification; ``OSError`` or ``UnionError`` when it cannot."""

_MANY_OBJECTS = 100_000
_ABORTED = "the kernel was told to abort the mount (/sys/fs/fuse/connections)"


class Server:
    """Serves the mounts that the peer of one socket asks for."""

    def __init__(self, sock: socket.socket, make_filesystem: Filesystem) -> None:
        """``sock`` belongs to the caller."""
        self._sock = sock
        self._make_filesystem = make_filesystem
        self._handoff = Handoff()
        self._loop = Loop(self._handoff)
        self._connections: set[Connection] = set()
        self._buffer = bytearray(BUFFER_BYTES)

    def run(self) -> None:
        """Serves until the peer is gone; then every mount is dropped."""
        self._loop.watch(self._sock.fileno(), self._on_message)
        try:
            self._loop.run(while_mounted=False)
        finally:
            for connection in self._connections:
                connection.close()
            self._loop.close()

    def _on_message(self) -> None:
        try:
            received = wire.receive(self._sock)
            if received is None:
                self._loop.stop()
            else:
                self._mount(received.message)
        except (wire.WireError, OSError) as error:
            log(f"union server: client: {error}")
            self._loop.stop()

    def _mount(self, message: wire.Message) -> None:
        try:
            mount_fd, ended_fd = self._serve(mountspec.decode(message["mount"]))
        except MountError as error:
            wire.send(self._sock, {"failed": str(error), "hint": error.hint})
        except (UnionError, OSError) as error:
            wire.send(self._sock, {"failed": str(error), "hint": ""})
        except (KeyError, TypeError, ValueError) as error:
            wire.send(self._sock, {"failed": f"message is no mount: {error!r}", "hint": ""})
        else:
            try:
                wire.send(self._sock, {"mounted": True}, (mount_fd, ended_fd))
            finally:
                os.close(mount_fd)
                os.close(ended_fd)

    def _serve(self, spec: MountSpec) -> tuple[int, int]:
        """A mount that answers, and the pipe that tells its end."""
        with contextlib.ExitStack() as undo:
            device_fd = open_device()
            undo.callback(os.close, device_fd)
            notifier = KernelNotifier(device_fd, self._handoff.start)
            ops = self._make_filesystem(spec, notifier)
            undo.callback(ops.close)
            ended_fd, told_fd = os.pipe()
            undo.callback(os.close, ended_fd)
            undo.callback(os.close, told_fd)
            mount_fd = mount_detached(device_fd, MountOptions(read_only=spec.options.read_only))
            undo.pop_all()
        settings = Settings(
            passthrough=spec.options.passthrough is not Passthrough.OFF,
            stack_depth=stack_depth(branch.path for branch in spec.branches),
            volatile=spec.options.volatile,
        )
        connection = Connection(device_fd, ops, notifier, settings, self._handoff, log, self._buffer)
        connection.serve()  # INIT waits already
        self._connections.add(connection)
        self._loop.add(connection, lambda: self._ended(connection, told_fd))
        return mount_fd, ended_fd

    def _ended(self, connection: Connection, told_fd: int) -> None:
        self._connections.discard(connection)
        connection.close()
        opcodes = connection.counts()
        statistics = {"requests": sum(opcodes.values()), "opcodes": opcodes}
        report = {"aborted": _ABORTED} if connection.aborted else statistics
        with contextlib.suppress(BrokenPipeError):  # the client need not be curious
            os.write(told_fd, json.dumps(report, separators=(",", ":")).encode())
        os.close(told_fd)
        # nodes know their directory and are known to it: without this they stay until many more were made
        gc.collect()


def log(text: str) -> None:
    """``text`` is on stderr, as far as its reader takes it."""
    # a file in the memory of the client: a defect met in each request must not fill it
    with contextlib.suppress(OSError):
        if os.lseek(2, 0, os.SEEK_CUR) > MOST_SAID_BYTES:
            return
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def serve(fd: int, make_filesystem: Filesystem) -> None:
    """The socket ``fd`` is served until its peer is gone, in a process made for nothing else."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C concerns the client, which ends the server
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.umask(0)
    os.chdir("/")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()
    gc.set_threshold(_MANY_OBJECTS)  # nodes live long and in great number: looking for cycles among them is waste
    gc.enable()
    with socket.socket(fileno=fd) as sock:
        Server(sock, make_filesystem).run()


def main(fd: str) -> None:
    """The program: serves unions on the socket ``fd``."""
    scans = ConstantScans()

    def make_union(spec: MountSpec, notifier: Notifier) -> FilesystemOps:
        return open_union(BranchStack(spec.branches), spec.options, notifier, log, scans)

    serve(int(fd), make_union)


if __name__ == "__main__":
    main(sys.argv[1])

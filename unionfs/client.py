"""The union server as its client sees it: started, asked for mounts, ended with its last descriptor.

Knows no event loop: every call is short, and a lock lets threads share one server. The server lives exactly as long
as the client's end of the socket, so that nothing is left of it when the client dies in whatever way.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Self

from unionfs import mountspec, wire
from unionfs.branch import Branch
from unionfs.errors import UnionError
from unionfs.mounting import MountError
from unionfs.mountspec import MountSpec
from unionfs.namedtuple import NamedTuple
from unionfs.serverprocess import ServerProcess
from unionfs.types import Passthrough, UnionOptions

_SERVER_FD = 0
_PACKAGES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# without the site module and its paths, a third of the start-up time, and without looking for garbage meanwhile
_COMMAND = (
    sys.executable,
    *("-I", "-S", "-c"),
    "import gc, sys; gc.disable(); sys.path.insert(0, sys.argv[1]); import unionfs.server as s; s.main(sys.argv[2])",
    _PACKAGES,
)


class UnionServerError(UnionError):
    """The server does not answer."""


class DetachedMount(NamedTuple):
    """A union attached nowhere yet.

    ``fd`` is the mount (``fsmount(2)``): whoever gets it attaches it with ``move_mount(2)``; while it is attached
    nowhere, closing it ends the mount. ``ended`` is the read end of a pipe: one JSON object with ``requests`` and
    ``opcodes``, then end of file, once the kernel has let the mount go and every byte written through it is in its
    branch. An object with ``aborted``: the mount was given up before that, and why. End of file without an object: the
    server died. `is_whole` and `UnionServer.describe_loss` say what it means. The caller closes both.
    """

    fd: int
    ended: int


def is_whole(report: bytes) -> bool:
    """Whether all that was written through a mount, whose `DetachedMount.ended` said ``report``, is in its branch."""
    return bool(report) and "aborted" not in json.loads(report)


class UnionServer:
    """A running server; a context manager that closes it."""

    def __init__(self, process: ServerProcess, sock: socket.socket) -> None:
        """Use `start`. Both arguments now belong to the server."""
        self.pid = process.pid
        self._process = process
        self._sock = sock
        self._lock = threading.Lock()

    @classmethod
    def start(cls, command: Sequence[str] = _COMMAND) -> UnionServer:
        """A new server process. It has its own process group, so that Ctrl-C reaches the client alone.

        ``command`` speaks the protocol of `unionfs.server` on the descriptor that its last argument names.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                process = ServerProcess.start(
                    [*command, str(_SERVER_FD)],
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, theirs.fileno(), _SERVER_FD),
                        (os.POSIX_SPAWN_DUP2, 2, 1),
                    ],
                    setpgroup=0,
                    setsigmask=(signal.SIGINT,),
                )
            except OSError as error:
                ours.close()
                raise UnionServerError(f"union server cannot be started: {error}") from error
        return cls(process, ours)

    def mount(self, branches: Sequence[Branch], options: UnionOptions, *, passthrough: str = "fast") -> DetachedMount:
        """A union of ``branches``, top first, that answers requests. ``passthrough``: auto, fast or off.

        Raises:
            MountError: no /dev/fuse, no permission, a branch is missing: one line, perhaps with a hint.
            UnionServerError: the server is gone.
        """
        spec = MountSpec(tuple(branches), options._replace(passthrough=Passthrough(passthrough)))
        with self._lock:
            received = self._ask({"mount": mountspec.encode(spec)})
        message = received.message
        if "failed" in message:
            raise MountError(message["failed"], message["hint"])
        mount_fd, ended_fd = received.fds
        return DetachedMount(mount_fd, ended_fd)

    def end(self) -> None:
        """The server and all its mounts are going; returns at once, `close` waits."""
        with self._lock:
            self._sock.close()

    def close(self) -> str:
        """The server and all its mounts are gone; what it said on stderr. Idempotent."""
        self.end()
        said = self._process.said()
        self._process.close()
        return said

    def describe_end(self) -> str:
        """How the server ended whose mounts came to no orderly end: ``was killed by signal 9 (SIGKILL)``; waits."""
        return self._process.describe_end()

    def describe_loss(self, report: bytes) -> str:
        """Why a mount that said ``report``, and is not whole (`is_whole`), is not; waits for a server that is gone."""
        return str(json.loads(report)["aborted"]) if report else f"the union server {self.describe_end()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _ask(self, message: wire.Message) -> wire.Received:
        if self._sock.fileno() < 0:
            raise UnionServerError("union server is closed")
        try:
            wire.send(self._sock, message)
            received = wire.receive(self._sock)
        except (OSError, wire.WireError) as error:
            raise UnionServerError(self._describe_absence()) from error
        if received is None:
            raise UnionServerError(self._describe_absence())
        return received

    def _describe_absence(self) -> str:
        self._sock.close()
        return f"union server is gone: process {self.pid} {self.describe_end()}"

"""The socket through which ``unionctl`` speaks to the daemon behind a mount.

::

    unionctl                                          daemon
      {"do": "list"}                              →
                                                  ←   {"branches": [{"path", "access"}, …], "generation": N}
      {"do": "query", "path": "a/b"}              →
                                                  ←   {"branches": […]}
      {"do": "change", "changes": [CHANGE, …]}    →
                                                  ←   {"branches": […], "generation": N}
      {"do": "refresh"}                           →
                                                  ←   {}
      {"do": "stats"}                             →
                                                  ←   {"requests": N, "opcodes": {…}, …}
      {"do": "explain", "path": "a/b"}            →
                                                  ←   {"shown": N, "change": "…", "branches": [{…, "says"}, …]}
      {"do": "snapshot", "name": "n"}             →
                                                  ←   {"branches": […], "generation": N}
      {"do": "snapshots"}                         →
                                                  ←   {"directory": "…", "snapshots": [{"name", "path", …}, …]}
      {"do": "rollback", "name": "n"}             →
                                                  ←   {"kept": "n~1"}
      {"do": "drop", "name": "n"}                 →
                                                  ←   {"left": ["/directory/to/be/removed", …]}
      {"do": "states", "names": ["a", "b"]}       →
                                                  ←   {"states": [[{"path", "access"}, …], […]]}
                                                  ←   {"error": "one line"}   in place of any answer; with
                                                       "inos": [N, …] when it is because these files are open

The socket is named after the device number of the mount, which the kernel gives to one living file system at a time:
``DIRECTORY/MAJOR-MINOR.sock``. Invariants: only root and the user who mounted are listened to (mode 0600 and peer
credentials); a peer that is slow or speaks nonsense is hung up on and never keeps the mount from answering.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable

from unionfs import wire
from unionfs.errors import UnionError
from unionfs.mountinfo import MountEntry

_PEER_CREDENTIALS = struct.Struct("=iII")
_PATIENCE_SECONDS = 1.0
_BACKLOG = 8

Answer = Callable[[wire.Message], wire.Message]
"""Answers a message; ``UnionError`` and ``OSError`` become the one line the peer sees."""


class ControlError(UnionError):
    """The daemon cannot be reached, or refuses."""


class ControlBusyError(ControlError):
    """The daemon refuses since files are open; ``inos`` are the numbers they show."""

    def __init__(self, message: str, inos: tuple[int, ...]) -> None:
        super().__init__(message)
        self.inos = inos


def socket_directories(uid: int) -> list[str]:
    """Where a daemon of the user puts its socket: the first that can be made."""
    directories = ["/run/unionfs"] if uid == 0 else []
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and uid == os.geteuid():
        directories.append(f"{runtime}/unionfs")
    return [*directories, f"/run/user/{uid}/unionfs", f"/tmp/unionfs-{uid}"]  # noqa: S108 - the owner is checked


def socket_name(device: tuple[int, int]) -> str:
    """File name of the socket for the mount with this device number."""
    return f"{device[0]}-{device[1]}.sock"


class ControlSocket:
    """Listens for messages about one mount. Its descriptors are watched by whoever runs the mount's loop."""

    def __init__(self, device: tuple[int, int], answer: Answer) -> None:
        """The socket exists. Raises ControlError when no directory can hold it."""
        self._answer = answer
        self._owner = os.geteuid()
        self.path = f"{_make_directory()}/{socket_name(device)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)  # left by a daemon that was killed: its device number is ours now
            mask = os.umask(0o177)
            try:
                self._listener.bind(self.path)
            finally:
                os.umask(mask)
            self._listener.listen(_BACKLOG)
        except OSError as error:
            self._listener.close()
            raise ControlError(f"control socket {self.path!r}: {error.strerror}") from error

    def fileno(self) -> int:
        """Readable when somebody calls."""
        return self._listener.fileno()

    def serve(self) -> None:
        """One caller is answered."""
        peer, _ = self._listener.accept()
        with peer, contextlib.suppress(OSError, wire.WireError):
            peer.settimeout(_PATIENCE_SECONDS)
            if _user_of(peer) not in {0, self._owner}:
                wire.send(peer, {"error": "only root and the user who mounted may do this"})
                return
            received = wire.receive(peer)
            if received is None:
                return
            for fd in received.fds:
                os.close(fd)
            wire.send(peer, self._answered(received.message))

    def close(self) -> None:
        """The socket is gone. Idempotent."""
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _answered(self, message: wire.Message) -> wire.Message:
        try:
            return self._answer(message)
        except (UnionError, OSError) as error:
            return {"error": str(error)}
        except (KeyError, TypeError, ValueError) as error:
            return {"error": f"message cannot be understood: {error!r}"}


def ask(mount: MountEntry, message: wire.Message) -> wire.Message:
    """The answer of the daemon behind ``mount``.

    Raises:
        ControlError: there is no daemon to be reached, or it refuses; ControlBusyError: since files are open.
    """
    name = os.fsdecode(mount.mount_point)
    with _connect(mount) as sock:
        try:
            wire.send(sock, message)
            received = wire.receive(sock)
        except (OSError, wire.WireError) as error:
            raise ControlError(f"union {name!r}: {error}") from error
    if received is None:
        raise ControlError(f"union {name!r}: the daemon hung up")
    for fd in received.fds:
        os.close(fd)
    if received.message.get("inos"):
        raise ControlBusyError(received.message["error"], tuple(received.message["inos"]))
    if "error" in received.message:
        raise ControlError(received.message["error"])
    return received.message


def _connect(mount: MountEntry) -> socket.socket:
    """A connection to the daemon of the mount, wherever the user who mounted has put the socket."""
    owner = mount.user_id
    reason = "it has no control socket"
    for directory in socket_directories(owner) if owner is not None else []:
        path = f"{directory}/{socket_name(mount.device)}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
            if _user_of(sock) == owner:
                return sock
            reason = f"{path!r} belongs to somebody else"
        except FileNotFoundError:
            pass
        except OSError as error:
            reason = f"{path!r}: {(error.strerror or str(error)).lower()}"
        sock.close()
    raise ControlError(f"union {os.fsdecode(mount.mount_point)!r} cannot be reached: {reason}")


def _make_directory() -> str:
    reason = "no directory for it"
    for directory in socket_directories(os.geteuid()):
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            at = os.stat(directory, follow_symlinks=False)
        except OSError as error:
            reason = f"{directory!r}: {(error.strerror or str(error)).lower()}"
            continue
        if at.st_uid == os.geteuid() and not at.st_mode & 0o022:
            return directory
        reason = f"{directory!r} belongs to somebody else"
    raise ControlError(f"control socket: {reason}")


def _user_of(peer: socket.socket) -> int:
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _pid, uid, _gid = _PEER_CREDENTIALS.unpack(credentials)
    return int(uid)

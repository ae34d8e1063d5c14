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
credentials); a peer that is slow or speaks nonsense is hung up on and never keeps the mount from answering; a socket
appears by one rename when somebody listens to it already, so one that refuses a connection belongs to nobody any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Generator

from unionfs import wire
from unionfs.errors import UnionError, one_line
from unionfs.privileges import outer_id, user_namespace

_PEER_CREDENTIALS = struct.Struct("=iII")
_PATIENCE_SECONDS = 1.0
_BACKLOG = 8
_SUFFIX = ".sock"

Answer = Callable[[wire.Message], wire.Message]
"""Answers a message; ``UnionError`` and ``OSError`` become the one line the peer sees."""


WhenTold = Callable[[Callable[[], None]], None]
"""Makes a call once the kernel has got all it was told before."""


def _at_once(call: Callable[[], None]) -> None:
    call()


class ControlError(UnionError):
    """The daemon cannot be reached, or refuses."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ControlBusyError(ControlError):
    """The daemon refuses since files are open; ``inos`` are the numbers they show."""

    def __init__(self, message: str, inos: tuple[int, ...]) -> None:
        super().__init__(message)
        self.inos = inos


def socket_directories(uid: int) -> list[str]:
    """Where a daemon of the user puts its socket: the first that can be made.

    Root of a user namespace has the directory of who made it: there is a user 0 of each, and one ``/tmp``. In a
    namespace within another that may be somebody else's still; then it is one of this namespace alone.
    """
    directories = ["/run/unionfs"] if uid == 0 else []
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and uid == os.geteuid():
        directories.append(f"{runtime}/unionfs")
    outside = outer_id(uid)
    directories += [f"/run/user/{outside}/unionfs", f"/tmp/unionfs-{outside}"]  # noqa: S108 - the owner is checked
    namespace = user_namespace()
    return [*directories, f"/tmp/unionfs-{outside}-{namespace}"] if namespace else directories  # noqa: S108


def socket_name(device: tuple[int, int]) -> str:
    """File name of the socket for the mount with this device number."""
    return f"{device[0]}-{device[1]}{_SUFFIX}"


class ControlSocket:
    """Listens for messages about one mount. Its descriptors are watched by whoever runs the mount's loop."""

    def __init__(self, device: tuple[int, int], answer: Answer, when_told: WhenTold = _at_once) -> None:
        """The socket exists; answers go through ``when_told``. Raises ControlError when no directory can hold it."""
        self._answer = answer
        self._when_told = when_told
        self._owner = os.geteuid()
        self._name = socket_name(device)
        self._directory_fd = _open_directory()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._identity = self._appear()
        except OSError as error:
            self._listener.close()
            os.close(self._directory_fd)
            raise ControlError(f"control socket {self._name!r}: {one_line(error)}") from error

    def _appear(self) -> tuple[int, int]:
        """The socket is in its place and listened to; its identity there."""
        new = f".{self._name}-{os.getpid()}"
        mask = os.umask(0o177)
        try:
            # by the descriptor: the path of a socket has 108 bytes at most
            self._listener.bind(f"/proc/self/fd/{self._directory_fd}/{new}")
        finally:
            os.umask(mask)
        self._listener.listen(_BACKLOG)
        with _locked(self._directory_fd):
            _sweep(self._directory_fd)
            # over what a daemon left that was killed: its device number is ours now
            os.rename(new, self._name, src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd)
        return self._found()

    def _found(self) -> tuple[int, int]:
        status = os.stat(self._name, dir_fd=self._directory_fd, follow_symlinks=False)
        return status.st_ino, status.st_ctime_ns

    def fileno(self) -> int:
        """Readable when somebody calls."""
        return self._listener.fileno()

    def serve(self) -> None:
        """One caller is answered."""
        peer, _ = self._listener.accept()
        message: wire.Message | None = None
        with contextlib.suppress(OSError, wire.WireError):
            message = self._received(peer)
        if message is None:
            peer.close()
            return
        answered = self._answered(message)
        # who has the answer finds nothing that the kernel remembers from before
        self._when_told(lambda: _reply(peer, answered))

    def _received(self, peer: socket.socket) -> wire.Message | None:
        peer.settimeout(_PATIENCE_SECONDS)
        if peer_of(peer)[1] not in {0, self._owner}:
            wire.send(peer, {"error": "only root and the user who mounted may do this"})
            return None
        received = wire.receive(peer)
        if received is None:
            return None
        for fd in received.fds:
            os.close(fd)
        return received.message

    def close(self) -> None:
        """The socket is gone, unless a later mount with the same number has its own there. Idempotent."""
        if self._directory_fd < 0:
            return
        self._listener.close()
        with contextlib.suppress(FileNotFoundError), _locked(self._directory_fd):
            if self._found() == self._identity:
                os.unlink(self._name, dir_fd=self._directory_fd)
        place = os.readlink(f"/proc/self/fd/{self._directory_fd}")
        if place.endswith(f"-{user_namespace()}"):
            # nobody comes back to a namespace; who is in it still has a socket there
            with contextlib.suppress(OSError):
                os.rmdir(place)
        os.close(self._directory_fd)
        self._directory_fd = -1

    def _answered(self, message: wire.Message) -> wire.Message:
        try:
            return self._answer(message)
        except (UnionError, OSError) as error:
            return {"error": one_line(error)}
        except (KeyError, TypeError, ValueError) as error:
            return {"error": f"message cannot be understood: {error!r}"}


def _reply(peer: socket.socket, answer: wire.Message) -> None:
    with peer, contextlib.suppress(OSError, wire.WireError):
        wire.send(peer, answer)


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Process id and user id of the other end, as they were when it connected or began to listen."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid, uid, _gid = _PEER_CREDENTIALS.unpack(credentials)
    return int(pid), int(uid)


def _open_directory() -> int:
    """Descriptor of the directory for sockets of this user, in which nobody else can make any."""
    reason = "no directory for it"
    for directory in socket_directories(os.geteuid()):
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            reason = one_line(error)
            continue
        at = os.fstat(fd)
        if at.st_uid == os.geteuid() and not at.st_mode & 0o022:
            return fd
        os.close(fd)
        reason = f"{directory!r} belongs to somebody else"
    raise ControlError(f"control socket: {reason}")


@contextlib.contextmanager
def _locked(directory_fd: int) -> Generator[None]:
    """No other daemon puts a socket into the directory or takes one out."""
    fcntl.flock(directory_fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(directory_fd, fcntl.LOCK_UN)


def _sweep(directory_fd: int) -> None:
    """Sockets of daemons that were killed are gone."""
    for name in os.listdir(directory_fd):
        if not name.startswith(".") and name.endswith(_SUFFIX):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
                try:
                    probe.connect(f"/proc/self/fd/{directory_fd}/{name}")
                except ConnectionRefusedError:
                    os.unlink(name, dir_fd=directory_fd)
                except OSError:
                    # EAGAIN: somebody listens who has much to do
                    continue

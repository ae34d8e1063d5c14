"""The user's ssh agent, as a step sees it: a socket of the step's own, through which keys can be used and not changed.

::

    program of the step ── socket with the owner and mode asked for ── relay, threads of pybuild ── the user's agent

An agent answers its own user alone, so a step that is another user needs somebody in between; and a step must not be
able to add, remove or lock keys. Sources: ``RUN --mount=type=ssh`` in the Dockerfile reference, BuildKit's forwarding,
which is for reading alone as well, and draft-ietf-sshm-ssh-agent.

Invariants: what is not to be passed on is answered with a failure and never reaches the agent; when the relay is closed
its connections are, and no thread is left.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_LENGTH = struct.Struct(">I")
_MOST_BYTES = 256 << 10
_MOST_CONNECTIONS = 16
_FAILURE = _LENGTH.pack(1) + b"\x05"
_REQUEST_IDENTITIES, _SIGN_REQUEST, _EXTENSION = 11, 13, 27
_SESSION_BIND = b"session-bind@openssh.com"


class AgentRelay:
    """A socket in ``directory`` that leads to the agent at ``agent``; a context manager that ends it."""

    def __init__(self, agent: str, directory: Path, mode: int, uid: int, gid: int) -> None:
        """Raises OSError: the socket can't be made, or can't be given to its owner."""
        self.path = directory / "agent"
        self._agent = agent
        self._room = threading.Semaphore(_MOST_CONNECTIONS)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ended = False
        self._listener = _listen(directory, mode, uid, gid)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._ended = True
            for sock in (self._listener, *self._open):
                # wakes who waits for it
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._room.release()
        while self._threads:
            self._threads.pop().join()
        self._listener.close()

    def _start(self, target: object, *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments, name="ssh-agent", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            self._room.acquire()
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._ended:
                    client.close()
                    return
                self._open.add(client)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        """Every request of ``client`` is answered, until one of the three ends."""
        with contextlib.suppress(OSError), client, socket.socket(socket.AF_UNIX) as agent:
            agent.connect(self._agent)
            with self._lock:
                if self._ended:
                    return
                self._open.add(agent)
            try:
                while request := _receive(client):
                    client.sendall(_ask(agent, request) if is_harmless(request) else _FAILURE)
            finally:
                with self._lock:
                    self._open -= {client, agent}
        self._room.release()


def is_harmless(request: bytes) -> bool:
    """Whether ``request``, without its length, leaves the agent as it is: a list of keys, a signature."""
    kind = request[0]
    if kind == _EXTENSION:
        # binds a signature to a connection, for keys that are restricted to some hosts
        return request[1:].startswith(_LENGTH.pack(len(_SESSION_BIND)) + _SESSION_BIND)
    return kind in {_REQUEST_IDENTITIES, _SIGN_REQUEST}


def _listen(directory: Path, mode: int, uid: int, gid: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # a socket's address has room for 107 bytes
        path = f"/proc/self/fd/{place}/agent"
        listener.bind(path)
        if (uid, gid) != (0, 0):
            os.chown(path, uid, gid)
        os.chmod(path, mode)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(place)
    return listener


def _ask(agent: socket.socket, request: bytes) -> bytes:
    agent.sendall(_LENGTH.pack(len(request)) + request)
    answer = _receive(agent)
    if not answer:
        raise ConnectionResetError
    return _LENGTH.pack(len(answer)) + answer


def _receive(sock: socket.socket) -> bytes:
    """The next message without its length; empty at the end, and where it is longer than an agent takes."""
    head = _read(sock, _LENGTH.size)
    if len(head) < _LENGTH.size:
        return b""
    (length,) = _LENGTH.unpack(head)
    if not 0 < length <= _MOST_BYTES:
        return b""
    body = _read(sock, length)
    return body if len(body) == length else b""


def _read(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        if not chunk:
            break
        data += chunk
    return bytes(data)

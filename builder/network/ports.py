"""Ports of the machine that lead to a command in the private network.

::

    somebody ──▶ listener on the host ──▶ a thread ──▶ socket in the hub's namespace ──▶ the command's address

Done by sockets, not by rules, so that it is the same for root and a plain user, from outside and from the machine's own
loopback (as docker's userland proxy does). Who is spoken to sees the hub as the other end.

Invariants: listeners are opened before the command starts, so a port that is taken is told while nothing has happened;
the threads take no signals, and end with the process.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterable, Sequence

from builder.errors import BuildError
from builder.sandbox import _sys
from unionfs.namedtuple import NamedTuple

_BYTES = 64 << 10
_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 90.0


class Port(NamedTuple):
    """``inner`` of the command is ``outer`` of the machine; ``address`` is one of its own, empty for all of them."""

    inner: int
    outer: int
    address: str = ""
    protocol: str = "tcp"

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}{':' if host else ''}{self.outer}:{self.inner}/{self.protocol}"


class Listener(NamedTuple):
    """A port of the machine that is taken."""

    port: Port
    socket: socket.socket


@contextlib.contextmanager
def listening(ports: Iterable[Port]) -> Generator[tuple[Listener, ...]]:
    """The ports are taken until the block is left.

    Raises:
        BuildError: one can't be.
    """
    with contextlib.ExitStack() as stack:
        listeners = tuple(Listener(port, stack.enter_context(_open(port))) for port in ports)
        try:
            yield listeners
        finally:
            for listener in listeners:
                # whoever waits for somebody to come waits no more
                with contextlib.suppress(OSError):
                    listener.socket.shutdown(socket.SHUT_RDWR)


def _open(port: Port) -> socket.socket:
    everywhere = not port.address and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if everywhere or ":" in port.address else socket.AF_INET
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    made = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not everywhere)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((port.address, port.outer))
        if kind == socket.SOCK_STREAM:
            made.listen()
    except OSError as error:
        made.close()
        hints = ("a plain user takes ports from net.ipv4.ip_unprivileged_port_start on, which usually is 1024",)
        reason = (error.strerror or str(error)).lower()
        message = f"port {port} can't be published: {reason}"
        raise BuildError(message, hints=hints if isinstance(error, PermissionError) else ()) from error
    return made


def publish(listeners: Sequence[Listener], namespace: int, address: str) -> None:
    """Who comes to a listener is led to ``address``, which is known in the network namespace ``namespace``.

    The descriptor stays the caller's.

    Raises:
        BuildError: that namespace can't be entered.
    """
    ready = threading.Event()
    failures: list[OSError] = []

    def begin() -> None:
        # a namespace is the thread's own, and that of the threads it starts
        try:
            _sys.setns(namespace, _sys.CLONE_NEWNET)
        except OSError as error:
            failures.append(error)
            ready.set()
            return
        for listener in listeners:
            serve = _serve_stream if listener.port.protocol == "tcp" else _serve_datagrams
            _start(serve, listener.socket, (address, listener.port.inner))
        ready.set()

    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        _start(begin)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    ready.wait()
    if failures:
        raise BuildError(f"ports can't be published: {(failures[0].strerror or '').lower()}")


def _start(work: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()


def _serve_stream(listener: socket.socket, target: tuple[str, int]) -> None:
    # closed when the command has ended
    with contextlib.suppress(OSError):
        while True:
            client, _peer = listener.accept()
            _start(_join, client, target)


def _join(client: socket.socket, target: tuple[str, int]) -> None:
    with client, contextlib.suppress(OSError), socket.create_connection(target, _CONNECT_SECONDS) as inner:
        inner.settimeout(None)
        back = threading.Thread(target=_copy, args=(inner, client), daemon=True)
        back.start()
        _copy(client, inner)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Everything from ``source``, and its end, has come to ``target``; when that takes no more, ``source`` hears it."""
    try:
        while data := source.recv(_BYTES):
            target.sendall(data)
    except OSError:
        with contextlib.suppress(OSError):
            source.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _serve_datagrams(listener: socket.socket, target: tuple[str, int]) -> None:
    """Each client has a socket of its own inside, as long as something goes back and forth."""
    inner: dict[object, socket.socket] = {}
    try:
        # until the listener is closed; when it has been shut down, nothing comes from nobody
        with contextlib.suppress(OSError):
            while listener.fileno() >= 0:
                data, client = listener.recvfrom(_BYTES)
                if client:
                    _send_on(data, client, inner, listener, target)
    finally:
        for one in inner.values():
            with one, contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def _send_on(
    data: bytes,
    client: tuple[str, int],
    inner: dict[object, socket.socket],
    listener: socket.socket,
    target: tuple[str, int],
) -> None:
    if client not in inner or inner[client].fileno() < 0:
        inner[client] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        inner[client].connect(target)
        inner[client].settimeout(_IDLE_SECONDS)
        _start(_send_back, inner[client], listener, client)
    # nobody may listen inside
    with contextlib.suppress(OSError):
        inner[client].send(data)


def _send_back(inner: socket.socket, listener: socket.socket, client: tuple[str, int]) -> None:
    with inner:
        while listener.fileno() >= 0:
            try:
                listener.sendto(inner.recv(_BYTES), client)
            except ConnectionRefusedError:
                continue
            except OSError:
                return

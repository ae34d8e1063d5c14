"""Connections of one requests session: big blocks, patient sends, the system's certificates, and a way to break off.

Invariants: after `Connections.abort` no thread stays in a read or write of a connection made here; the interrupted
call fails as if the peer had gone. The same happens to a conversation that is expected to bring something and brings
too little for too long (`Connections.cut_when_late`): a timeout of a socket alone never ends a peer that sends a byte
now and then. Nothing is ever sent before the peer's certificate was checked.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError

_BLOCK_BYTES = 1 << 18
_LOOPBACK = ("127.0.0.1", "::1")


class Connections:
    """The sockets that are open, so that another thread can shut them down. Safe for threads."""

    def __init__(self, read_seconds: float) -> None:
        self.read_seconds = read_seconds
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._aborted = False
        self._due: float | None = None
        self._late = False

    def add(self, sock: socket.socket) -> None:
        """The socket is known, and shut at once when `abort` came first."""
        # urllib3 leaves the short timeout of connecting on while a body is sent
        sock.settimeout(self.read_seconds)
        with self._lock:
            self._sockets.add(sock)
            if self._aborted:
                _shut(sock)

    def expect(self) -> None:
        """The peer has ``read_seconds`` from now to bring or take what is due."""
        self._due = time.monotonic() + self.read_seconds

    def rest(self) -> None:
        """Nothing is due."""
        self._due = None

    def cut_when_late(self) -> None:
        """The conversation is over when what is due did not come in time. Called now and then by another thread."""
        due = self._due
        if due is not None and time.monotonic() > due:
            self._late, self._due = True, None
            with self._lock:
                for sock in self._sockets:
                    _shut(sock)

    @property
    def late(self) -> bool:
        """Whether `cut_when_late` has ended a conversation that nobody has asked `was_late` about."""
        return self._late

    def was_late(self) -> bool:
        """Whether the last failure was an end made by `cut_when_late`; asked once."""
        late, self._late = self._late, False
        return late

    def abort(self) -> None:
        """Every conversation is over; new ones end as they begin."""
        with self._lock:
            self._aborted = True
            for sock in self._sockets:
                _shut(sock)


def _shut(sock: socket.socket) -> None:
    # not SSLSocket.shutdown: it would take the TLS state from under the thread that reads
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def addresses_of(host: str) -> tuple[str, ...]:
    """What to connect to for ``host``: loopback for localhost, whatever resolvers say (RFC 6761, 6.3); else itself."""
    name = host.rstrip(".").lower()
    return _LOOPBACK if name == "localhost" or name.endswith(".localhost") else (host,)


def _first_that_answers(connection: HTTPConnection, connect: Callable[[], socket.socket]) -> socket.socket:
    """The socket of the first address of the connection's host that answers; the first failure when none does."""
    # urllib3 has no other place for it
    name = connection._dns_host  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    failures: list[Exception] = []
    for address in addresses_of(name):
        connection._dns_host = address  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        try:
            return connect()
        except NewConnectionError as error:
            failures.append(error)
        finally:
            connection._dns_host = name  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    raise failures[0]


def _pool_classes(connections: Connections) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools, with connections that report their sockets."""

    class PlainConnection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _first_that_answers(self, super()._new_conn)

        def connect(self) -> None:
            super().connect()
            connections.add(self.sock)

    class TlsConnection(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _first_that_answers(self, super()._new_conn)

        def connect(self) -> None:
            super().connect()
            if isinstance(self.sock, socket.socket):
                connections.add(self.sock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = PlainConnection  # pyright: ignore[reportAssignmentType]  # urllib3's protocol misfits its own class

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = TlsConnection  # pyright: ignore[reportAssignmentType]  # as above

    return {"http": PlainPool, "https": TlsPool}


class Adapter(HTTPAdapter):
    """requests' transport, on `Connections`."""

    def __init__(self, connections: Connections, context: ssl.SSLContext | None = None) -> None:
        self._connections = connections
        self._context = context
        super().__init__(pool_connections=4, pool_maxsize=2)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        """The pool manager is there. Called by the constructor."""
        if self._context is not None:
            pool_kwargs["ssl_context"] = self._context
        self.poolmanager = PoolManager(
            num_pools=connections, maxsize=maxsize, block=block, blocksize=_BLOCK_BYTES, **pool_kwargs
        )
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._connections)

    def close(self) -> None:
        """No connection is open. urllib3 itself closes them when nothing, not even a log record, knows its pools."""
        pools = self.poolmanager.pools
        for key in list(pools.keys()):
            pools[key].close()
        super().close()


def speaks_tls(host: str, port: int, connect_seconds: float) -> bool:
    """Whether the server there answers a TLS greeting. Nothing else is sent, no certificate is judged.

    Raises OSError when no connection comes about.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _connect(host, port, connect_seconds) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host):
                return True
        except (ssl.SSLError, ConnectionError):
            return False


def _connect(host: str, port: int, connect_seconds: float) -> socket.socket:
    """A connection to the first address of ``host`` that answers. Raises OSError, the first one."""
    failures: list[OSError] = []
    for address in addresses_of(host):
        try:
            return socket.create_connection((address, port), timeout=connect_seconds)
        except OSError as error:
            failures.append(error)
    raise failures[0]

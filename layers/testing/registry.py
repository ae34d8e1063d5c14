"""A registry on loopback that fails on demand and remembers what it was asked.

::

    with FaultyRegistry() as registry:                       # or backend=Upstream("127.0.0.1:5000")
        registry.fail("GET", "/blobs/", Drop(1000), times=2)
        transfer.pull(store, f"{registry.host}/demo:1")
        assert [seen.status for seen in registry.seen("GET", "/blobs/")] == [200, 200, 206]

Invariants: when the block ends no thread and no socket of it is left, whatever clients did.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase, RawIOBase
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from layers.testing.faults import (
    Corrupt,
    Delay,
    Drop,
    DropRequest,
    Endless,
    Extend,
    Fault,
    Headers,
    IgnoreRange,
    Redirect,
    Rule,
    Stall,
    Status,
    Trickle,
    Truncate,
)
from layers.testing.registry_access import Access
from layers.testing.registry_content import Answer, Backend, Memory, Request
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_BLOCK_BYTES = 1 << 16


class Seen(NamedTuple):
    """A request that came, and the status it got (0: the connection was dropped before)."""

    method: str
    target: str
    headers: Mapping[str, str]
    status: int


class FaultyRegistry:
    """A running server; a context manager. ``access`` asks for credentials, None lets everybody in."""

    def __init__(self, backend: Backend | None = None, access: Access | None = None) -> None:
        self.backend: Backend = backend or Memory()
        self.access = access
        self.stopping = threading.Event()
        self.requests: list[Seen] = []
        self._rules: list[Rule] = []
        self._arrived: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._server = _Server(self)
        self.port = self._server.server_port
        self.host = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join()

    @property
    def memory(self) -> Memory:
        """What is held in memory; only without another backend."""
        if not isinstance(self.backend, Memory):
            raise TypeError("this registry has another one behind it")
        return self.backend

    def fail(self, method: str, pattern: str, fault: Fault, *, times: int | None = None, skip: int = 0) -> None:
        """From now on requests that fit fail in this way (`Rule`)."""
        with self._lock:
            self._rules.append(Rule(method, pattern, fault, times, skip))

    def heal(self) -> None:
        """Nothing fails any more."""
        with self._lock:
            self._rules.clear()

    def seen(self, method: str, part: str = "") -> list[Seen]:
        """The requests so far with this method (``*``: any) whose target holds ``part``."""
        with self._lock:
            return [seen for seen in self.requests if method in {"*", seen.method} and part in seen.target]

    def arrived(self, method: str, part: str = "") -> bool:
        """Whether such a request has come, be it answered or not."""
        with self._lock:
            return any(method in {"*", found} and part in target for found, target in self._arrived)

    def fault_for(self, method: str, target: str) -> Fault | None:
        """The fault that is due for a request that has just come."""
        with self._lock:
            self._arrived.append((method, target))
            return next((rule.fault for rule in self._rules if rule.applies(method, target)), None)

    def note(self, seen: Seen) -> None:
        """The request is remembered."""
        with self._lock:
            self.requests.append(seen)


class _Server(ThreadingHTTPServer):
    """Threads that are joined, connections that can be ended."""

    daemon_threads = False

    def __init__(self, registry: FaultyRegistry) -> None:
        self.registry = registry
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        with self._guard:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: object) -> None:
        connection = cast("socket.socket", request)
        with self._guard:
            self._open.discard(connection)
        super().shutdown_request(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is none of our business."""

    def hang_up(self) -> None:
        with self._guard:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Dropped(Exception):  # noqa: N818 - a way out of the handler, not an error
    """The connection is to end here."""


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, applies the fault that is due, sends answers."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has in the library
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names the library looks for

    @property
    def _registry(self) -> FaultyRegistry:
        return cast("_Server", self.server).registry

    def _handle(self) -> None:
        registry = self._registry
        fault = registry.fault_for(self.command, self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        status = 0
        try:
            body = self._read_body(headers, fault)
            if isinstance(fault, IgnoreRange):
                headers.pop("range", None)
            answer = self._answer(registry, Request(self.command, self.path, headers, body), fault)
            status = answer.status
            registry.note(Seen(self.command, self.path, headers, status))
            if isinstance(fault, Endless):
                self._send_forever(fault)
            self._send(_spoil(answer, fault), fault)
        except _Dropped:
            if not status:
                registry.note(Seen(self.command, self.path, headers, 0))
            self.close_connection = True

    def _answer(self, registry: FaultyRegistry, request: Request, fault: Fault | None) -> Answer:
        if isinstance(fault, Delay):
            registry.stopping.wait(fault.seconds)
        if isinstance(fault, Drop) and fault.after_bytes is None:
            raise _Dropped
        if isinstance(fault, Status):
            return Answer(fault.code, fault.headers, fault.body)
        if isinstance(fault, Redirect):
            return Answer(307, {"Location": fault.base + (fault.path or request.target)})
        if registry.access is not None:
            refusal = registry.access.check(request, registry.host)
            if refusal is not None:
                return refusal
        return registry.backend.answer(request)

    def _read_body(self, headers: Mapping[str, str], fault: Fault | None) -> bytes:
        """The whole body, as long as the fault allows."""
        limit = fault.after_bytes if isinstance(fault, DropRequest) else None
        body = bytearray()
        missing = int(headers.get("content-length", "0"))
        while missing:
            if limit is not None and len(body) >= limit:
                self._registry.backend.broke(Request(self.command, self.path, headers, bytes(body)))
                raise _Dropped
            data = self.rfile.read1(min(missing, _BLOCK_BYTES))
            if not data:
                raise _Dropped
            body += data
            missing -= len(data)
        return bytes(body)

    def _send_forever(self, fault: Endless) -> None:
        self.send_response(fault.code)
        for name, value in {**fault.headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            while not self._registry.stopping.is_set():
                self.wfile.write(fault.block)
        except OSError as error:
            raise _Dropped from error
        raise _Dropped

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        if isinstance(fault, Trickle):
            self.wfile = cast("BufferedIOBase", _Slow(self.connection, fault, self._registry.stopping))
        self.send_response(answer.status)
        names = {name.lower() for name in answer.headers}
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "content-length" not in names and answer.status != 204:  # noqa: PLR2004 - RFC 9110, 15.3.5: no content
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(fault, Drop | Stall):
            self.wfile.write(answer.body[: fault.after_bytes])
            self.wfile.flush()
            if isinstance(fault, Stall):
                self._registry.stopping.wait()
            raise _Dropped
        self.wfile.write(answer.body)


class _Slow(RawIOBase):
    """A connection that is written to in small pieces, with pauses; for the rest of its life."""

    def __init__(self, connection: socket.socket, fault: Trickle, stopping: threading.Event) -> None:
        super().__init__()
        self._connection = connection
        self._fault = fault
        self._stopping = stopping

    def write(self, data: Buffer, /) -> int:
        view = memoryview(data)
        for start in range(0, len(view), self._fault.bytes_at_a_time):
            if self._stopping.wait(self._fault.seconds):
                raise _Dropped
            try:
                self._connection.sendall(view[start : start + self._fault.bytes_at_a_time])
            except OSError as error:
                raise _Dropped from error
        return len(view)


def _spoil(answer: Answer, fault: Fault | None) -> Answer:
    """The answer with the fault in it."""
    body = answer.body
    headers = dict(answer.headers)
    if isinstance(fault, Headers):
        changed = {name.lower() for name in fault.headers}
        headers = {name: value for name, value in headers.items() if name.lower() not in changed}
        headers |= {name: value for name, value in fault.headers.items() if value}
        return answer._replace(headers=headers)
    if isinstance(fault, Truncate):
        body = body[: fault.to_bytes]
    elif isinstance(fault, Extend):
        body += fault.by
    elif isinstance(fault, Corrupt):
        body = body[: fault.at] + bytes((body[fault.at] ^ 1,)) + body[fault.at + 1 :]
    else:
        return answer
    return answer._replace(body=body, headers={k: v for k, v in headers.items() if k.lower() != "content-length"})

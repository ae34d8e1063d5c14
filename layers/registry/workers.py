"""The threads of one transfer: one session each, stopped together.

::

    caller's thread                    workers (``RegistrySettings.connections``)
    map(function, items) ────────────▶ function(client of this thread, item)
      waits, looks at ``cancel``  ◀──── results in order, or the first error
      cancel or Ctrl-C: sets ``stop``, aborts all sockets, joins

Invariants: when a block `Transfer` ends, no thread, socket or pool of it is left; one scheme and one `ScopedAuth` a
host, so that one token serves all threads.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self, TypeVar

from layers.reference import DEFAULT_REGISTRY
from layers.registry import failures
from layers.registry.client import RegistryClient
from layers.registry.connections import speaks_tls, trusting_context
from layers.registry.credentials import Credentials
from layers.registry.errors import TlsError, TransferCancelledError
from layers.registry.retry import plan_delay
from layers.registry.session import RegistrySession
from layers.registry.settings import DOCKER_HUB_HOST, RegistrySettings, plain_http_allowed, split_host
from layers.registry.tokens import ScopedAuth

_LOOK_SECONDS = 0.05
_HTTPS_PORT = 443

Item = TypeVar("Item")
Result = TypeVar("Result")


class Transfer:
    """Clients for one repository, and threads that use them. A context manager; ``subject`` begins all messages."""

    def __init__(
        self,
        subject: str,
        repository: str,
        settings: RegistrySettings,
        cancel: threading.Event | None = None,
        *,
        push: bool = False,
        given: Credentials | None = None,
    ) -> None:
        self.subject = subject
        self.settings = settings
        self.stop = threading.Event()
        self._repository = repository
        self._cancel = cancel or threading.Event()
        self._push = push
        self._given = given
        self._lock = threading.Lock()
        self._meeting = threading.Lock()  # held while a host is met for the first time, which may take its time
        self._auths: dict[str, ScopedAuth] = {}
        self._context: ssl.SSLContext | None = None
        self._clients: dict[tuple[int, str], RegistryClient] = {}
        self._pool = ThreadPoolExecutor(settings.connections, thread_name_prefix="registry")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abort()
        self._pool.shutdown(cancel_futures=True)
        for client in self._clients.values():
            client.session.close()

    def call(self, function: Callable[[], Result]) -> Result:
        """The result of the function, run in a worker; as `map` in all else."""
        return self.map(lambda _: function(), [None])[0]

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results in order, as many at a time as there are workers.

        The first error stops the rest and is raised, and so does the caller's ``cancel``.

        Raises:
            TransferCancelledError: ``cancel`` was set.
        """
        futures = [self._pool.submit(function, item) for item in items]
        waiting: set[Future[Result]] = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, _LOOK_SECONDS, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if self._cancel.is_set():
                    raise TransferCancelledError(self.subject, "cancelled")
        except BaseException:
            self._abort()
            for future in futures:
                future.cancel()
            wait(futures)
            raise
        return [future.result() for future in futures]

    def client(self, host: str) -> RegistryClient:
        """The client of the calling thread for this host. Raises RegistryError when the host does not answer."""
        key = (threading.get_ident(), host)
        found = self._clients.get(key)
        if found is not None:
            return found
        with self._meeting:
            auth = self._auths.get(host) or self._new_auth(host)
            self._auths[host] = auth
            context = self._trust() if auth.scheme == "https" or self.settings.ca_files else None
        with self._lock:
            session = RegistrySession(auth, self.settings, self.subject, self.stop, context)
            client = self._clients[key] = RegistryClient(session, self._repository, push=self._push)
            if self.stop.is_set():
                client.abort()
            return client

    def _abort(self) -> None:
        self.stop.set()
        with self._lock:
            for client in self._clients.values():
                client.abort()

    def _new_auth(self, host: str) -> ScopedAuth:
        registry = DEFAULT_REGISTRY if host == DOCKER_HUB_HOST else host
        auth = ScopedAuth(registry, self._scheme(host), host, self.settings)
        auth.given = self._given
        return auth

    def _scheme(self, host: str) -> str:
        """https, unless plain http is allowed and is what the host speaks."""
        if not plain_http_allowed(host, self.settings):
            return "https"
        name, port = split_host(host)
        tries = 0
        while True:
            tries += 1
            try:
                tls = speaks_tls(name, port or _HTTPS_PORT, self.settings.patience.connect_seconds)
            except OSError as error:
                if port is None:
                    return "http"  # nobody at 443, 80 is tried
                delay = plan_delay(tries, self.settings.patience, slow=isinstance(error, TimeoutError))
                if delay is None:
                    raise failures.from_exception(error, self.subject, f"//{host}") from error
                if self.stop.wait(delay):
                    raise TransferCancelledError(self.subject, "cancelled") from error
            else:
                return "https" if tls else "http"

    def _trust(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                self._context = trusting_context(self.settings.ca_files)
            except OSError as error:
                raise TlsError(self.subject, f"certificate file: {error.strerror or error}") from error
        return self._context

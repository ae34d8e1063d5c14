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
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

from layers.reference import DEFAULT_REGISTRY
from layers.registry import failures
from layers.registry.certificates import HostCertificates, find, trusting_context
from layers.registry.client import RegistryClient
from layers.registry.connections import speaks_tls
from layers.registry.credentials import Credentials
from layers.registry.errors import TransferCancelledError
from layers.registry.retry import plan_delay
from layers.registry.session import RegistrySession
from layers.registry.settings import DOCKER_HUB_HOST, RegistrySettings, is_insecure, plain_http_allowed, split_host
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
        self._companion: Transfer | None = None
        self._beside: Future[None] | None = None
        self._lock = threading.Lock()
        self._meeting = threading.Lock()  # held while a host is met for the first time, which may take its time
        self._auths: dict[str, ScopedAuth] = {}
        self._contexts: dict[str, tuple[ssl.SSLContext | None, ssl.SSLContext | None]] = {}
        self._clients: dict[tuple[int, str], RegistryClient] = {}
        self._pool = ThreadPoolExecutor(settings.connections, thread_name_prefix="registry")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
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
                self.look()
                self._check()
        except BaseException:
            self.abort()
            for future in futures:
                future.cancel()
            wait(futures)
            raise
        return [future.result() for future in futures]

    def _check(self) -> None:
        """Nothing happens as long as the caller wants to go on and what runs beside does not fail."""
        if self._cancel.is_set():
            raise TransferCancelledError(self.subject, "cancelled")
        if self._beside is not None and self._beside.done():
            self._beside.result()

    @contextmanager
    def beside(self, function: Callable[[], None]) -> Generator[None]:
        """``function`` runs in a thread of its own while the block does, and has ended with it.

        What it raises is raised when the block has ended, and stops the block's own work.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="beside") as pool:
            future = self._beside = pool.submit(function)
            try:
                yield
                while not future.done():
                    wait([future], _LOOK_SECONDS)
                    self._check()
                future.result()
            except BaseException:
                self.abort()
                raise
            finally:
                self._beside = None

    def client(self, host: str) -> RegistryClient:
        """The client of the calling thread for this host. Raises RegistryError when the host does not answer."""
        key = (threading.get_ident(), host)
        found = self._clients.get(key)
        if found is not None:
            return found
        with self._meeting:
            auth = self._auths.get(host) or self._new_auth(host)
            self._auths[host] = auth
            contexts = self._contexts.get(host) or self._trust(host, auth.scheme)
            self._contexts[host] = contexts
        with self._lock:
            session = RegistrySession(auth, self.settings, self.subject, self.stop, *contexts)
            client = self._clients[key] = RegistryClient(session, self._repository, push=self._push)
            if self.stop.is_set():
                client.abort()
            return client

    def accompany(self, other: Transfer) -> None:
        """What stops this one stops the other as well: its clients are used by the threads of this one."""
        self._companion = other

    def look(self) -> None:
        """Conversations that bring too little for too long are over."""
        if self._companion is not None:
            self._companion.look()
        with self._lock:
            for client in self._clients.values():
                client.session.look()

    def abort(self) -> None:
        """Whatever the threads do fails at once."""
        self.stop.set()
        if self._companion is not None:
            self._companion.abort()
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

    def _trust(self, host: str, scheme: str) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
        """For hosts that this one leads to, and for itself: only the latter sees certificates of ours."""
        found = find(host, self.settings, self.subject)
        files = self.settings.ca_files
        if scheme == "http" and not files and not found.authorities:
            return None, None
        others = trusting_context(files, HostCertificates(found.authorities), self.subject)
        verified = not is_insecure(host, self.settings)
        if verified and not found.pairs:
            return others, others
        return others, trusting_context(files, found, self.subject, verified=verified)

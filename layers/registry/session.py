"""One conversation with a registry host: oras' registry session with its request loop replaced.

What is oras' and stays: the requests session with its refusal of cookies, the URLs of containers, the place of the
authentication backend. What is replaced, since it was found wanting: the request loop (it slept 131 s over a refused
connection and repeated a refused token), the checking of answers, the pagination of tags (it never ended when a
registry never did), and everything that moves content (`layers.registry.client`).

Invariants: ``Authorization`` goes to the host it is meant for and to no other, redirected or not; https never falls
back to http; a request that was answered with 4xx is not repeated, but once after 401 with a new token; the body of an
answer that is not streamed is whole and small; a registry elsewhere leads us neither to loopback nor to link-local
addresses; a session serves one thread at a time, `abort` and `look` may be called from any.
"""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
import urllib3.exceptions

from layers.registry import failures
from layers.registry.connections import Adapter, Connections
from layers.registry.errors import ProtocolError, RegistryError, RegistryTimeoutError, TlsError, TransferCancelledError
from layers.registry.orasparts import Container, Registry
from layers.registry.retry import RETRIED_STATUSES, parse_retry_after, plan_delay
from layers.registry.settings import RegistrySettings, is_insecure, is_loopback, reaches_inside
from layers.registry.tokens import ScopedAuth

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_LARGEST_ANSWER_BYTES = 4 << 20
_BLOCK_BYTES = 1 << 16
_UNAUTHORIZED = 401
_USER_AGENT = "pybuild"


class RepositoryContainer(Container):  # type: ignore[misc]  # oras publishes no types
    """A repository on a host. oras' URLs without its parser, which takes ``localhost/x`` for a name on docker.io."""

    def __init__(self, host: str, repository: str) -> None:
        self.registry = host
        namespace, _, self.repository = repository.rpartition("/")
        self.namespace = namespace or None
        self.tag = None
        self.digest = None


class RegistrySession(Registry):  # type: ignore[misc]  # oras publishes no types
    """Requests to one host, authenticated, retried, redirected as is safe.

    ``subject`` begins the message of every error. The caller closes the session.
    """

    def __init__(
        self,
        auth: ScopedAuth,
        settings: RegistrySettings,
        subject: str,
        cancel: threading.Event,
        context: ssl.SSLContext | None = None,
        own_context: ssl.SSLContext | None = None,
    ) -> None:
        self.verified = auth.scheme == "http" or not is_insecure(auth.host, settings)
        # oras publishes no types
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            hostname=auth.host, insecure=auth.scheme == "http"
        )
        self.settings = settings
        self.subject = subject
        self.cancel = cancel
        self.scopes: tuple[str, ...] = ()
        self.repository = ""
        self.auth: ScopedAuth = auth
        self._connections = Connections(settings.patience.read_seconds)
        self._origin = (auth.scheme, auth.host)
        self._prepare(context, own_context or context)

    def _prepare(self, context: ssl.SSLContext | None, own_context: ssl.SSLContext | None) -> None:
        """Our transports, ``own_context`` for the host itself; and nothing from ~/.netrc."""
        self.session.headers["User-Agent"] = _USER_AGENT
        # digests are of the bytes as they travel
        self.session.headers["Accept-Encoding"] = "identity"
        self.session.auth = _leave_alone
        self.session.mount("http://", Adapter(self._connections))
        self.session.mount("https://", Adapter(self._connections, context))
        if not self.verified:
            # the settings ask for it; the warning would come with every request
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self.session.mount(f"https://{self.auth.host}/", Adapter(self._connections, own_context))

    def abort(self) -> None:
        """Whatever a thread does with this session fails at once."""
        self._connections.abort()

    def look(self) -> None:
        """A conversation that brings too little for too long is over. Called now and then by another thread."""
        self._connections.cut_when_late()

    def close(self) -> None:
        """No connection is open."""
        self.session.close()

    def blocks(self, response: requests.Response, block_bytes: int) -> Iterator[bytes]:
        """The body as it is on the wire; each block has ``Patience.read_seconds`` to come.

        Raises ConnectionFailedError when it breaks.
        """
        stream = response.raw.stream(block_bytes, decode_content=False)
        while True:
            self._connections.expect()
            try:
                block: bytes | None = next(stream, None)
            except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
                self.stop_when_cancelled()
                raise self._problem(error, response.url or "") from error
            finally:
                self._connections.rest()
            self.stop_when_cancelled()
            if self._connections.was_late():
                # a body that was cut may look like one that ended
                raise RegistryTimeoutError(self.subject, f"{_host(response.url or '')}: no answer in time")
            if block is None:
                return
            yield block

    def progressing(self) -> None:
        """Part of a body has gone out: the peer has time for the next one. Raises TransferCancelledError."""
        self.stop_when_cancelled()
        self._connections.expect()

    def locate(self, response: requests.Response) -> str:
        """The address in the answer's ``Location``, which may be on another host; empty when there is none.

        Raises ProtocolError when it leads where no redirect may lead.
        """
        target = response.headers.get("Location")
        if not target:
            return ""
        return self.step(response.url or "", target)

    # -- requests -----------------------------------------------------------------------------------------------------
    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: Any = None,
        headers: dict[str, str] | None = None,
        json: dict[str, Any] | None = None,
        stream: bool = False,
        *,
        repeatable: bool = True,
    ) -> requests.Response:
        """The answer, whatever its status but 401; the caller closes it.

        ``repeatable``: whether a broken connection and 5xx lead to another try here; the caller of one that is not
        starts over himself.

        Raises:
            RegistryError: no answer came about, or no identity that the registry accepts.
        """
        if json is not None:
            raise TypeError("bytes are sent as they are; JSON is not serialised here")
        headers = dict(headers or {})
        sent = {} if self._foreign(url) else self.auth.header(self.scopes)
        tries = self.settings.patience.tries if repeatable else 1
        response = self._exchange(method, url, headers | sent, data, stream=stream, tries=tries)
        if response.status_code != _UNAUTHORIZED:
            return response
        if self._foreign(response.url):
            with response:
                failures.raise_for(response, self.subject)
        with response:
            fresh = self.auth.answer(
                response,
                self.scopes,
                sent,
                subject=self.subject,
                repository=self.repository,
                exchange=self._exchange,
            )
        response = self._exchange(method, url, headers | fresh, data, stream=stream, tries=tries)
        if response.status_code == _UNAUTHORIZED:
            with response:
                self.auth.refused(self.scopes, self.subject)
        return response

    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: Any = None,
        *,
        stream: bool = False,
        tries: int | None = None,
    ) -> requests.Response:
        """One answer, tried as often as the table of `layers.registry.retry` allows."""
        patience = self.settings.patience
        patience = patience._replace(tries=patience.tries if tries is None else tries)
        done = 0
        while True:
            done += 1
            try:
                response = self._follow(method, url, dict(headers), data, stream=stream)
            except requests.RequestException as error:
                self.stop_when_cancelled()
                problem = self._problem(error, url)
                delay = None if isinstance(problem, TlsError) else plan_delay(done, patience, slow=_slow(error))
                if delay is None:
                    raise problem from error
            else:
                if response.status_code not in RETRIED_STATUSES:
                    return response
                after = parse_retry_after(response.headers.get("Retry-After"))
                delay = plan_delay(done, patience, retry_after_seconds=after)
                if delay is None:
                    return response
                response.close()
            self.wait(delay)

    def _follow(self, method: str, url: str, headers: dict[str, str], data: Any, *, stream: bool) -> requests.Response:
        """The answer behind redirects. Credentials are left behind when the host, port or scheme changes."""
        for _ in range(_MOST_REDIRECTS + 1):
            self.stop_when_cancelled()
            response = self._send(method, url, headers, data, stream=stream)
            target = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not target:
                return response
            response.close()
            following = self.step(url, target)
            if _origin(following) != _origin(url):
                if isinstance(data, Mapping):
                    raise ProtocolError(self.subject, f"{_host(url)} redirects credentials to {_host(following)}")
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            url = following
        raise ProtocolError(self.subject, f"{_host(url)} redirects more than {_MOST_REDIRECTS} times")

    def _send(self, method: str, url: str, headers: dict[str, str], data: Any, *, stream: bool) -> requests.Response:
        if hasattr(data, "rewind"):
            data.rewind()
        patience = self.settings.patience
        session: requests.Session = self.session
        self._connections.expect()
        try:
            prepared = session.prepare_request(requests.Request(method, url, data=data, headers=headers))
            address = prepared.url or url
            # loopback is never behind a proxy, as in Go's net/http
            proxies = {"http": "", "https": ""} if failures.is_local(url) else {}
            verified = True if self._foreign(url) else self.verified
            options = session.merge_environment_settings(address, proxies, True, verified, None)
            # not Session.send: it reads the body of a redirect, however long, to see where it leads
            response = session.get_adapter(address).send(
                prepared, timeout=(patience.connect_seconds, patience.read_seconds), **options
            )
            if self._connections.late:
                # a head that was cut may look like one that ended
                response.raw.close()
                raise requests.ReadTimeout
            if not stream:
                self._settle(response)
        finally:
            self._connections.rest()
        return response

    def _settle(self, response: requests.Response) -> None:
        """The body is here. Raises ProtocolError when it is longer than any answer may be."""
        body = bytearray()
        try:
            for block in response.raw.stream(_BLOCK_BYTES, decode_content=False):
                body += block
                if len(body) > _LARGEST_ANSWER_BYTES:
                    response.close()
                    problem = f"{_host(response.url or '')} sends more than {_LARGEST_ANSWER_BYTES} bytes as an answer"
                    raise ProtocolError(self.subject, problem)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            response.close()
            raise requests.ConnectionError(error) from error
        # without this a peer that closes the connection keeps ours open when the answer has no body
        response.raw.release_conn()
        response.raw.close()
        # where requests would put what it reads without a limit
        response._content = bytes(body)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        response._content_consumed = True  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def _problem(self, error: Exception, url: str) -> RegistryError:
        if self._connections.was_late():
            return RegistryTimeoutError(self.subject, f"{_host(url)}: no answer in time")
        return failures.from_exception(error, self.subject, url)

    def step(self, url: str, target: str) -> str:
        """Where ``Location`` leads from ``url``. Raises ProtocolError when nobody may be led there."""
        try:
            following = urljoin(url, target)
            old, new = urlsplit(url), urlsplit(following)
        except ValueError:
            following, old, new = "", urlsplit(url), urlsplit("")
        problem = ""
        if new.scheme not in {"http", "https"} or not new.netloc or "@" in new.netloc:
            problem = "to an address that is none"
        elif old.scheme == "https" and new.scheme == "http":
            problem = f"from https to http at {_host(following)}"
        elif not is_loopback(self.auth.host) and reaches_inside(new.hostname or ""):
            problem = f"to {_host(following)}, an address of this machine"
        if problem:
            raise ProtocolError(self.subject, f"{_host(url)} redirects {problem}")
        return following

    def wait(self, seconds: float) -> None:
        """That time has passed. Raises TransferCancelledError when the caller did not want to wait."""
        if self.cancel.wait(seconds):
            self.stop_when_cancelled()

    def stop_when_cancelled(self) -> None:
        """Nothing happens as long as the caller wants to go on. Raises TransferCancelledError."""
        if self.cancel.is_set():
            raise TransferCancelledError(self.subject, "cancelled")

    def _foreign(self, url: str | None) -> bool:
        return _origin(url or "") != self._origin


def _leave_alone(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An authentication that adds nothing: requests would otherwise add what ~/.netrc holds."""
    return request


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _slow(error: requests.RequestException) -> bool:
    return isinstance(error, requests.ConnectTimeout)

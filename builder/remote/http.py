"""One file by HTTP: asked for again only when it changed, streamed to disk, checked.

    known before                                  request                         answer
    nothing                                       GET                             200: the body is kept
    a body with the checksum that is demanded     none                            the body that is here
    a body with an ETag or Last-Modified          GET if it changed since         304, or 200 with the same strong
                                                                                  ETag: the body that is here

Invariants: what is kept is whole and hashed on the way; https is never left for http; credentials in a URL go to its
host alone and are in no message; a cancelled or broken download leaves nothing.
Source of the rules: RFC 9110 §8.8, §13 (validators and conditions), §15.4 (redirects).
"""

from __future__ import annotations

import email.message
import hashlib
import ssl
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Self
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

import requests
import urllib3.exceptions
from requests.auth import HTTPBasicAuth

from builder.convert.remote import UNNAMED
from builder.errors import FetchError
from builder.graph import HttpSource
from builder.remote.cancellation import Cancellation
from builder.remote.content import FetchedFile, Tell
from builder.remote.downloads import Download, DownloadPlace
from layers.registry import failures
from layers.registry.connections import Adapter, Connections
from layers.registry.retry import RETRIED_STATUSES, parse_retry_after, plan_delay
from layers.registry.settings import Patience

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 10
_CHUNK_BYTES = 1 << 18
_TELL_SECONDS = 0.1
_LONGEST_NAME_BYTES = 255
_UNCHANGED = 304
_WHOLE = 200


def fetch_file(
    source: HttpSource,
    root: str,
    authorization: str | None = None,
    *,
    cancel: Cancellation,
    tell: Tell = lambda _name, _done, _total: None,
    patience: Patience = Patience(),  # noqa: B008 - a value
) -> FetchedFile:
    """The file of ``source`` as the server has it now, kept in the store directory ``root``. Blocks its thread.

    ``authorization`` is said to the host of the URL and to no other.

    Raises:
        FetchError: it can't be had, or is not what ``source.checksum`` says.
        Interrupted: ``cancel`` was set.
    """
    place = DownloadPlace(root, source.url)
    wanted = source.checksum.removeprefix("sha256:")
    with (
        cancel.locked(root, f"download-{place.name}"),
        _Fetcher(source.url, authorization, patience, cancel, tell) as fetcher,
    ):
        state = _current(source, place, fetcher)
        if wanted and state.sha256 != wanted:
            message = f"{shown(source.url)}: the file has the checksum sha256:{state.sha256}, expected sha256:{wanted}"
            raise FetchError(message)
        descriptor = place.open_body(state)
    name = source.filename if source.filename != UNNAMED else _disposition_name(state.disposition) or UNNAMED
    return FetchedFile(descriptor, name, state.sha256, state.size_bytes, _seconds(state.last_modified))


def shown(url: str) -> str:
    """``url`` for people: without credentials, and without a query, which may hold some."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, _host(parts), parts.path, "", ""))


def _current(source: HttpSource, place: DownloadPlace, fetcher: _Fetcher) -> Download:
    """What the server has, in its place."""
    known = place.known()
    if known is not None and source.checksum == f"sha256:{known.sha256}":
        return known
    response = fetcher.ask(_conditions(known))
    with response:
        if known is not None and (response.status_code == _UNCHANGED or _same(response, known)):
            return known
        fetcher.refuse(response)
        body = place.new_body()
        try:
            digest, size_bytes = fetcher.receive(response, body.write)
            state = _state(response, digest, size_bytes)
            place.keep(body, state)
        except OSError as error:
            raise FetchError(f"{shown(source.url)} cannot be kept: {(error.strerror or str(error)).lower()}") from error
        finally:
            place.discard(body)
    return state


def _conditions(known: Download | None) -> dict[str, str]:
    """Headers that spare the body when it is the ``known`` one. RFC 9110, 13.1.3: an ETag makes the date needless."""
    if known is None:
        return {}
    if known.etag:
        return {"If-None-Match": known.etag}
    return {"If-Modified-Since": known.last_modified} if known.last_modified else {}


def _same(response: requests.Response, known: Download) -> bool:
    """Whether the answer, although it has a body, says that it is the known one (servers that ignore conditions)."""
    etag = response.headers.get("ETag", "")
    strong = etag.startswith('"') and etag == known.etag
    return response.status_code == _WHOLE and strong and _modified(response) == known.last_modified


def _modified(response: requests.Response) -> str:
    return response.headers.get("Last-Modified", "")


def _state(response: requests.Response, digest: str, size_bytes: int) -> Download:
    headers = response.headers
    disposition = headers.get("Content-Disposition", "")
    return Download(digest, size_bytes, headers.get("ETag", ""), _modified(response), disposition)


class _Fetcher:
    """Requests for one URL, tried again where that may help; a context manager."""

    def __init__(
        self, url: str, authorization: str | None, patience: Patience, cancel: Cancellation, tell: Tell
    ) -> None:
        self._url = url
        self._authorization = authorization
        self._patience = patience
        self._cancel = cancel
        self._tell = tell
        self._connections = Connections(patience.read_seconds)
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": "pybuild", "Accept": "*/*", "Accept-Encoding": "identity"})
        self._session.mount("http://", Adapter(self._connections))
        self._breaking = cancel.breaking(self._connections.abort)

    def __enter__(self) -> Self:
        self._breaking.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._breaking.__exit__(None, None, None)
        self._session.close()

    def ask(self, headers: Mapping[str, str]) -> requests.Response:
        """The answer behind redirects, its body not read yet; the caller closes it."""
        tries = 0
        while True:
            tries += 1
            try:
                response = self._follow(headers)
            except requests.RequestException as error:
                self._cancel.check()
                delay = plan_delay(tries, self._patience, slow=isinstance(error, requests.ConnectTimeout))
                if delay is None or isinstance(error, requests.exceptions.SSLError | requests.exceptions.InvalidURL):
                    raise self._broken(error) from error
            else:
                if response.status_code not in RETRIED_STATUSES:
                    return response
                after = parse_retry_after(response.headers.get("Retry-After"))
                delay = plan_delay(tries, self._patience, retry_after_seconds=after)
                if delay is None:
                    return response
                response.close()
            self._cancel.wait(delay)
            self._cancel.check()

    def refuse(self, response: requests.Response) -> None:
        """Raises FetchError unless the answer is a whole file."""
        if response.status_code != _WHOLE:
            reason = f" {response.reason}" if response.reason else ""
            raise FetchError(
                f"{shown(self._url)}: {failures.host_of(response.url)} answers {response.status_code}{reason}"
            )

    def receive(self, response: requests.Response, write: Callable[[bytes], object]) -> tuple[str, int]:
        """Digest and size of the body, which was given to ``write``."""
        digest = hashlib.sha256()
        done = 0
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        told = time.monotonic()
        name = f"downloading {shown(self._url)}"
        try:
            for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                self._cancel.check()
                write(chunk)
                digest.update(chunk)
                done += len(chunk)
                now = time.monotonic()
                if now - told >= _TELL_SECONDS:
                    told = now
                    self._tell(name, done, total)
        except (urllib3.exceptions.HTTPError, requests.RequestException) as error:
            self._cancel.check()
            raise self._broken(error) from error
        self._cancel.check()
        self._tell(name, done, done)
        return digest.hexdigest(), done

    def _follow(self, headers: Mapping[str, str]) -> requests.Response:
        url = self._url
        for _ in range(_MOST_REDIRECTS + 1):
            self._cancel.check()
            response = self._send(url, headers)
            target = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not target:
                return response
            response.close()
            url = self._redirected(url, urljoin(response.url, target))
        raise FetchError(f"{shown(self._url)} redirects more than {_MOST_REDIRECTS} times")

    def _send(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        parts = urlsplit(url)
        auth: Callable[[requests.PreparedRequest], requests.PreparedRequest] = _leave_alone
        headers = dict(headers)
        own = urlsplit(self._url)
        if self._authorization is not None and (parts.scheme, _host(parts)) == (own.scheme, _host(own)):
            headers["Authorization"] = self._authorization
        elif "@" in parts.netloc:
            user, _, password = parts.netloc.rpartition("@")[0].partition(":")
            auth = HTTPBasicAuth(unquote(user), unquote(password))
        plain = urlunsplit(parts._replace(netloc=_host(parts)))
        if parts.scheme == "https":
            self._session.mount("https://", Adapter(self._connections, ssl.create_default_context()))
        return self._session.get(
            plain,
            headers=headers,
            auth=auth,
            stream=True,
            allow_redirects=False,
            timeout=(self._patience.connect_seconds, self._patience.read_seconds),
            proxies={"http": "", "https": ""} if failures.is_local(plain) else None,
        )

    def _redirected(self, url: str, target: str) -> str:
        """``target`` when it may be followed."""
        old, new = urlsplit(url), urlsplit(target)
        if new.scheme not in {"http", "https"} or not new.netloc or "@" in new.netloc:
            raise FetchError(f"{shown(self._url)}: {failures.host_of(url)} redirects to an address that is none")
        if (old.scheme, new.scheme) == ("https", "http"):
            raise FetchError(f"{shown(self._url)}: {failures.host_of(url)} redirects from https to http")
        if (new.scheme, new.netloc) == (old.scheme, _host(old)):
            # the same host may have the same credentials
            return urlunsplit(new._replace(netloc=old.netloc))
        return target

    def _broken(self, error: Exception) -> FetchError:
        return FetchError(str(failures.from_exception(error, shown(self._url), self._url)))


def _host(parts: SplitResult) -> str:
    """Host and port, without credentials."""
    return parts.netloc.rpartition("@")[2]


def _leave_alone(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An authentication that adds nothing: requests would otherwise add what ~/.netrc holds."""
    return request


def _disposition_name(header: str) -> str:
    """The file name in a ``Content-Disposition`` (RFC 6266), empty when there is none that can be one."""
    if not header:
        return ""
    message = email.message.Message()
    message["Content-Disposition"] = header
    name = (message.get_filename() or "").replace("\\", "/").rpartition("/")[2]
    unusable = name in {"", ".", ".."} or "\0" in name or len(name.encode("utf-8", "replace")) > _LONGEST_NAME_BYTES
    return "" if unusable else name


def _seconds(last_modified: str) -> int:
    """The time of a ``Last-Modified``, 0 when it is none."""
    try:
        return max(0, int(parsedate_to_datetime(last_modified).timestamp()))
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0

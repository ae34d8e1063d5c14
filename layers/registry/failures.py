"""Translation of what requests and registries report into `layers.registry.errors`.

Invariants: a message names the host and port that failed and what happened there, and nothing that could be secret:
no query of a URL, no header; what a registry says is cut and made printable.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any, NoReturn, cast
from urllib.parse import urlsplit

import requests
import urllib3.exceptions

from layers.registry.errors import (
    BlobUnknownError,
    ConnectionFailedError,
    DeniedError,
    ManifestUnknownError,
    NameResolutionError,
    ProtocolError,
    RegistryError,
    RegistryTimeoutError,
    TlsError,
    UnauthorizedError,
    UnavailableError,
    printable,
)
from layers.registry.settings import is_loopback

_LONGEST_ERROR_BODY = 64 << 10
_TOO_MANY = 429
_SERVER_ERROR = 500
_BY_STATUS: dict[int, type[RegistryError]] = {401: UnauthorizedError, 403: DeniedError}
_BY_CODE: dict[str, tuple[type[RegistryError], str]] = {
    "MANIFEST_UNKNOWN": (ManifestUnknownError, "manifest unknown"),
    "NAME_UNKNOWN": (ManifestUnknownError, "repository unknown"),
    "BLOB_UNKNOWN": (BlobUnknownError, "blob unknown"),
    "UNAUTHORIZED": (UnauthorizedError, "unauthorized"),
    "DENIED": (DeniedError, "denied"),
}


_BY_CAUSE: tuple[tuple[tuple[type[BaseException], ...], type[RegistryError], str], ...] = (
    (
        (socket.gaierror, urllib3.exceptions.NameResolutionError),
        NameResolutionError,
        "the name of the host leads to no address",
    ),
    ((ConnectionRefusedError,), ConnectionFailedError, "connection refused"),
    (
        (requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError),
        RegistryTimeoutError,
        "no connection in time",
    ),
    (
        (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError),
        RegistryTimeoutError,
        "no answer in time",
    ),
    (
        (ConnectionError, urllib3.exceptions.IncompleteRead, http.client.IncompleteRead),
        ConnectionFailedError,
        "the connection broke",
    ),
    ((http.client.HTTPException,), ConnectionFailedError, "an answer that is no HTTP"),
)


def host_of(url: str) -> str:
    """``host:port`` of a URL, as far as it was written."""
    return urlsplit(url).netloc.rpartition("@")[2]


def is_local(url: str) -> bool:
    """Whether the URL leads to loopback."""
    return is_loopback(host_of(url))


def from_exception(error: Exception, subject: str, url: str) -> RegistryError:
    """The error for a conversation that did not come about, or broke."""
    host = host_of(url)
    for cause in _causes(error):
        found = _from_cause(cause, subject, host)
        if found is not None:
            return found
    return ConnectionFailedError(subject, f"{host}: {printable(type(error).__name__)}")


def _from_cause(cause: BaseException, subject: str, host: str) -> RegistryError | None:
    """The error for one link of the chain, None when the next one says more."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TlsError(subject, f"{host}: certificate refused: {printable(cause.verify_message or str(cause))}")
    if isinstance(cause, ssl.SSLError):
        return TlsError(subject, f"{host}: TLS failed: {printable((cause.reason or str(cause)).lower())}")
    if type(cause) is urllib3.exceptions.NewConnectionError:
        # a timeout by its class, whatever the reason was, which is the next link
        return None
    for kinds, error, words in _BY_CAUSE:
        if isinstance(cause, kinds):
            return error(subject, f"{host}: {words}")
    if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException) and cause.strerror:
        return ConnectionFailedError(subject, f"{host}: {cause.strerror.lower()}")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what lies behind it, in the ways requests, urllib3 and Python keep it."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [*found.args, getattr(found, "reason", None), found.__cause__, found.__context__]


def raise_for(response: requests.Response, subject: str, *, unknown: type[RegistryError] | None = None) -> NoReturn:
    """Raises the error that an answer stands for. ``unknown`` is the one for 404 without a word of explanation."""
    status = response.status_code
    code, message = _explanation(response)
    host = host_of(response.url or "")
    if status == _TOO_MANY:
        raise UnavailableError(subject, f"{host} has too many requests (429){_after(response)}{_quote(message)}")
    if status >= _SERVER_ERROR:
        raise UnavailableError(subject, f"{host} answered {status}{_after(response)}{_quote(message)}")
    if code in _BY_CODE:
        kind, words = _BY_CODE[code]
        raise kind(subject, words + _quote(message, beside=words))
    if status == requests.codes.not_found and unknown is not None:
        raise unknown(subject, "manifest unknown" if unknown is ManifestUnknownError else "blob unknown")
    if status in _BY_STATUS:
        word = "unauthorized" if status == requests.codes.unauthorized else "denied"
        raise _BY_STATUS[status](subject, f"{word} by {host}{_quote(message)}")
    raise ProtocolError(subject, f"{host} answered {status}{_quote(message or code)}")


def _after(response: requests.Response) -> str:
    value = response.headers.get("Retry-After")
    return f", to be tried after {printable(value)}" + (" s" if value.isdigit() else "") if value else ""


def _quote(message: str, *, beside: str = "") -> str:
    """What the registry said, unless it repeats our own words."""
    return "" if not message or message.lower() == beside else f": {message}"


def _explanation(response: requests.Response) -> tuple[str, str]:
    """Code and message of the first error in the body (distribution-spec, error codes); empty when there is none."""
    try:
        body = b""
        for chunk in response.iter_content(_LONGEST_ERROR_BODY):
            body += chunk
            if len(body) >= _LONGEST_ERROR_BODY:
                return "", ""
        content: object = json.loads(body)
    except (requests.RequestException, ValueError, RecursionError):
        return "", ""
    errors: object = cast("dict[str, object]", content).get("errors") if isinstance(content, dict) else None
    listed = cast("list[object]", errors) if isinstance(errors, list) else []
    first = listed[0] if listed else None
    if not isinstance(first, dict):
        return "", ""
    fields = cast("dict[str, Any]", first)
    return printable(str(fields.get("code") or "")), printable(str(fields.get("message") or ""))

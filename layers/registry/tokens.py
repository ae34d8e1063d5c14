"""Proof of identity for one registry host, shared by all sessions with it: oras' token backend, with its gaps closed.

::

    request ──401──▶ challenge ─▶ Basic:  remembered, the request is sent again with user and password
                               └▶ Bearer: realm checked ─▶ GET (user and password) or POST (identity token)
                                          ─▶ token, remembered for this scope until it expires ─▶ sent again
    401 again ──▶ UnauthorizedError

Invariants: one token a scope; a token that was refused is never sent again; credentials are looked for at the first
challenge, once; one thread at a time talks to the token server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol, cast

import requests
from oras.auth.token import TokenAuth
from oras.auth.utils import get_basic_auth

from layers.registry import credentials
from layers.registry.challenge import Challenge, check_realm, choose, parse_challenges
from layers.registry.credentials import Credentials, Found
from layers.registry.errors import DeniedError, ProtocolError, UnauthorizedError
from layers.registry.settings import RegistrySettings
from unionfs.namedtuple import NamedTuple

_DEFAULT_LIFE_SECONDS = 60.0
_MARGIN_SECONDS = 5.0
_CLIENT = "pybuild"
_OK = 200
_UNAUTHORIZED = 401
_FORBIDDEN = 403


class Exchange(Protocol):
    """How a request gets to the token server."""

    def __call__(
        self, method: str, url: str, headers: Mapping[str, str], data: Mapping[str, str] | None = None
    ) -> requests.Response:
        """The answer to one request sent as it is, retries included, no credentials added."""
        ...


class _Token(NamedTuple):
    text: str
    expires: float


class ScopedAuth(TokenAuth):  # type: ignore[misc]  # oras publishes no types
    """What to put into ``Authorization``, by scope (``repository:NAME:pull,push``). Safe for threads."""

    def __init__(self, registry: str, scheme: str, host: str, settings: RegistrySettings) -> None:
        super().__init__()
        self.registry = registry
        self.scheme = scheme
        self.host = host
        self.settings = settings
        self.given: Credentials | None = None
        self._found: Found | None = None
        self._basic = False
        self._user_and_password = ""
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._lock = threading.Lock()

    def header(self, scopes: tuple[str, ...]) -> dict[str, str]:
        """The header for a request that needs these scopes; empty when nothing is known to be needed."""
        with self._lock:
            return self._header(scopes)

    def _header(self, scopes: tuple[str, ...]) -> dict[str, str]:
        token = self._tokens.get(scopes)
        if token is not None and token.expires > time.monotonic():
            return {"Authorization": f"Bearer {token.text}"}
        return {"Authorization": f"Basic {self._user_and_password}"} if self._basic else {}

    def answer(
        self,
        challenged: requests.Response,
        scopes: tuple[str, ...],
        sent: Mapping[str, str],
        *,
        subject: str,
        repository: str,
        exchange: Exchange,
    ) -> dict[str, str]:
        """The header with which to send the request once more. ``sent`` is the one that was refused.

        Raises:
            UnauthorizedError: there is nothing to answer with, or what there is was refused.
        """
        with self._lock:
            known = self._header(scopes)
            if known and known != dict(sent):
                return known  # another thread was faster
            self._tokens.pop(scopes, None)
            challenge = choose(parse_challenges(challenged.headers.get("WWW-Authenticate", "")))
            if challenge is None:
                raise UnauthorizedError(subject, f"{self.host} refuses without saying how to authenticate")
            found = self._look_up(repository)
            if challenge.scheme == "basic":
                return self._answer_basic(found, sent, subject)
            self._tokens[scopes] = self._fetch(challenge, scopes, found, subject, exchange)
            return self._header(scopes)

    def refused(self, scopes: tuple[str, ...], subject: str) -> NoReturn:
        """What was sent last is forgotten. Raises UnauthorizedError that says what was tried."""
        with self._lock:
            self._tokens.pop(scopes, None)
            found = self._found or Found(None)
        raise UnauthorizedError(subject, self._who(found))

    def _look_up(self, repository: str) -> Found:
        if self._found is None:
            if self.given is not None:
                self._found = Found(self.given)
            else:
                self._found = credentials.find(self.registry, repository, self.settings)
            known = self._found.credentials
            if known and known.username:
                self._user_and_password = get_basic_auth(known.username, known.password)
        return self._found

    def _answer_basic(self, found: Found, sent: Mapping[str, str], subject: str) -> dict[str, str]:
        if found.credentials is None or not found.credentials.username:
            raise UnauthorizedError(subject, self._who(found))
        self._basic = True
        header = {"Authorization": f"Basic {self._user_and_password}"}
        if header == dict(sent):
            raise UnauthorizedError(subject, self._who(found))
        return header

    def _who(self, found: Found) -> str:
        """What to say when identity is the problem: what was tried."""
        if found.credentials is not None:
            origin = f"of {found.source}" if found.source else "given"
            return f"unauthorized: {self.registry} does not accept the credentials {origin}"
        remarks = "".join(f"; {remark}" for remark in found.remarks)
        return f"unauthorized: no credentials for {self.registry}{remarks}"

    def _fetch(
        self, challenge: Challenge, scopes: tuple[str, ...], found: Found, subject: str, exchange: Exchange
    ) -> _Token:
        known = found.credentials or Credentials()
        if known.registry_token:
            return _Token(known.registry_token, time.monotonic() + _DEFAULT_LIFE_SECONDS)
        realm = challenge.parameters["realm"]
        check_realm(realm, registry_scheme=self.scheme, registry_host=self.host, subject=subject)
        query = _query(challenge, scopes)
        if known.identity_token:
            form = {
                "grant_type": "refresh_token",
                "client_id": _CLIENT,
                "refresh_token": known.identity_token,
                "service": challenge.parameters.get("service", ""),
                "scope": " ".join(scope for name, scope in query if name == "scope"),
            }
            answer = exchange("POST", realm, {}, form)
        else:
            headers = {"Authorization": f"Basic {self._user_and_password}"} if known.username else {}
            url = requests.Request("GET", realm, params=query).prepare().url or realm
            answer = exchange("GET", url, headers)
        with answer:
            return self._read(answer, found, subject)

    def _read(self, answer: requests.Response, found: Found, subject: str) -> _Token:
        if answer.status_code == _UNAUTHORIZED:
            raise UnauthorizedError(subject, self._who(found))
        if answer.status_code == _FORBIDDEN:
            raise DeniedError(subject, f"the token server of {self.registry} denies access")
        if answer.status_code != _OK:
            raise ProtocolError(subject, f"the token server of {self.registry} answered {answer.status_code}")
        try:
            fields: object = answer.json()
        except (requests.RequestException, RecursionError) as error:
            raise ProtocolError(subject, f"the token server of {self.registry} did not answer with JSON") from error
        if not isinstance(fields, dict):
            raise ProtocolError(subject, f"the token server of {self.registry} did not answer with a JSON object")
        values = cast("dict[str, Any]", fields)
        text = values.get("token") or values.get("access_token")
        if not isinstance(text, str) or not text.isascii() or not text.isprintable():
            raise ProtocolError(subject, f"the token server of {self.registry} gave no token")
        life = values.get("expires_in")
        seconds = float(life) if isinstance(life, int | float) and life > 0 else _DEFAULT_LIFE_SECONDS
        return _Token(text, time.monotonic() + max(seconds - _MARGIN_SECONDS, seconds / 2))


def _query(challenge: Challenge, scopes: tuple[str, ...]) -> list[tuple[str, str]]:
    """What to ask the token server for: our scopes, and the one the registry named when it is another."""
    query: list[tuple[str, str]] = []
    if challenge.parameters.get("service"):
        query.append(("service", challenge.parameters["service"]))
    asked = challenge.parameters.get("scope", "")
    wanted = [*scopes]
    wanted += [scope for scope in asked.split() if not any(_covers(ours, scope) for ours in scopes)]
    return query + [("scope", scope) for scope in wanted]


def _covers(ours: str, theirs: str) -> bool:
    our_name, _, our_actions = ours.rpartition(":")
    name, _, actions = theirs.rpartition(":")
    return name == our_name and set(actions.split(",")) <= set(our_actions.split(","))

"""Who may do what at a `layers.testing.registry.FaultyRegistry`: basic or bearer authentication.

The bearer side is a token server of its own at ``/token`` of the same host: GET with user and password, or POST with a
refresh token (the token and OAuth2 specifications of the CNCF distribution).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from layers.testing.registry_content import Answer, Request

_NAME = re.compile(r"/v2/(?P<name>.+?)/(?:blobs|manifests|tags)/")


Issue = Callable[[str, tuple[str, ...]], str]
"""Makes the token for a user (empty: nobody) and scopes of one action each, which it grants."""


class Access:
    """Users and tokens. Whoever is in ``users`` may do all; others may pull when ``anonymous`` says so.

    ``realm`` and ``challenge`` replace what the registry would say; ``expires_in`` goes into the tokens' answers, which
    are made by ``issue``.
    """

    def __init__(
        self,
        kind: Literal["basic", "bearer"],
        users: Mapping[str, str],
        *,
        anonymous: bool = False,
        identity_tokens: Mapping[str, str] | None = None,
        realm: str | None = None,
        challenge: str | None = None,
        expires_in: int | None = None,
        issue: Issue | None = None,
    ) -> None:
        self.kind = kind
        self.users = dict(users)
        self.anonymous = anonymous
        self.identity_tokens = dict(identity_tokens or {})
        self.realm = realm
        self.challenge = challenge
        self.expires_in = expires_in
        self.issue: Issue = issue or (lambda _user, _scopes: secrets.token_urlsafe(16))
        self.granted: list[tuple[str, ...]] = []
        """The scopes of each token that was given out."""
        self._tokens: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()

    def revoke(self) -> None:
        """No token that was given out is accepted any more."""
        with self._lock:
            self._tokens.clear()

    def check(self, request: Request, host: str) -> Answer | None:
        """The refusal or, for the token server, the answer; None lets the request through."""
        if self.kind == "basic":
            return None if self._basic_user(request) else self._refuse('Basic realm="test"')
        if urlsplit(request.target).path == "/token":
            return self._give_token(request)
        needed = _needed(request)
        if self._allows(request.headers.get("authorization", ""), needed):
            return None
        scope = f',scope="{needed}"' if needed else ""
        return self._refuse(f'Bearer realm="{self.realm or f"http://{host}/token"}",service="test"{scope}')

    def _refuse(self, challenge: str) -> Answer:
        body = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}).encode()
        return Answer(401, {"WWW-Authenticate": self.challenge or challenge}, body)

    def _basic_user(self, request: Request) -> str:
        """The user whose name and password are right, or nothing."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return ""
        try:
            user, _, password = base64.b64decode(text).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return ""
        return user if password and self.users.get(user) == password else ""

    def _allows(self, authorization: str, needed: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        with self._lock:
            granted = self._tokens.get(token) if scheme == "Bearer" else None
        if granted is None:
            return False
        return not needed or set(_split(needed)) <= granted

    def _give_token(self, request: Request) -> Answer:
        if request.method == "POST":
            form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
            user = self.identity_tokens.get(form.get("refresh_token", ""), "")
            scopes = form.get("scope", "").split()
        else:
            user = self._basic_user(request)
            scopes = parse_qs(urlsplit(request.target).query).get("scope", [])
        if not user and (not self.anonymous or "authorization" in request.headers):
            return Answer(401, {}, b"{}")
        granted = frozenset(one for scope in scopes for one in _split(scope) if user or one.endswith(":pull"))
        token = self.issue(user, tuple(sorted(granted)))
        with self._lock:
            self._tokens[token] = granted
            self.granted.append(tuple(scopes))
        content: dict[str, object] = {"access_token" if request.method == "POST" else "token": token}
        if self.expires_in is not None:
            content["expires_in"] = self.expires_in
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(content).encode())


def _needed(request: Request) -> str:
    """The scope a request needs; empty for the base of the API."""
    route = _NAME.match(urlsplit(request.target).path)
    if route is None:
        return ""
    actions = "pull" if request.method in {"GET", "HEAD"} else "pull,push"
    return f"repository:{route.group('name')}:{actions}"


def _split(scope: str) -> list[str]:
    """``repository:a:pull,push`` as one scope an action."""
    name, _, actions = scope.rpartition(":")
    return [f"{name}:{action}" for action in actions.split(",")]

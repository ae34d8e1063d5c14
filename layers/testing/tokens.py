"""Tokens that a real registry believes: JWT signed with a key whose certificate it was given.

Source: the token authentication specification of the CNCF distribution ("JSON web token claims").
"""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import time
from pathlib import Path

ISSUER = "test issuer"
SERVICE = "test"
_LIFE_SECONDS = 300


class Signer:
    """A key of RSA and its certificate in the directory, made by openssl(1)."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.certificate = directory / "token.pem"
        self._key = directory / "token.key"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens"),
                *("-keyout", str(self._key), "-out", str(self.certificate)),
            ],
            check=True,
            capture_output=True,
        )

    def issue(self, user: str, scopes: tuple[str, ...]) -> str:
        """A token for the user that grants the scopes (``repository:NAME:ACTION``)."""
        actions: dict[tuple[str, str], list[str]] = {}
        for scope in scopes:
            resource, _, action = scope.rpartition(":")
            kind, _, name = resource.partition(":")
            actions.setdefault((kind, name), []).append(action)
        now = int(time.time())  # noqa: TID251 - a token holds the time of day
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "iat": now,
            "nbf": now - 10,
            "exp": now + _LIFE_SECONDS,
            "jti": secrets.token_hex(8),
            "access": [{"type": kind, "name": name, "actions": granted} for (kind, name), granted in actions.items()],
        }
        lines = self.certificate.read_text().splitlines()[1:-1]
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(lines)]}
        signed = f"{_encode(json.dumps(header).encode())}.{_encode(json.dumps(claims).encode())}"
        done = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self._key)],
            input=signed.encode(),
            capture_output=True,
            check=True,
        )
        return f"{signed}.{_encode(done.stdout)}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

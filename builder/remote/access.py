"""What a build may use to reach what lies elsewhere: its agent, and the secrets that say who asks.

    a file by HTTP      HTTP_AUTH_HEADER_<host>, HTTP_AUTH_TOKEN_<host>
    a repository        GIT_AUTH_HEADER.<host>, GIT_AUTH_TOKEN.<host>, GIT_AUTH_HEADER, GIT_AUTH_TOKEN

The first of a row that was given counts; a header is the value of ``Authorization``, a token becomes one.  They are
those of the reference frontend, and what they hold decides no key.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from urllib.parse import urlsplit

from builder.errors import FetchError
from builder.options import SecretSource
from unionfs.namedtuple import NamedTuple

_NO_SECRETS: Mapping[str, SecretSource] = {}


class Access(NamedTuple):
    """``agent`` is the socket of an SSH agent; ``local`` says that repositories on this machine may be read by path."""

    agent: str | None = None
    secrets: Mapping[str, SecretSource] = _NO_SECRETS
    local: bool = False

    def for_file(self, url: str) -> str | None:
        """The ``Authorization`` for a file, None when there is none. Raises FetchError: a secret can't be read."""
        host = urlsplit(url).hostname or ""
        header = self._read(f"HTTP_AUTH_HEADER_{host}")
        if header is not None:
            return header
        token = self._read(f"HTTP_AUTH_TOKEN_{host}")
        return None if token is None else f"Bearer {token}"

    def for_repository(self, remote: str) -> str | None:
        """The ``Authorization`` for a repository by HTTP, None when there is none. Raises FetchError."""
        host = urlsplit(remote).netloc.rpartition("@")[2]
        for end in (f".{host}", ""):
            header = self._read(f"GIT_AUTH_HEADER{end}")
            if header is not None:
                return header
            token = self._read(f"GIT_AUTH_TOKEN{end}")
            if token is not None:
                return "basic " + base64.b64encode(f"x-access-token:{token}".encode()).decode()
        return None

    def _read(self, name: str) -> str | None:
        if name not in self.secrets:
            return None
        try:
            return self.secrets[name].read().decode("utf-8", "surrogateescape").strip()
        except (OSError, KeyError) as error:
            raise FetchError(f"secret {name!r} cannot be read: {error}") from error

"""Logging in to registries, and out again.

Invariants: credentials are kept only after the registry has accepted them; they are kept where `credentials.find` looks
first, in a helper when the configuration names one, else in a file of mode 0600.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from layers.errors import FormatError
from layers.reference import Reference
from layers.registry import credentials
from layers.registry.credentials import Credentials
from layers.registry.errors import CredentialsError, printable
from layers.registry.settings import DEFAULTS, RegistrySettings, api_host


def login(
    registry: str,
    username: str,
    password: str,
    *,
    settings: RegistrySettings = DEFAULTS,
    environ: Mapping[str, str] | None = None,
    cancel: threading.Event | None = None,
) -> str:
    """The registry has accepted the credentials and they are kept; where, for people.

    Raises:
        UnauthorizedError: the registry does not accept them; nothing is kept.
        RegistryError: the registry does not answer, or the place to keep them cannot be written.
    """
    from layers.registry.workers import Transfer

    name = registry_name(registry)
    if not username or ":" in username or not password:
        raise CredentialsError(name, "a user name without colon and a password are needed")
    given = Credentials(username, password)
    with Transfer(name, "", settings, cancel, given=given) as transfer:
        transfer.call(lambda: transfer.client(api_host(name)).ping())
    return credentials.store(name, given, settings, environ)


def logout(
    registry: str, *, settings: RegistrySettings = DEFAULTS, environ: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """No credentials for the registry are kept; the places that had some, none when there were none.

    Raises:
        CredentialsError: a file or a helper cannot be changed.
    """
    return credentials.erase(registry_name(registry), settings, environ)


def logout_everywhere(
    *, settings: RegistrySettings = DEFAULTS, environ: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """No credentials for any registry are kept; the places that had some, none when there were none.

    Raises:
        CredentialsError: a file or a helper cannot be changed.
    """
    return credentials.erase_all(settings, environ)


def registry_name(text: str) -> str:
    """The registry that people mean by ``text``: a scheme, a trailing slash and the old API's path are left out.

    Raises:
        CredentialsError: the text names no registry.
    """
    name = text.removeprefix("https://").removeprefix("http://").rstrip("/").removesuffix("/v1").removesuffix("/v2")
    if name in {"", "index.docker.io", "registry-1.docker.io"}:
        return "docker.io"
    try:
        if "/" not in name and Reference.parse(f"{name}/any/thing").registry == name:
            return name
    except FormatError:
        pass
    raise CredentialsError(printable(text), "is no name of a registry, expected host[:port]")

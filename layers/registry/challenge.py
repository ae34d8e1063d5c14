"""What a registry asks for with 401, and to whom credentials may be shown: parsing and rules, no I/O.

Sources: RFC 9110 11.6.1 (``WWW-Authenticate``), RFC 6750, the token specification of the CNCF distribution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from layers.registry.errors import ProtocolError, printable
from layers.registry.settings import bracketed, is_loopback, reaches_inside
from unionfs.namedtuple import NamedTuple

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))\s*(?:,|$)')
_SCHEME = re.compile(rf"\s*({_WORD})(?=\s|,|$)(?!\s*=)\s*,?")


class Challenge(NamedTuple):
    """One way to authenticate; ``scheme`` is lower case, parameters by lower-case name."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """The challenges of a ``WWW-Authenticate`` header, in order; what cannot be read ends the list."""
    found: list[Challenge] = []
    at = 0
    while match := _SCHEME.match(header, at):
        at = match.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, at):
            name, quoted, plain = parameter.groups()
            parameters[name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            at = parameter.end()
        found.append(Challenge(match.group(1).lower(), parameters))
    return tuple(found)


def choose(challenges: tuple[Challenge, ...]) -> Challenge | None:
    """The strongest challenge that can be answered: Bearer with a realm, else Basic, else None."""
    for challenge in challenges:
        if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
            return challenge
    return next((challenge for challenge in challenges if challenge.scheme == "basic"), None)


def check_realm(realm: str, *, registry_scheme: str, registry_host: str, subject: str) -> None:
    """Nothing happens when credentials may be sent to ``realm``, else ProtocolError.

    The realm comes from the registry, so it is not believed: it must be https, or http to the registry's own host, or
    to loopback from a registry on loopback; a registry elsewhere may not send us to loopback or link-local addresses.
    """
    try:
        parts = urlsplit(realm)
    except ValueError:
        parts = urlsplit("")
    host = parts.hostname or ""
    same_host = parts.netloc == registry_host or host == (urlsplit(f"//{registry_host}").hostname or "")
    local = is_loopback(registry_host)
    good = not parts.username and not parts.password and bool(host)
    if parts.scheme == "http":
        good = good and registry_scheme == "http" and (same_host or (local and is_loopback(bracketed(host))))
    elif parts.scheme != "https":
        good = False
    if good and not local and not same_host and reaches_inside(host):
        good = False
    if not good:
        shown = printable(f"{parts.scheme}://{host}{parts.path}")
        raise ProtocolError(subject, f'token server "{shown}" is not trusted with credentials of {registry_host}')

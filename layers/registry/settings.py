"""How registries are to be reached: hosts, mirrors, trust, patience. Values and rules, no I/O.

Invariants: plain http is only ever possible for loopback hosts and for hosts that the settings call insecure;
certificates are always verified, except for the latter.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from layers.reference import DEFAULT_REGISTRY
from unionfs.namedtuple import NamedTuple

DOCKER_HUB_HOST = "registry-1.docker.io"
"""Where the registry of the name docker.io answers."""

CERTIFICATES = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
"""Where podman and docker keep what is trusted of single registries."""

_NO_MIRRORS: Mapping[str, tuple[str, ...]] = MappingProxyType({})


class Patience(NamedTuple):
    """How long to wait, and how often to try again."""

    connect_seconds: float = 4.0
    read_seconds: float = 60.0
    tries: int = 4
    first_delay_seconds: float = 0.4
    longest_delay_seconds: float = 10.0
    retry_after_limit_seconds: float = 60.0
    helper_seconds: float = 30.0


class RegistrySettings(NamedTuple):
    """Everything configurable about registries.

    ``insecure``: hosts (``name[:port]``) that may speak http, or show any certificate. ``mirrors``: registry to hosts
    that are asked first, in order (``host[:port]``). ``ca_files``: certificates trusted beside those of the system.
    ``auth_files``: files in the form of docker's ``config.json``, in place of the usual ones. ``connections``: how
    many blobs travel at a time. ``part_bytes``: blobs go up in parts of this length, 0: whole, unless the registry
    refuses that. ``certificates``: directories with one directory a host (`layers.registry.certificates`), the first
    that has one counts; ``own_certificates``: one that counts for every host instead. Without ``verify`` every host
    is as one of ``insecure``.
    """

    insecure: frozenset[str] = frozenset()
    mirrors: Mapping[str, tuple[str, ...]] = _NO_MIRRORS
    ca_files: tuple[Path, ...] = ()
    auth_files: tuple[Path, ...] = ()
    patience: Patience = Patience()
    connections: int = 4
    part_bytes: int = 0
    certificates: tuple[Path, ...] = CERTIFICATES
    own_certificates: Path | None = None
    verify: bool = True


DEFAULTS = RegistrySettings()


def split_host(host: str) -> tuple[str, int | None]:
    """Name and port of ``name[:port]``; brackets around an IPv6 address are taken off."""
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name, int(rest[1:]) if rest.startswith(":") else None
    name, colon, port = host.rpartition(":")
    return (name, int(port)) if colon else (host, None)


def is_loopback(host: str) -> bool:
    """``localhost``, 127.0.0.0/8 and ``[::1]``, with or without a port; nothing is looked up."""
    name, _ = split_host(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def reaches_inside(name: str) -> bool:
    """Whether a host's name without port means this machine, or an address that only its own link has."""
    if is_loopback(bracketed(name)):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_link_local or address.is_unspecified


def bracketed(name: str) -> str:
    """The name as it stands before a port: an IPv6 address gets its brackets."""
    return f"[{name}]" if ":" in name else name


def plain_http_allowed(host: str, settings: RegistrySettings) -> bool:
    """Whether ``host`` may be spoken to without TLS."""
    return is_loopback(host) or is_insecure(host, settings)


def is_insecure(host: str, settings: RegistrySettings) -> bool:
    """Whether ``host`` may show any certificate."""
    return not settings.verify or host in settings.insecure


def api_host(registry: str) -> str:
    """The host that answers for a registry's name."""
    return DOCKER_HUB_HOST if registry == DEFAULT_REGISTRY else registry


def hosts_for_pull(registry: str, settings: RegistrySettings) -> tuple[str, ...]:
    """The hosts to ask for content of ``registry``: its mirrors in order, then itself; none twice."""
    return tuple(dict.fromkeys((*settings.mirrors.get(registry, ()), api_host(registry))))

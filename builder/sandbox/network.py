"""What a step sees of the network: its loopback device, and the three files under /etc that speak of it.

Invariants: the texts are pure functions of what the host's files say; a step in a network namespace of its own is never
given a resolver on a loopback address, since that would be its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import socket
import struct
from collections.abc import Sequence

from builder.options import HOST_GATEWAY, Dns
from builder.sandbox import controlfiles
from builder.sandbox.spec import SandboxSpec, SpecError
from unionfs.namedtuple import NamedTuple

RESOLV_CONF = "/etc/resolv.conf"
# what systemd-resolved writes for those who can't ask its stub on 127.0.0.53 (systemd-resolved.service(8))
_UPSTREAM_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"
_PUBLIC_RESOLVERS = ("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844")

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_BYTES_OF_FOUR = 4
_LOOPBACK_OF_SIX = bytes(15) + b"\x01"


def bring_loopback_up() -> None:
    """The loopback device of this network namespace is up. netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        fcntl.ioctl(control.fileno(), _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


class Surroundings(NamedTuple):
    """Where a step is: ``resolvers`` answer there in place of the host's, if there are any; ``host`` is the host."""

    host_network: bool
    resolvers: tuple[str, ...] = ()
    host: str = "127.0.0.1"


def resolv_conf(host_text: str, dns: Dns, *, host_network: bool) -> str:
    """The text of the step's /etc/resolv.conf, from the host's.

    What ``dns`` has takes the place of the host's. In a namespace of its own a step can't reach resolvers on loopback
    addresses; they are left out, and where none remains public ones stand in, as docker does. resolv.conf(5).
    """
    lines = host_text.splitlines()
    if dns.servers:
        lines = [line for line in lines if not _is_nameserver(line)]
        lines += [f"nameserver {address}" for address in dns.servers]
    elif not host_network:
        lines = [line for line in lines if not _is_loopback_nameserver(line)]
        if not any(map(_is_nameserver, lines)):
            lines += [f"nameserver {address}" for address in _PUBLIC_RESOLVERS]
    if dns.search:
        lines = [line for line in lines if not line.startswith(("search", "domain"))]
        named = [domain for domain in dns.search if domain != "."]
        lines += [f"search {' '.join(named)}"] if named else []
    if dns.options:
        lines = [line for line in lines if not line.startswith("options")]
        lines.append(f"options {' '.join(dns.options)}")
    return "".join(f"{line}\n" for line in lines)


def hosts(hostname: str, extra_hosts: Sequence[str] = (), host: str = "127.0.0.1") -> str:
    """The text of the step's /etc/hosts: loopback names, the step's own, then ``name:address`` each.

    The address ``host-gateway`` is that of the host, ``host``.

    Raises:
        SpecError: an entry is no ``name:address``.
    """
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        f"127.0.1.1\t{hostname}",
    ]
    for entry in extra_hosts:
        name, separator, address = entry.replace("=", ":", 1).partition(":")
        address = host if address == HOST_GATEWAY else address.strip("[]")
        if not (name and separator and _is_address(address)):
            raise SpecError(f"extra host {entry!r} is no name:address")
        lines.append(f"{address}\t{name}")
    return "".join(f"{line}\n" for line in lines)


def etc_files(spec: SandboxSpec, around: Surroundings) -> dict[str, str]:
    """The files that lie over the step's own: path → text. A path that ``spec`` binds itself is left out."""
    host_text = _host_resolv_conf(host_network=around.host_network)
    dns = Dns(spec.dns or around.resolvers, spec.dns_search, spec.dns_options)
    texts = {
        RESOLV_CONF: _cached_resolv_conf(host_text, dns, host_network=around.host_network),
        "/etc/hosts": _cached_hosts(spec.hostname, spec.extra_hosts, around.host),
        "/etc/hostname": f"{spec.hostname}\n",
    }
    bound = {mount.target for mounts in (spec.binds, spec.files) for mount in mounts}
    return {path: text for path, text in texts.items() if path not in bound}


# steps of a build hardly differ in these, and parsing addresses is a tenth of a step's start
@functools.lru_cache(maxsize=16)
def _cached_resolv_conf(host_text: str, dns: Dns, *, host_network: bool) -> str:
    return resolv_conf(host_text, dns, host_network=host_network)


@functools.lru_cache(maxsize=16)
def _cached_hosts(hostname: str, extra_hosts: tuple[str, ...], host: str) -> str:
    return hosts(hostname, extra_hosts, host)


def _host_resolv_conf(*, host_network: bool) -> str:
    text = _read(RESOLV_CONF)
    if not host_network and _only_loopback(text):
        return _read(_UPSTREAM_RESOLV_CONF) or text
    return text


def _read(path: str) -> str:
    return controlfiles.read_bytes(path).decode("utf-8", "replace")


@functools.lru_cache(maxsize=4)
def _only_loopback(text: str) -> bool:
    servers = [line.split()[1] for line in text.splitlines() if _is_nameserver(line)]
    return bool(servers) and all(map(_is_loopback, servers))


def _is_nameserver(line: str) -> bool:
    words = line.split()
    return len(words) > 1 and words[0] == "nameserver"


def _is_loopback_nameserver(line: str) -> bool:
    return _is_nameserver(line) and _is_loopback(line.split()[1])


def _is_loopback(address: str) -> bool:
    packed = _packed(address)
    return packed == _LOOPBACK_OF_SIX or (len(packed) == _BYTES_OF_FOUR and packed.startswith(b"\x7f"))


def _is_address(text: str) -> bool:
    return bool(_packed(text))


def _packed(text: str) -> bytes:
    """The bytes of an address of either family, whatever its scope; none where it is no address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        # ipaddress would do it too, and takes a millisecond to load
        with contextlib.suppress(OSError, ValueError):
            return socket.inet_pton(family, text.partition("%")[0])
    return b""

"""The ports of EXPOSE: ``80``, ``53/udp``, ``8000-8010``, and the forms of ``docker run -p`` that are accepted.

Invariant: results are ``number/protocol`` with the protocol in lower case.
"""

from __future__ import annotations

from collections.abc import Iterable

_LARGEST = 65_535
_PROTOCOLS = frozenset({"tcp", "udp", "sctp"})


def parse_ports(specifications: Iterable[str]) -> tuple[str, ...]:
    """Return the ports in the order given, ranges spread out.

    Raises:
        ValueError: a specification is no port.
    """
    return tuple(port for specification in specifications for port in _parse(specification))


def split_specification(specification: str) -> tuple[str, str, str]:
    """Return address, host port and container port with protocol; the first two are empty when absent."""
    *before, container = specification.split(":")
    host = before.pop() if before else ""
    return ":".join(before), host, container


def _parse(specification: str) -> list[str]:
    address, host, container = split_specification(specification)
    number, _, protocol = container.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise ValueError(f"port {specification!r}: protocol {protocol!r} is not one of tcp, udp, sctp")
    if not number:
        raise ValueError(f"port {specification!r} has no number")
    if address:
        _check_address(specification, address)
    first, last = _parse_range(specification, number)
    if host:
        host_first, host_last = _parse_range(specification, host)
        if first != last and last - first != host_last - host_first:
            raise ValueError(f"port {specification!r}: the ranges {host} and {number} differ in length")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _parse_range(specification: str, text: str) -> tuple[int, int]:
    start, dash, end = text.partition("-")
    first = _parse_number(specification, start)
    last = _parse_number(specification, end) if dash else first
    if last < first:
        raise ValueError(f"port {specification!r}: the range {text} ends before it begins")
    return first, last


def _parse_number(specification: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > _LARGEST:
        raise ValueError(f"port {specification!r}: {text!r} is no number between 0 and {_LARGEST}")
    return int(text)


def _check_address(specification: str, address: str) -> None:
    import ipaddress

    try:
        ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError(f"port {specification!r}: {address!r} is no address") from None

"""``-p``: which ports of the machine lead to the command of ``pybuild run``. Source of the syntax: ``docker run``."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from builder.errors import UsageError
from builder.network.ports import Listener, Port, listening, publish
from builder.sandbox.client import Running

_FORM = re.compile(r"(?:(?P<outer>.*):)?(?P<inner>\d+(?:-\d+)?)(?:/(?P<protocol>tcp|udp))?", re.ASCII)
_OUTER = re.compile(r"(?:(?P<address>\[[^]]*\]|[^:]*):)?(?P<ports>\d*(?:-\d+)?)", re.ASCII)
_EXPECTED = "expected [ADDRESS:][PORT:]PORT[/tcp|udp] such as 8080:80"
_MOST = 65_535


def add_ports(parser: argparse.ArgumentParser) -> None:
    """``parser`` takes the ports of the command; `check_ports` looks whether they can be had."""
    parser.add_argument(
        "-p", "--publish", action="append", default=[], type=parse_ports, metavar="[ADDRESS:][PORT:]PORT[/udp]",
        help="let a port of this machine lead to the command's, as 8080:80 or 127.0.0.1:8080:80; one that is free when "
        "only the command's is given; ranges as 8000-8009:8000-8009",
    )  # fmt: skip


def parse_ports(text: str) -> tuple[Port, ...]:
    """The ports that ``text`` names, one but for ranges. Raises argparse.ArgumentTypeError."""
    whole = _FORM.fullmatch(text)
    outer = _OUTER.fullmatch((whole and whole["outer"]) or "")
    if whole is None or outer is None:
        raise argparse.ArgumentTypeError(f"{_EXPECTED}, got {text!r}")
    inner_ports = _range(whole["inner"], text)
    outer_ports = _range(outer["ports"], text) if outer["ports"] else [0] * len(inner_ports)
    if len(inner_ports) != len(outer_ports):
        raise argparse.ArgumentTypeError(f"expected ranges of one length, got {text!r}")
    address = _address((outer["address"] or "").strip("[]"), text)
    protocol = whole["protocol"] or "tcp"
    return tuple(Port(inner, port, address, protocol) for inner, port in zip(inner_ports, outer_ports, strict=True))


def _range(text: str, whole: str) -> list[int]:
    first, _, last = text.partition("-")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= _MOST:
        raise argparse.ArgumentTypeError(f"expected ports from 1 to {_MOST}, got {whole!r}")
    return list(range(low, high + 1))


def _address(text: str, whole: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise argparse.ArgumentTypeError(f"{_EXPECTED}, got {whole!r}") from None


def check_ports(arguments: argparse.Namespace) -> tuple[Port, ...]:
    """The ports that were asked for. Raises UsageError where the command has no network they could lead into."""
    ports = tuple(port for ports in arguments.publish for port in ports)
    if ports and arguments.network == "none":
        raise UsageError("-p: the command has no network: --network none")
    if ports and arguments.network == "host":
        _say("WARN: -p has no effect: with --network host the ports of the command are the machine's")
        return ()
    return ports


@contextmanager
def take_ports(ports: Sequence[Port]) -> Generator[tuple[Listener, ...]]:
    """See `listening`; the numbers that were left to the machine are told."""
    with listening(ports) as listeners:
        for listener in listeners:
            if not listener.port.outer:
                _say(f"port {listener.socket.getsockname()[1]} leads to {listener.port.inner}/{listener.port.protocol}")
        yield listeners


@contextmanager
def published(running: Running, listeners: Sequence[Listener]) -> Generator[None]:
    """Who comes to ``listeners`` is led to the command that runs."""
    where = running.whereabouts() if listeners else None
    if where is None:
        if listeners:
            _say("WARN: -p has no effect: the command is in no private network")
        yield
        return
    address, namespace = where
    try:
        publish(listeners, namespace, address)
    finally:
        os.close(namespace)
    yield


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")

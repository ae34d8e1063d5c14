"""Hosts, name servers, domains and resolver options of a command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from builder.cli import networks
from builder.cli.reference import parser_of
from builder.options import Dns


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("db:10.0.0.7", "db:10.0.0.7"),
        ("db=10.0.0.7", "db:10.0.0.7"),
        ("db:fe80::1", "db:fe80::1"),
        ("db:[::1]", "db:::1"),
        ("me:host-gateway", "me:host-gateway"),
        ("me=host-gateway", "me:host-gateway"),
    ],
)
def test_hosts(text: str, host: str) -> None:
    assert networks.parse_host(text) == host


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (networks.parse_host, "db", "expected NAME:ADDRESS such as db:10.0.0.7, got 'db'"),
        (networks.parse_host, ":10.0.0.7", "expected NAME:ADDRESS such as db:10.0.0.7, got ':10.0.0.7'"),
        (networks.parse_host, "db:host-gate", "expected NAME:ADDRESS such as db:10.0.0.7, got 'db:host-gate'"),
        (networks.parse_address, "one.one", "expected an address such as 10.0.0.53, got 'one.one'"),
        (networks.parse_domain, "a b", "expected a domain such as example.org, got 'a b'"),
        (networks.parse_domain, "-a", "expected a domain such as example.org, got '-a'"),
        (networks.parse_option, "ndots=2", "expected an option of resolv.conf such as ndots:2, got 'ndots=2'"),
    ],
)
def test_what_is_refused(parse: Callable[[str], str], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        parse(text)
    assert str(raised.value) == message


@pytest.mark.parametrize("words", [["build"], ["run", "image"]])
def test_dns_of_a_command_line(words: list[str]) -> None:
    command, *rest = words
    given = ["--dns", "1.1.1.1", "--dns", "::1", "--dns-search", "a.org", "--dns-option", "ndots:2"]
    parsed = parser_of(command).read([*given, *(rest or ["."])])
    assert networks.read_dns(parsed) == Dns(("1.1.1.1", "::1"), ("a.org",), ("ndots:2",))

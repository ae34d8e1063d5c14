"""Ports of a command line: docker's forms, and what is refused."""

from __future__ import annotations

import argparse

import pytest

from builder.cli.ports import check_ports, parse_ports
from builder.cli.reference import parser_of
from builder.errors import UsageError
from builder.network.ports import Port


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", (Port(80, 0),)),
        ("8080:80", (Port(80, 8080),)),
        ("8080:53/udp", (Port(53, 8080, protocol="udp"),)),
        ("127.0.0.1:8080:80", (Port(80, 8080, "127.0.0.1"),)),
        ("127.0.0.1::80", (Port(80, 0, "127.0.0.1"),)),
        ("[::1]:8080:80/tcp", (Port(80, 8080, "::1"),)),
        ("8000-8001:80-81", (Port(80, 8000), Port(81, 8001))),
        ("80-81", (Port(80, 0), Port(81, 0))),
    ],
)
def test_forms(text: str, ports: tuple[Port, ...]) -> None:
    assert parse_ports(text) == ports


@pytest.mark.parametrize(
    "text", ["", "web", "80/sctp", "0:80", "80:0", "80:70000", "9-8", "1-2:3", "a:1:2", "1:2:3:4", "-1"]
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected"):
        parse_ports(text)


def test_ports_lead_nowhere_without_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_of("run")
    with pytest.raises(UsageError, match="-p: the command has no network"):
        check_ports(parser.read(["-p", "80:80", "--network", "none", "image"]))
    assert check_ports(parser.read(["-p", "80:80", "--network", "host", "image"])) == ()
    assert "no effect" in capsys.readouterr().err
    assert check_ports(parser.read(["-p", "80:80", "-p", "81:81", "image"])) == (Port(80, 80), Port(81, 81))

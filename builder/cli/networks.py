"""The options that say what a step, or the command of ``pybuild run``, reaches of the network, and by which names.

Invariants: their spelling is docker's (``docker run``) and buildah's (``buildah build``); what is malformed is refused
before anything is built. On the cached-build path: nothing heavy is imported.
"""

from __future__ import annotations

import argparse
import re

from builder.options import HOST_GATEWAY, Dns

_DOMAIN = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?"
_OPTION = r"[a-z0-9-]+(?::[0-9]+)?"
"""Compiled when they are first asked for."""


def add_network(parser: argparse.ArgumentParser, whom: str) -> None:
    """``parser`` takes the network of ``whom``: ``RUN steps``, ``the command``; `read_dns` reads a part of it."""
    parser.add_argument(
        "--network", choices=("default", "none", "host"), default="default",
        help=f"what {whom} can reach: the outside from a network of its own, nothing, or all that this machine does",
    )  # fmt: skip
    parser.add_argument(
        "--add-host", action="append", default=[], type=parse_host, metavar="NAME:ADDRESS",
        help=f"line in /etc/hosts; the ADDRESS {HOST_GATEWAY} is that of this machine",
    )  # fmt: skip
    parser.add_argument(
        "--dns", action="append", default=[], type=parse_address, metavar="ADDRESS",
        help="name server, instead of this machine's",
    )  # fmt: skip
    parser.add_argument(
        "--dns-search", action="append", default=[], type=parse_domain, metavar="DOMAIN",
        help="domain to look names up in, instead of this machine's; . for none",
    )  # fmt: skip
    parser.add_argument(
        "--dns-option", action="append", default=[], type=parse_option, metavar="OPTION",
        help="option of the resolver such as ndots:2, instead of this machine's",
    )  # fmt: skip


def read_dns(arguments: argparse.Namespace) -> Dns:
    """How names are looked up, by the options of `add_network`."""
    return Dns(tuple(arguments.dns), tuple(arguments.dns_search), tuple(arguments.dns_option))


def parse_host(text: str) -> str:
    """``NAME:ADDRESS`` of a line in /etc/hosts, which may be written ``NAME=ADDRESS`` as well.

    Raises:
        argparse.ArgumentTypeError: the name is missing, or the address is none.
    """
    name, _, address = text.partition("=") if "=" in text else text.partition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not name or not (address == HOST_GATEWAY or _is_address(address)):
        raise argparse.ArgumentTypeError(f"expected NAME:ADDRESS such as db:10.0.0.7, got {text!r}")
    return f"{name}:{address}"


def parse_address(text: str) -> str:
    """The address of a name server. Raises argparse.ArgumentTypeError."""
    if not _is_address(text):
        raise argparse.ArgumentTypeError(f"expected an address such as 10.0.0.53, got {text!r}")
    return text


def parse_domain(text: str) -> str:
    """A domain, or ``.`` for none. Raises argparse.ArgumentTypeError."""
    if text != "." and not re.fullmatch(_DOMAIN, text):
        raise argparse.ArgumentTypeError(f"expected a domain such as example.org, got {text!r}")
    return text


def parse_option(text: str) -> str:
    """An option of resolv.conf(5). Raises argparse.ArgumentTypeError."""
    if not re.fullmatch(_OPTION, text):
        raise argparse.ArgumentTypeError(f"expected an option of resolv.conf such as ndots:2, got {text!r}")
    return text


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

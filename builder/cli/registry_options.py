"""Options by which a command reaches a registry otherwise than the configuration says, spelled as podman spells them.

Invariants: they change nothing for other registries than those the command names; no option holds a secret, since
everybody on a machine may see command lines.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli.arguments import parse_switch
from builder.cli.parser import ArgumentParser
from builder.configuration import read_registry_settings
from builder.errors import UsageError

if TYPE_CHECKING:
    from layers.registry.settings import RegistrySettings

NO_SECRETS = {
    "--creds": "everybody may see it in the list of processes: pybuild login --password-stdin keeps credentials",
    "-p": "everybody may see it in the list of processes: --password-stdin reads the password",
    "--password": "everybody may see it in the list of processes: --password-stdin reads it",
}
"""Options of docker and podman that are refused, and what to do instead."""


def add_registry_options(parser: ArgumentParser, sides: tuple[str, ...] = ("",)) -> None:
    """The command takes ``--authfile``, ``--cert-dir`` and ``--tls-verify``, once for each of ``sides``.

    A side that is not the empty one (``src``) has options of its own (``--src-authfile``), which win.
    """
    for side in sides:
        prefix = f"--{side}-" if side else "--"
        of = {"": "", "src": " of SOURCE", "dest": " of TARGET"}[side]
        parser.add_argument(f"{prefix}authfile", metavar="FILE", help=f"credentials{of}, in place of the usual files")
        parser.add_argument(
            f"{prefix}cert-dir", metavar="DIR", help=f"certificates{of}: *.crt to trust, *.cert and *.key to show"
        )
        parser.add_argument(
            f"{prefix}tls-verify",
            metavar="BOOL",
            type=parse_switch,
            help=f"false: the registry{of} may show any certificate, or speak http",
        )


def registry_settings(arguments: argparse.Namespace, registry: str, side: str = "") -> RegistrySettings:
    """What the configuration and the options say for ``registry``.

    Raises:
        UsageError: the configuration makes no sense, or a file or directory is not there.
    """
    settings = read_registry_settings(os.environ)
    authfile = _value(arguments, side, "authfile")
    if authfile is not None:
        settings = settings._replace(auth_files=(Path(os.path.abspath(str(authfile))),))
    directory = _value(arguments, side, "cert_dir")
    if directory is not None:
        if not os.path.isdir(str(directory)):
            raise UsageError(f"--cert-dir: there is no directory {directory!r}")
        settings = settings._replace(own_certificates=Path(os.path.abspath(str(directory))))
    verify = _value(arguments, side, "tls_verify")
    if verify is False:
        settings = settings._replace(insecure=settings.insecure | {registry})
    elif verify is True:
        settings = settings._replace(insecure=settings.insecure - {registry})
    return settings


def _value(arguments: argparse.Namespace, side: str, name: str) -> object:
    values = vars(arguments)
    own = values.get(f"{side}_{name}") if side else None
    return values.get(name) if own is None else own

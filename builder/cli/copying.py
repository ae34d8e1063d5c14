"""``pybuild copy``: an image from one place to another, unchanged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

from builder.cli.images import create_parser
from builder.cli.parser import ArgumentParser
from builder.cli.registry_options import NO_SECRETS, add_registry_options, registry_settings
from builder.cli.transfer import transfer_progress
from builder.errors import BuildError, UsageError
from layers import platform
from layers.errors import ImageNotFoundError
from layers.reference import Reference
from layers.store import Store

if TYPE_CHECKING:
    import argparse

    from layers.copying.addresses import Address
    from layers.pack import Sink
    from layers.registry.settings import RegistrySettings


def parser_copy() -> ArgumentParser:
    """The options of ``pybuild copy``."""
    parser = create_parser(
        "copy",
        "Copy an image between registries, layouts, archives and the store, with all its platforms.\n\n"
        "SOURCE and TARGET are docker://NAME, oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME],\n"
        "or the NAME of an image in the store.",
        "pybuild copy docker://registry.example/hello:1 oci:layout:1",
    )
    parser.refused = NO_SECRETS
    parser.add_argument("source", metavar="SOURCE", help="where the image is")
    parser.add_argument("target", metavar="TARGET", help="where it goes")
    parser.add_argument("--platform", metavar="OS/ARCH", help="only this one of a multi-platform image")
    parser.add_argument("--referrers", action="store_true", help="what is attached to the image as well")
    add_registry_options(parser, ("", "src", "dest"))
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    return parser


def command_copy(words: Sequence[str]) -> int:
    """The image is at the target; the digest of its manifest is on stdout."""
    arguments = parser_copy().read(words)
    from layers.copying import addresses
    from layers.copying.copy import Sides, Wanted, copy

    source, target = addresses.parse(arguments.source), addresses.parse(arguments.target)
    if source == target:
        raise UsageError(f"source and target are both {arguments.source!r}")
    wanted = Wanted(
        None if arguments.platform is None else platform.parse(arguments.platform), referrers=arguments.referrers
    )
    sides = Sides(_settings(arguments, source, "src"), _settings(arguments, target, "dest"), _output(target))
    with Store(arguments.root) as store:
        progress = transfer_progress(quiet=arguments.quiet)
        try:
            digest = copy(store, source, target, wanted, sides, progress=progress)
        except ImageNotFoundError as error:
            if source.kind != "store":
                raise BuildError(str(error)) from error
            hints = (f"docker://{source.name} is the one in a registry", "pybuild images lists what is there")
            raise BuildError(str(error), hints=hints) from error
    sys.stdout.write(f"{digest}\n")
    return 0


def _settings(arguments: argparse.Namespace, address: Address, side: str) -> RegistrySettings:
    registry = Reference.parse(address.name).registry if address.kind == "docker" else ""
    return registry_settings(arguments, registry, side)


def _output(target: Address) -> Callable[[], AbstractContextManager[Sink]] | None:
    if target.kind not in {"oci-archive", "docker-archive"}:
        return None
    from builder.destination import destination

    return lambda: cast("AbstractContextManager[Sink]", destination(target.path))

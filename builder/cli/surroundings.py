"""What ``pybuild run`` and ``pybuild shell`` have in common: who a command is, what it sees, may do and may use.

Invariants: what makes no sense together is refused before anything is opened. Source of the options: ``docker run``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping

from builder.cli.arguments import add_capabilities, parse_assignments, parse_switch
from builder.cli.environment import check_variables, read_env_file
from builder.cli.limits import add_limits, read_limits
from builder.cli.networks import add_network, read_dns
from builder.cli.parser import ArgumentParser
from builder.cli.volumes import Volume, check_targets, parse_mount, parse_tmpfs, parse_volume
from builder.errors import BuildError, UsageError
from builder.limits import Limits
from builder.runtimes import find_runtime
from builder.sandbox.spec import HOSTNAME, SandboxSpec, User
from builder.steps.demands import sandbox_network
from builder.steps.roots import Root, resolve_user
from unionfs.namedtuple import NamedTuple


def add_surroundings(parser: ArgumentParser) -> None:
    """``parser`` takes what ``run`` and ``shell`` have in common: environment, mounts, privileges, limits."""
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="environment variable")
    parser.add_argument(
        "--env-file", action="append", default=[], metavar="FILE", help="environment variables, one a line; -e wins"
    )
    parser.add_argument("-u", "--user", metavar="USER[:GROUP]", help="names of the image, or numbers")
    parser.add_argument("-w", "--workdir", metavar="DIR", help="working directory in the image, made when missing")
    parser.add_argument(
        "-v", "--volume", action="append", default=[], type=parse_volume, dest="volumes", metavar="SOURCE:TARGET[:ro]",
        help="show the command a directory or file of this machine; a relative SOURCE begins with ./ or has a slash",
    )  # fmt: skip
    parser.add_argument(
        "--mount", action="append", default=[], type=parse_mount, dest="volumes", metavar="type=TYPE,…",
        help="the same: type=bind,source=PATH,target=PATH[,readonly], or type=tmpfs,target=PATH[,tmpfs-size=SIZE]",
    )  # fmt: skip
    parser.add_argument(
        "--tmpfs", action="append", default=[], type=parse_tmpfs, dest="volumes", metavar="TARGET[:size=SIZE]",
        help="an empty directory in memory",
    )  # fmt: skip
    parser.add_argument("--read-only", action="store_true", help="the root cannot be written")
    add_network(parser, "the command")
    parser.add_argument("--hostname", metavar="NAME", help=f"{HOSTNAME} when left out")
    add_capabilities(parser, "the command")
    parser.add_argument(
        "--privileged", action="store_true", help="all capabilities and system calls, and a writable /sys"
    )
    parser.add_runtime()
    add_limits(parser, "the command")
    parser.add_argument(
        "--sig-proxy", type=parse_switch, default=True, metavar="BOOL",
        help="hand signals on to the command, the third that is to end it as SIGKILL; true when left out",
    )  # fmt: skip


def check_surroundings(arguments: argparse.Namespace) -> None:
    """What `add_surroundings` took makes sense together; what has no effect has been told.

    Raises:
        UsageError: it does not.
    """
    if arguments.tty and arguments.interactive and not os.isatty(0):
        raise UsageError("-t: stdin is no terminal", hints=("-i without -t hands on what stdin gives",))
    if arguments.workdir is not None and not arguments.workdir.startswith("/"):
        raise UsageError(f"-w: expected an absolute path, got {arguments.workdir!r}")
    check_variables(arguments.env)
    read_limits(arguments)
    try:
        check_targets(arguments.volumes)
    except argparse.ArgumentTypeError as error:
        raise UsageError(str(error)) from error
    for volume in arguments.volumes:
        if volume.note:
            warn(volume.note)


def warn(text: str) -> None:
    """``text`` is a warning on stderr."""
    sys.stderr.write(f"WARN: {text}\n")


class Identity(NamedTuple):
    """Who a command is, and where that one is at home."""

    user: User
    home: str


def find_identity(given: str | None, otherwise: str, root: Root) -> Identity:
    """Who ``given`` by ``-u`` is in the image, or else ``otherwise``. Raises BuildError."""
    try:
        return Identity(*resolve_user(otherwise if given is None else given, root))
    except BuildError as error:
        if given is None:
            raise
        raise UsageError(f"-u {given}: {error.__cause__}") from error


def given_variables(arguments: argparse.Namespace) -> Mapping[str, str]:
    """The variables of ``--env-file`` and ``-e``. Raises UsageError."""
    environment = dict(os.environ)
    variables: dict[str, str] = {}
    for path in arguments.env_file:
        variables |= read_env_file(path, environment)
    return variables | parse_assignments(arguments.env, environment)


def surround(spec: SandboxSpec, arguments: argparse.Namespace) -> SandboxSpec:
    """``spec`` with the mounts, limits and privileges that `add_surroundings` took; what was not said is as it was."""
    volumes: list[Volume] = arguments.volumes
    dns = read_dns(arguments)
    limits = read_limits(arguments)
    return spec._replace(
        hostname=arguments.hostname or spec.hostname,
        network=spec.network if arguments.network is None else sandbox_network("default", arguments.network),
        binds=(*spec.binds, *(volume.bind for volume in volumes if volume.bind)),
        tmpfs=(*spec.tmpfs, *(volume.tmpfs for volume in volumes if volume.tmpfs)),
        limits=spec.limits if limits == Limits() else limits,
        security="insecure" if arguments.privileged else spec.security,
        cap_add=(*spec.cap_add, *arguments.cap_add),
        cap_drop=(*spec.cap_drop, *arguments.cap_drop),
        read_only_root=arguments.read_only,
        extra_hosts=(*spec.extra_hosts, *arguments.add_host),
        dns=dns.servers or spec.dns,
        dns_search=dns.search or spec.dns_search,
        dns_options=dns.options or spec.dns_options,
        tty=arguments.tty,
        runtime=None if arguments.runtime is None else find_runtime(arguments.runtime),
    )

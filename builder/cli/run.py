"""``pybuild run``: a command in an image, in the sandbox that build steps run in.

What the command writes is thrown away when it ends, but for what it writes to directories that ``-v`` shows it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from builder.cli.arguments import parse_assignments
from builder.cli.attend import Signals, Stdio, attend
from builder.cli.environment import compose
from builder.cli.images import create_parser
from builder.cli.parser import ArgumentParser
from builder.cli.ports import add_ports, check_ports, published, take_ports
from builder.cli.surroundings import (
    add_surroundings,
    check_surroundings,
    find_identity,
    given_variables,
    surround,
    warn,
)
from builder.errors import BuildError, UsageError
from builder.network.ports import Listener
from builder.rootless import become_root
from builder.running import Started, fresh_root, started
from builder.sandbox.spec import HOSTNAME, SandboxResult, SandboxSpec
from builder.session import Session
from builder.steps.roots import Root
from layers.config import ImageConfig
from layers.ensure import ensure_unpacked
from layers.store import StoredImage

_NOTHING_STAYS = "the command ends with this one, and what it writes goes with it"
_IN_FRONT = "the command runs in front, as a program of the shell; & puts it behind"
REFUSED = {
    "-d": _IN_FRONT,
    "--detach": _IN_FRONT,
    "--detach-keys": _IN_FRONT,
    "-a": "stdout and stderr are attached, and stdin with -i",
    "--attach": "stdout and stderr are attached, and stdin with -i",
    "--restart": _NOTHING_STAYS,
    "--cidfile": _NOTHING_STAYS,
    "--health-cmd": _NOTHING_STAYS,
    "--link": "there are no other containers",
    "--volumes-from": "there are no other containers",
    "-P": "-p publishes the ports that are named",
    "--publish-all": "-p publishes the ports that are named",
    "--platform": "an image in the store is of one platform",
    "--device": "the command has the usual devices",
    "--userns": "a plain user has a user namespace, root has none",
    "--pid": "the command has a pid namespace of its own",
    "--ipc": "the command has an ipc namespace of its own",
    "--uts": "the command has a host name of its own: --hostname",
    "--security-opt": "the sandbox is weakened by --cap-add and --privileged alone",
}
"""Option → why it is not there."""
_MIB = 1 << 20


def parser_run() -> ArgumentParser:
    """The options of ``pybuild run``."""
    parser = create_parser(
        "run", "Run a command in an image.", "pybuild run -it -v .:/work -w /work debian:bookworm bash"
    )
    parser.refused = REFUSED
    parser.add_argument("-i", "--interactive", action="store_true", help="hand stdin on to the command")
    parser.add_argument("-t", "--tty", action="store_true", help="give the command a terminal")
    add_surroundings(parser)
    add_ports(parser)
    parser.add_argument("--rm", action="store_true", help="accepted: what the command writes never stays")
    parser.add_argument("--init", action="store_true", help="accepted: the command is never process 1")
    parser.add_argument("--name", metavar="NAME", help="accepted without effect: nothing refers to a running command")
    parser.add_argument("--entrypoint", metavar="PROGRAM", help='program instead of ENTRYPOINT and CMD, "" for none')
    parser.add_isolation()
    parser.add_argument("image", metavar="IMAGE", help="name, id or the beginning of an id")
    command = parser.add_argument("command", metavar="COMMAND", nargs="...", help="instead of the image's CMD")
    command.required = False
    return parser


def command_run(words: Sequence[str]) -> int:
    """Exit status of the command."""
    arguments = parser_run().read(words)
    check_surroundings(arguments)
    ports = check_ports(arguments)
    if arguments.name is not None:
        warn("--name has no effect: nothing refers to a running command")
    become_root(arguments.isolation)
    with (
        Signals(hand_on=arguments.sig_proxy) as signals,
        Session(arguments.root, isolation=arguments.isolation) as session,
    ):
        with session.pins.looking():
            image = session.store.image(arguments.image)
            session.pins.pin(image.config.rootfs.chain_ids[-1:])
        chain = ensure_unpacked(session.store, image.manifest, image.config)
        with fresh_root(session, chain) as root, take_ports(ports) as listeners:
            spec = _spec(image, arguments, root)
            return run_spec(spec, root, session, signals, interactive=arguments.interactive, listeners=listeners)


def _spec(image: StoredImage, arguments: argparse.Namespace, root: Root) -> SandboxSpec:
    config = image.config
    user, home = find_identity(arguments.user, config.user, root)
    env = compose(
        parse_assignments(config.env, {}),
        given_variables(arguments),
        home=home,
        hostname=arguments.hostname or HOSTNAME,
        tty=arguments.tty,
    )
    spec = SandboxSpec(
        argv=_command(config, arguments.entrypoint, arguments.command),
        env=tuple(env),
        cwd=arguments.workdir or config.working_dir or "/",
        user=user,
    )
    return surround(spec, arguments)


def _command(config: ImageConfig, entrypoint: str | None, words: Sequence[str]) -> tuple[str, ...]:
    """What is run: the entry point, and the words given or else the image's."""
    given = tuple(words[1:] if words and words[0] == "--" else words)
    start = config.entrypoint if entrypoint is None else tuple(filter(None, (entrypoint,)))
    rest = given or (config.cmd if entrypoint is None else ())
    if not (*start, *rest):
        _refuse_nothing(entrypoint)
    return (*start, *rest)


def _refuse_nothing(entrypoint: str | None) -> NoReturn:
    if entrypoint is None:
        raise UsageError("the image has neither ENTRYPOINT nor CMD, and no command was given")
    raise UsageError('--entrypoint "" leaves no program, and no command was given')


def run_spec(
    spec: SandboxSpec,
    root: Root,
    session: Session,
    signals: Signals,
    *,
    interactive: bool,
    mount_fds: Sequence[int] = (),
    listeners: Sequence[Listener] = (),
) -> int:
    """Exit status of the command of ``spec``, once it has ended and all it wrote is written; ``listeners`` lead to it.

    Raises:
        BuildError: it could not be run.
    """

    @contextmanager
    def start(stdio: Stdio) -> Generator[Started]:
        with started(session, root, spec, *stdio, mount_fds) as command, published(command.running, listeners):
            yield command

    result = attend(start, signals, interactive=interactive, tty=spec.tty)
    return status_of(result)


def status_of(result: SandboxResult) -> int:
    """The exit status that ``result`` means; what the user has to know beside it has been told. Raises BuildError."""
    for warning in result.warnings:
        warn(warning)
    if result.error is not None:
        raise BuildError(f"command could not be run: {result.error}", exit_status=result.status or 1)
    if result.oom is not None:
        limit, peak = (f"{number / _MIB:.0f} MiB" for number in result.oom)
        sys.stderr.write(f"error: out of memory at the limit of {limit} (peak {peak})\n")
    return result.status

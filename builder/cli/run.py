"""``pybuild run``: a command in an image, in the sandbox that build steps run in.

What the command writes is thrown away when it ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

from builder.cli.arguments import parse_assignments
from builder.cli.images import create_parser
from builder.cli.limits import add_limits, read_limits
from builder.cli.parser import ArgumentParser
from builder.errors import BuildError, UsageError
from builder.rootless import become_root
from builder.sandbox.client import Running
from builder.sandbox.spec import SandboxSpec
from builder.servers import Servers
from builder.session import Session
from builder.steps.demands import sandbox_network
from builder.steps.run import Root, make_scaffold, mount_root, resolve_user
from layers.config import ImageConfig
from layers.digest import ChainId
from layers.ensure import ensure_unpacked


def parser_run() -> ArgumentParser:
    """The options of ``pybuild run``."""
    parser = create_parser("run", "Run a command in an image.", "pybuild run -it debian:bookworm bash")
    parser.add_argument("-i", "--interactive", action="store_true", help="keep stdin open")
    parser.add_argument("-t", "--tty", action="store_true", help="give the command a terminal")
    parser.add_argument("--rm", action="store_true", help="accepted: what the command writes never stays")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="environment variable")
    parser.add_argument("-u", "--user", help="name or number, with or without :group")
    parser.add_argument("-w", "--workdir", metavar="DIR", help="working directory in the image")
    parser.add_argument("--entrypoint", help="program instead of the image's ENTRYPOINT")
    parser.add_argument(
        "--network", choices=("default", "none", "host"), default="default", help="what the command reaches"
    )
    parser.add_argument("--read-only", action="store_true", help="the root cannot be written")
    add_limits(parser, "the command")
    parser.add_argument("image", metavar="IMAGE", help="name, id or the beginning of an id")
    command = parser.add_argument("command", metavar="COMMAND", nargs="...", help="instead of the image's CMD")
    command.required = False
    return parser


def command_run(words: Sequence[str]) -> int:
    """Exit status of the command."""
    arguments = parser_run().read(words)
    if arguments.tty and not sys.stdin.isatty():
        raise UsageError("-t: stdin is no terminal")
    limits = read_limits(arguments)
    become_root()
    with Session(arguments.root) as session:
        image = session.store.image(arguments.image)
        chain = ensure_unpacked(session.store, image.manifest, image.config)
        with _fresh_root(session, chain) as root:
            user, home = resolve_user(arguments.user or image.config.user, root)
            spec = SandboxSpec(
                argv=_command(image.config, arguments.entrypoint, arguments.command),
                env=_environment(image.config, arguments.env, home, tty=arguments.tty),
                cwd=arguments.workdir or image.config.working_dir or "/",
                user=user,
                network=sandbox_network("default", arguments.network),
                limits=limits,
                read_only_root=arguments.read_only,
                tty=arguments.tty,
            )
            return _run(spec, root, session, interactive=arguments.interactive)


def _command(config: ImageConfig, entrypoint: str | None, words: Sequence[str]) -> tuple[str, ...]:
    """What is run: the entry point, and the words given or else the image's."""
    given = tuple(words[1:] if words and words[0] == "--" else words)
    start = config.entrypoint if entrypoint is None else (entrypoint,)
    rest = given or (config.cmd if entrypoint is None else ())
    if not (*start, *rest):
        raise UsageError("the image has neither ENTRYPOINT nor CMD, and no command was given")
    return (*start, *rest)


def _environment(config: ImageConfig, given: Sequence[str], home: str, *, tty: bool) -> tuple[str, ...]:
    variables = {"HOME": home} | ({"TERM": os.environ.get("TERM", "xterm")} if tty else {})
    variables |= parse_assignments(config.env, {}) | parse_assignments(given, dict(os.environ))
    return tuple(f"{name}={value}" for name, value in variables.items())


@contextlib.contextmanager
def _fresh_root(session: Session, chain: ChainId | None) -> Generator[Root]:
    """A root on the layers of ``chain``, whose upper branch is gone afterwards."""
    active = session.snapshotter.prepare("run", chain)
    try:
        yield Root(active.path, () if chain is None else session.snapshotter.view(chain))
    finally:
        session.snapshotter.remove(active)


def _run(spec: SandboxSpec, root: Root, session: Session, *, interactive: bool) -> int:
    servers: Servers = session.servers
    scaffold = make_scaffold(Path(session.root) / "scaffold")
    mount = mount_root(servers, root, scaffold)
    try:
        stdin = 0 if interactive else None
        with servers.sandbox.run(spec, root_fd=mount.fd, stdin=stdin, stdout=1, stderr=2) as running:
            os.close(mount.fd)
            if running.console is not None:
                from builder.cli.terminal import relay

                relay(running, running.console)
            return _status(running)
    finally:
        with open(mount.ended, "rb") as ended:
            ended.read()


def _status(running: Running) -> int:
    result = running.result()
    if result.error is not None:
        raise BuildError(f"command could not be run: {result.error}", exit_status=result.status or 1)
    if result.oom is not None:
        sys.stderr.write(f"ERROR: out of memory at the limit of {result.oom.limit_bytes} bytes\n")
    return result.status

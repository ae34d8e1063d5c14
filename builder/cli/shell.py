"""``pybuild shell [IMAGE][@STEP]``: look around in the files of a step. ``pybuild resume``: build again what failed.

Invariants: what is typed changes nothing: it is written to a branch of its own, and gone when the shell ends; a step
that failed is as its command left it, also for the next who looks.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

from builder import failedsteps
from builder.buildrecord import BuildRecord, RecordedStep, path_of, read_record, record_of_image
from builder.cli.arguments import parse_assignments
from builder.cli.attend import Signals
from builder.cli.environment import compose
from builder.cli.images import create_parser
from builder.cli.parser import ArgumentParser
from builder.cli.run import run_spec
from builder.cli.surroundings import (
    add_surroundings,
    check_surroundings,
    find_identity,
    given_variables,
    surround,
    warn,
)
from builder.errors import BuildError
from builder.results import LayerResult
from builder.rootless import become_root
from builder.running import fresh_root, overlaid
from builder.sandbox.spec import HOSTNAME, SandboxSpec
from builder.session import Session
from builder.steps.demands import sandbox_network
from builder.steps.roots import Root
from layers.digest import ChainId, Digest
from layers.errors import LayersError
from unionfs.namedtuple import NamedTuple

_BY_DIGEST = re.compile(r".*@sha256:[0-9a-f]{64}")
_USUAL_SHELL = "/bin/sh"
# whatever lies in the image: bash where there is one
_SHELL = (_USUAL_SHELL, "-c", "command -v bash >/dev/null 2>&1 && exec bash; exec sh")


def parser_shell() -> ArgumentParser:
    """The options of ``pybuild shell``."""
    parser = create_parser(
        "shell",
        "Look around in a step: its files, its environment, its user. Nothing that is typed changes it.",
        "pybuild shell hello@2",
    )
    parser.add_argument("--before", action="store_true", help="the files as they were before the step")
    add_surroundings(parser)
    parser.set_defaults(network=None)
    parser.add_isolation()
    target = parser.add_argument(
        "target", metavar="[IMAGE][@STEP]", nargs="?", default="@",
        help="the step that failed last when left out; STEP is a number as the progress shows it, STAGE, STAGE:NUMBER, "
        "or :LINE of the Dockerfile",
    )  # fmt: skip
    target.required = False
    command = parser.add_argument("command", metavar="COMMAND", nargs="...", help="instead of a shell")
    command.required = False
    return parser


def command_shell(words: Sequence[str]) -> int:
    """Exit status of the shell."""
    arguments = parser_shell().read(words)
    arguments.interactive, arguments.tty = True, os.isatty(0) and os.isatty(1)
    check_surroundings(arguments)
    become_root(arguments.isolation)
    image, step = split_target(arguments.target)
    with (
        Signals(hand_on=arguments.sig_proxy) as signals,
        Session(arguments.root, isolation=arguments.isolation) as session,
        contextlib.ExitStack() as stack,
    ):
        scene = find_scene(session, image, step, stack, before=arguments.before)
        with _root_of(session, scene) as root, overlaid(session, _spec(scene, arguments, root)) as (above, mount_fds):
            # what -v shows is the user's own, and no affair of the step
            spec = surround(above, arguments)
            _announce(scene, spec)
            try:
                return run_spec(spec, root, session, signals, interactive=True, mount_fds=mount_fds)
            except BuildError as error:
                if spec.argv == _SHELL and f'"{_USUAL_SHELL}"' in error.message:
                    error.hints = ("the image has no shell; pybuild shell TARGET PROGRAM runs another program of it",)
                raise


def split_target(text: str) -> tuple[str, str]:
    """Image and step of ``IMAGE@STEP``; the digest of an image is no step."""
    image, separator, step = text.rpartition("@")
    if not separator or _BY_DIGEST.fullmatch(text):
        return text, ""
    return image, step


class Scene(NamedTuple):
    """Where somebody walks in: a step of a build, after it or ``before``; ``failed`` where it is the one that did."""

    record: BuildRecord
    place: int
    before: bool
    failed: failedsteps.FailedStep | None = None

    @property
    def step(self) -> RecordedStep:
        """The step."""
        return self.record.steps[self.place]

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """Those its files lie on. Raises BuildError where a step was not done."""
        return self.record.stack(self.step.base if self.before or self.failed else self.place)


def find_scene(session: Session, image: str, step: str, stack: contextlib.ExitStack, *, before: bool) -> Scene:
    """The scene of the step; what is held for it is let go with ``stack``. Raises BuildError: there is none."""
    if not image:
        failed = failedsteps.newest(session.root)
        stack.callback(os.close, failed.lock)
        place = failed.record.find(step)
        return Scene(failed.record, place, before, failed if place == failed.record.last and not before else None)
    stored = session.store.image(image)
    record = read_record(path_of(session.root, stored.id))
    if record is None:
        record = record_of_image(image, stored.manifest, stored.config)
        if step:
            warn("the image was not built here: variables and user are those of the whole image")
    return Scene(record, record.find(step), before)


@contextlib.contextmanager
def _root_of(session: Session, scene: Scene) -> Generator[Root]:
    """The files of the scene, with a branch of their own for what is written."""
    layers = scene.layers
    with session.pins.looking():
        session.pins.pin([layer.chain_id for layer in layers[-1:]])
    try:
        session.ensure_unpacked(layers)
    except LayersError as error:
        message = f"layers of step {scene.step.title!r} are not here any more: {error}"
        raise BuildError(message, hints=("the same build makes them again",)) from error
    chain = ChainId(Digest(layers[-1].chain_id)) if layers else None
    above: tuple[Path, ...] = (scene.failed.path / "fs",) if scene.failed else ()
    with fresh_root(session, chain, above) as root:
        yield root


def _spec(scene: Scene, arguments: argparse.Namespace, root: Root) -> SandboxSpec:
    given = given_variables(arguments)
    setting = scene.step.setting
    if scene.failed is not None:
        spec, gone = failedsteps.with_secrets(scene.failed)
        for name in gone:
            warn(f"secret {name!r} is not where it was")
        spec = spec._replace(binds=tuple(bind for bind in spec.binds if bind.fd is not None or _exists(bind.source)))
        variables = parse_assignments(spec.env, {})
    else:
        spec = SandboxSpec(
            argv=("-",),
            cwd=setting.cwd,
            network=sandbox_network("default", scene.step.network),
            security="insecure" if scene.step.security == "insecure" else "sandbox",
        )
        variables = parse_assignments(setting.env, {})
    if scene.failed is None or arguments.user is not None:
        user, home = find_identity(arguments.user, setting.user, root)
    else:
        user, home = spec.user, variables.get("HOME", "/")
    env = compose(
        variables, given, home=home, hostname=arguments.hostname or spec.hostname or HOSTNAME, tty=arguments.tty
    )
    return spec._replace(
        argv=_command(arguments.command, setting.shell),
        env=tuple(env),
        cwd=arguments.workdir or spec.cwd,
        user=user,
    )


def _exists(source: str) -> bool:
    """Whether a mount's source is still there; of one that is not the user is told."""
    if os.path.exists(source):
        return True
    warn(f"mount {source!r} is not there any more")
    return False


def _command(words: Sequence[str], shell: Sequence[str]) -> tuple[str, ...]:
    """What is run: the words given, or the shell of SHELL, or one of the image's."""
    given = tuple(words[1:] if words and words[0] == "--" else words)
    if given:
        return given
    return (shell[0],) if shell and shell[0] != _USUAL_SHELL else _SHELL


def _announce(scene: Scene, spec: SandboxSpec) -> None:
    """Where the user is, on stderr, when a person is there."""
    if not spec.tty:
        return
    how = "as the failed" if scene.failed else "before the" if scene.before else "after the"
    left = " command left it" if scene.failed else ""
    sys.stderr.write(
        f"{how} step{left}: {scene.step.title}\nwhat is written here is thrown away; exit or Ctrl-D leaves\n"
    )


def after_failure(kept: str, words: list[str], arguments: argparse.Namespace) -> None:
    """The build's command line is noted, and the user knows, or has had, the two commands that help.

    ``words`` are those of the build that left a step in ``kept``.
    """
    failedsteps.write_command(Path(kept), words)
    answer = arguments.on_failure
    if answer == "ask":
        answer = _ask() if os.isatty(0) and os.isatty(2) else "keep"
    if answer == "remove":
        failedsteps.remove(Path(kept))
        return
    place = "" if arguments.root == parser_shell().get_default("root") else f" --root {arguments.root}"
    if answer == "shell":
        command_shell(["--root", arguments.root, "--isolation", arguments.isolation, "@"])
    else:
        sys.stderr.write(f"hint: pybuild shell{place} opens a shell in the step as it was left\n")
    sys.stderr.write(f"hint: pybuild resume{place} builds again, from that step on\n")


def _ask() -> str:
    sys.stderr.write("shell, keep or remove the step that failed? [s/K/r] ")
    sys.stderr.flush()
    return {"s": "shell", "r": "remove"}.get(sys.stdin.readline().strip().lower()[:1], "keep")


def parser_resume() -> ArgumentParser:
    """The options of ``pybuild resume``."""
    return create_parser("resume", "Build again what failed last, with the same options.", "pybuild resume")


def command_resume(words: Sequence[str]) -> int:
    """Exit status of the build; steps before the one that failed are in the cache."""
    arguments = parser_resume().read(words)
    become_root()
    failed = failedsteps.newest(arguments.root)
    os.close(failed.lock)
    directory, command = failedsteps.read_command(failed.path)
    try:
        os.chdir(directory)
    except OSError as error:
        raise BuildError(f"directory {directory!r} of the build: {os.strerror(error.errno or 0).lower()}") from error
    from builder.cli.build import command_build

    return command_build(command)

"""Instructions that change the image's configuration and nothing else.

Invariants: a function per instruction; each adds one history line (ONBUILD none) in the words BuildKit uses, so that
tools which read histories find what they know; values are snapshots: an ENV sees the variables before it.
"""

from __future__ import annotations

from builder.convert.quoting import plain_list, quote_list
from builder.convert.state import StageState
from builder.dockerfile import instructions, shell
from builder.dockerfile.instructions import CommandLine
from builder.errors import DockerfileError
from layers.config import Healthcheck


def convert_arg(state: StageState, instruction: instructions.Arg) -> None:
    """ARG: the value comes from the build argument, the default, or the global scope, in this order."""
    shown: list[str] = []
    for written, default in instruction.declarations:
        name = written
        value = state.around.build_args.get(name)
        if value is None and default is not None:
            value = state.expand(default)
        elif value is None:
            value = state.around.global_scope.get(name)
        if value is not None:
            state.environment[name] = value
        state.declared[name] = value
        shown.append(name if value is None else f"{name}={value}")
    state.note("ARG " + " ".join(shown))


def convert_env(state: StageState, instruction: instructions.Env) -> None:
    """ENV."""
    pairs = [(state.expand(pair.key), state.expand(pair.value)) for pair in instruction.pairs]
    for name, value in pairs:
        if not name:
            raise DockerfileError("ENV: a name is empty once expanded")
        state.set_variable(name, value)
    state.note("ENV " + " ".join(f"{name}={value}" for name, value in pairs))


def convert_label(state: StageState, instruction: instructions.Label) -> None:
    """LABEL."""
    pairs = [(state.expand(pair.key), state.expand(pair.value)) for pair in instruction.pairs]
    state.config = state.config._replace(labels={**state.config.labels, **dict(pairs)})
    state.note("LABEL " + " ".join(f"{name}={value}" for name, value in pairs))


def convert_maintainer(state: StageState, instruction: instructions.Maintainer) -> None:
    """MAINTAINER."""
    state.config = state.config._replace(author=instruction.name)
    state.note(f"MAINTAINER {instruction.name}")


def convert_expose(state: StageState, instruction: instructions.Expose) -> None:
    """EXPOSE: a word may expand to several ports."""
    from builder.convert.ports import parse_ports

    words = [
        word for port in instruction.ports for word in shell.split_words(port, state.environment, state.around.rules)
    ]
    try:
        ports = parse_ports(words)
    except ValueError as error:
        raise DockerfileError(f"EXPOSE: {error}") from None
    state.config = state.config._replace(exposed_ports=tuple(sorted({*state.config.exposed_ports, *ports})))
    state.note(f"EXPOSE {plain_list(ports)}")


def convert_volume(state: StageState, instruction: instructions.Volume) -> None:
    """VOLUME."""
    paths = [state.expand(path) for path in instruction.paths]
    if not all(paths):
        raise DockerfileError("VOLUME: a path is empty once expanded")
    state.config = state.config._replace(volumes=tuple(sorted({*state.config.volumes, *paths})))
    state.note(f"VOLUME {plain_list(paths)}")


def convert_user(state: StageState, instruction: instructions.User) -> None:
    """USER."""
    user = state.expand(instruction.user)
    state.config = state.config._replace(user=user)
    state.note(f"USER {user}")


def convert_stop_signal(state: StageState, instruction: instructions.StopSignal) -> None:
    """STOPSIGNAL."""
    from builder.convert.signals import check_signal

    signal = state.expand(instruction.signal)
    try:
        check_signal(signal)
    except ValueError as error:
        raise DockerfileError(f"STOPSIGNAL: {error}") from None
    state.config = state.config._replace(stop_signal=signal)
    state.note(f"STOPSIGNAL {signal}")


def convert_cmd(state: StageState, instruction: instructions.Cmd) -> None:
    """CMD."""
    words = _command(state, instruction.command)
    state.config = state.config._replace(cmd=words, args_escaped=True)
    state.cmd_set = True
    state.note(f"CMD {quote_list(words)}")


def convert_entrypoint(state: StageState, instruction: instructions.Entrypoint) -> None:
    """ENTRYPOINT: a CMD that the stage did not set itself belongs to the former entrypoint and goes with it."""
    words = _command(state, instruction.command)
    cmd = state.config.cmd if state.cmd_set else ()
    state.config = state.config._replace(entrypoint=words, cmd=cmd)
    state.note(f"ENTRYPOINT {quote_list(words)}")


def convert_shell(state: StageState, instruction: instructions.Shell) -> None:
    """SHELL."""
    state.config = state.config._replace(shell=instruction.words)
    state.note(f"SHELL {plain_list(instruction.words)}")


def convert_healthcheck(state: StageState, instruction: instructions.Healthcheck) -> None:
    """HEALTHCHECK."""
    from builder.dockerfile.durations import format_duration

    command = instruction.command
    if command is None:
        test: tuple[str, ...] = ("NONE",)
    else:
        test = ("CMD-SHELL" if command.shell_form else "CMD", *command.words)
    health = Healthcheck(
        test,
        instruction.interval_ns,
        instruction.timeout_ns,
        instruction.start_period_ns,
        instruction.start_interval_ns,
        instruction.retries,
    )
    state.config = state.config._replace(healthcheck=health)
    state.note(
        f"HEALTHCHECK {{Test:{plain_list(test)} Interval:{format_duration(health.interval_ns)} "
        f"Timeout:{format_duration(health.timeout_ns)} StartPeriod:{format_duration(health.start_period_ns)} "
        f"StartInterval:{format_duration(health.start_interval_ns)} Retries:{health.retries}}}"
    )


def convert_onbuild(state: StageState, instruction: instructions.Onbuild) -> None:
    """ONBUILD: kept for the builds that start from this image; history says nothing of it."""
    state.config = state.config._replace(on_build=(*state.config.on_build, instruction.expression))


def _command(state: StageState, command: CommandLine) -> tuple[str, ...]:
    if not command.shell_form:
        return command.words
    return (*state.shell_words(), " ".join(command.words))

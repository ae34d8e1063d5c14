"""RUN: the command, its environment and mounts.

Invariants: variables of the command itself are the shell's business and stay; the arguments in scope are part of the
environment and of the history line; proxy arguments that nobody declared are kept apart.
"""

from __future__ import annotations

from builder.convert.state import BUILT, StageState
from builder.dockerfile import instructions
from builder.dockerfile.instructions import CommandLine
from builder.dockerfile.lexer import parse_heredoc
from builder.errors import DockerfileError
from builder.graph import BindMount, CacheMount, InlineFile, Mount, Origin, Run, SecretMount, SshMount, StepId

PIPES = "/dev/pipes"
"""Where a document that is a script of its own appears while the command runs."""

_HIDDEN = "****"
_HOSTNAME = "BUILDKIT_SANDBOX_HOSTNAME"
_CACHE_NAMESPACE = "BUILDKIT_CACHE_MOUNT_NS"


def convert_run(state: StageState, instruction: instructions.Run) -> None:
    """RUN becomes a step whose layer is what the command writes."""
    mounts = _mounts(state, instruction)
    argv, script, summary = _command(state, instruction.command)
    joined = " ".join(argv)
    operation = Run(
        argv=argv,
        env=tuple(f"{name}={value}" for name, value in state.environment.items()),
        cwd=state.cwd,
        user=state.config.user,
        network=instruction.network,
        security=instruction.security,
        mounts=mounts,
        hostname=state.around.build_args.get(_HOSTNAME),
        shell_text=joined,
        proxy_env=state.around.proxy_env,
        script=script,
        devices=tuple(state.expand(device) for device in instruction.devices),
    )
    inputs: dict[StepId, None] = {}
    for mount in mounts:
        if isinstance(mount, BindMount | CacheMount) and mount.from_step is not None:
            inputs[mount.from_step] = None
    hidden = {mount.env: _HIDDEN for mount in mounts if isinstance(mount, SecretMount) and mount.env is not None}
    rules = state.around.rules._replace(raw_quotes=True, keep_unset=True)
    title = state.title(instruction.origin.text + summary, rules, {**state.environment, **hidden})
    created_by = f"RUN {_arguments(state)}{joined}{BUILT}"
    state.add_step(operation, tuple(inputs), instruction.origin.source, title, created_by)


def _arguments(state: StageState) -> str:
    """Return ``|2 A=1 B=2 `` for the arguments in scope, nothing when there are none."""
    if not state.declared:
        return ""
    shown = [f"{name}={state.environment.get(name, value or '')}" for name, value in state.declared.items()]
    return f"|{len(shown)} {' '.join(shown)} "


def _command(state: StageState, command: CommandLine) -> tuple[tuple[str, ...], InlineFile | None, str]:
    """Return the argument list, the script that must be there, and what a title adds."""
    if not command.shell_form:
        if not command.words:
            raise DockerfileError("RUN requires a command, got an empty array")
        return command.words, None, ""
    text = " ".join(command.words)
    script: InlineFile | None = None
    summary = ""
    if command.heredocs:
        first = command.heredocs[0]
        if parse_heredoc(text) is None:
            text += "".join(f"\n{document.body}{document.name}" for document in command.heredocs)
        else:
            summary = f" ({_summary(first.body)})"
            text = first.content
            if text.startswith("#!"):
                script = InlineFile(first.name, text)
                text = f"{PIPES}/{first.name}"
    return (*state.shell_words(), text), script, summary


def _summary(document: str) -> str:
    first, *more = document.strip().replace("\r\n", "\n").split("\n")
    return first + ("..." if more else "")


def _mounts(state: StageState, instruction: instructions.Run) -> tuple[Mount, ...]:
    if not instruction.mounts:
        return ()
    from builder.convert.mounts import Context, parse_mount

    place = instruction.origin.source

    def origin_of(reference: str) -> Origin:
        return state.around.origin_of(reference, state.number, place)

    namespace = state.around.build_args.get(_CACHE_NAMESPACE, "")
    mounts: list[Mount] = []
    for text in instruction.mounts:
        agents = sum(isinstance(mount, SshMount) for mount in mounts)
        mounts.append(parse_mount(text, state.expand, Context(state.cwd, origin_of, agents, namespace)))
    return tuple(mounts)

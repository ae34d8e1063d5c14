"""The keys of steps: from operations and the results they stand on to `cache.keys`.

On the cached-build path.  The table of what counts is spec'd in docs/formats, "Cache keys".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from builder.context import BuildContext
from builder.graph import (
    BindMount,
    CacheMount,
    Copy,
    MakeDirectory,
    Mount,
    Run,
    SecretMount,
    SshMount,
    Step,
    StepId,
    TmpfsMount,
)
from builder.results import EMPTY, StepResult
from builder.selection import SourceTree
from builder.session import Session
from builder.steps import copykeys
from builder.steps.copykeys import Target
from cache.framing import Value
from cache.keys import CONTENT, DEFINITION, CacheKey, KeyedMount, KeyedSource, StepInput, directory_key, run_key
from layers.digest import ChainId, Digest
from layers.platform import Platform
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class StepKeys(NamedTuple):
    """The keys of one step. ``content`` makes its key when called, since that may read files; None: there is none."""

    definition: CacheKey
    content: Callable[[], CacheKey] | None


class KeyInputs(NamedTuple):
    """What keys depend on besides steps. ``network`` is the build's own, for steps that ask for the default.

    ``context`` is the build context, ``named`` are those with a name; ``ignores_owners``: `builder.owners`.
    """

    platform: Platform
    network: str
    extra_hosts: tuple[str, ...]
    ulimits: tuple[str, ...]
    capabilities: tuple[str, ...]
    epoch: int | None
    context: BuildContext
    session: Session
    named: Mapping[str, BuildContext]
    ignores_owners: bool = False

    def context_of(self, name: str) -> BuildContext:
        """The context called ``name``, the build context when that is empty."""
        return self.named[name] if name else self.context


def create_keys(
    step: Step, results: Mapping[StepId, StepResult], inputs: KeyInputs, remote: Sequence[tuple[str, Value]] = ()
) -> StepKeys:
    """The keys of ``step``, which is none of those without a record (a base, an empty root).

    ``remote`` says what the remote sources of ADD are.

    Raises:
        BuildError: a source of COPY or ADD is wrong.
    """
    parent = EMPTY if step.base is None else results[step.base]
    operation = step.operation
    if isinstance(operation, Run):
        return _run(operation, parent, results, inputs)
    if isinstance(operation, MakeDirectory):
        return StepKeys(
            _directory(DEFINITION, operation, parent, inputs), lambda: _directory(CONTENT, operation, parent, inputs)
        )
    if isinstance(operation, Copy):
        return _copy(operation, parent, results, inputs, remote)
    raise TypeError(f"step {step.title!r} has no key of its own")


def step_input(result: StepResult) -> StepInput:
    """``result`` as something another step stands on or takes files from."""
    return StepInput(result.key, result.chain_id or "")


def _run(operation: Run, parent: StepResult, results: Mapping[StepId, StepResult], inputs: KeyInputs) -> StepKeys:
    """The keys of RUN: mounted files of a step are known by the step or by content, those of the context by content.

    Both keys say what the context held when they were made, not what it holds when the content key is asked for.
    """
    held = {
        mount: _mounted(DEFINITION, mount, results, inputs)
        for mount in operation.mounts
        if isinstance(mount, BindMount | CacheMount) and shows_context(mount)
    }

    def mounted(strength: str, mount: BindMount | CacheMount) -> StepInput | str:
        return held[mount] if mount in held else _mounted(strength, mount, results, inputs)

    def make(strength: str) -> CacheKey:
        return run_key(
            strength,
            parent=step_input(parent),
            argv=operation.argv,
            env=operation.env,
            cwd=operation.cwd,
            user=operation.user,
            platform=str(inputs.platform),
            hostname=operation.hostname or "",
            extra_hosts=[_host(entry) for entry in inputs.extra_hosts],
            mounts=[_mount(strength, mount, mounted) for mount in operation.mounts],
            ulimits=inputs.ulimits,
            network=inputs.network if operation.network == "default" else operation.network,
            security=" ".join((operation.security, *inputs.capabilities)),
            devices=operation.devices,
            stdin="" if operation.script is None else operation.script.content,
            epoch=inputs.epoch,
            ignores_owners=inputs.ignores_owners,
        )

    return StepKeys(make(DEFINITION), functools.lru_cache(maxsize=1)(functools.partial(make, CONTENT)))


def shows_context(mount: BindMount | CacheMount) -> bool:
    """Whether what ``mount`` shows, or begins with, are files of a context."""
    return mount.from_step is None and (isinstance(mount, BindMount) or bool(mount.context))


def _mount(
    strength: str, mount: Mount, mounted: Callable[[str, BindMount | CacheMount], StepInput | str]
) -> KeyedMount:
    """``mount`` as far as it decides the result of its step; ``mounted`` tells the files of one, by strength."""
    keyed = KeyedMount(type(mount).__name__.removesuffix("Mount").lower(), mount.target or "")
    match mount:
        case BindMount():
            return keyed._replace(source=mount.source, read_only=mount.read_only, input=mounted(strength, mount))
        case CacheMount():
            seed = None if mount.from_step is None and not mount.context else mounted(strength, mount)
            return keyed._replace(
                source=mount.source,
                read_only=mount.read_only,
                sharing=mount.sharing,
                mode=mount.mode,
                uid=mount.uid,
                gid=mount.gid,
                input=seed,
            )
        case TmpfsMount():
            return keyed._replace(size_bytes=mount.size_bytes)
        case SecretMount():
            return keyed._replace(
                id=mount.id, env=mount.env, required=mount.required, mode=mount.mode, uid=mount.uid, gid=mount.gid
            )
        case SshMount():
            return keyed._replace(id=mount.id, required=mount.required, mode=mount.mode, uid=mount.uid, gid=mount.gid)


def _mounted(
    strength: str, mount: BindMount | CacheMount, results: Mapping[StepId, StepResult], inputs: KeyInputs
) -> StepInput | str:
    """The files that ``mount`` shows: by the step they come from, or by content."""
    if strength == DEFINITION and mount.from_step is not None:
        return step_input(results[mount.from_step])
    operation = Copy((mount.source,), "/", mount.from_step, context=mount.context)
    with open_source(operation, results, inputs) as tree:
        sources = copykeys.keyed_sources(operation, tree, inputs.session.cache.files)
    return " ".join(source.digest for source in sources)


def _host(entry: str) -> tuple[str, str]:
    name, _, address = entry.replace("=", ":", 1).partition(":")
    return name, address


def _directory(strength: str, operation: MakeDirectory, parent: StepResult, inputs: KeyInputs) -> CacheKey:
    return directory_key(
        strength, parent=step_input(parent), path=operation.path, user=operation.user, epoch=inputs.epoch
    )


def _copy(
    operation: Copy,
    parent: StepResult,
    results: Mapping[StepId, StepResult],
    inputs: KeyInputs,
    remote: Sequence[tuple[str, Value]],
) -> StepKeys:
    """The keys of COPY or ADD: what comes from a step is known by the step, what comes from the context by content."""
    if operation.from_step is None:
        sources = copykeys.keyed_sources(operation, inputs.context_of(operation.context), inputs.session.cache.files)
        return _copy_of_context(operation, parent, inputs, remote, sources)

    def content() -> CacheKey:
        with open_source(operation, results, inputs) as tree:
            sources = copykeys.keyed_sources(operation, tree, inputs.session.cache.files)
        target = _target(operation, parent, inputs.session, by_content=True)
        return _copy_key(CONTENT, operation, parent, inputs, remote, sources, target)

    target = _target(operation, parent, inputs.session, by_content=False)
    origin = [step_input(results[operation.from_step])]
    return StepKeys(_copy_key(DEFINITION, operation, parent, inputs, remote, origin, target), content)


def _copy_of_context(
    operation: Copy,
    parent: StepResult,
    inputs: KeyInputs,
    remote: Sequence[tuple[str, Value]],
    sources: Sequence[KeyedSource],
    guessed: Target | None = None,
) -> StepKeys:
    """``guessed`` is taken for what the files below would tell."""
    target = guessed or _target(operation, parent, inputs.session, by_content=True)

    def make(strength: str) -> CacheKey:
        return _copy_key(strength, operation, parent, inputs, remote, sources, target)

    return StepKeys(make(DEFINITION), lambda: make(CONTENT))


def _copy_key(
    strength: str,
    operation: Copy,
    parent: StepResult,
    inputs: KeyInputs,
    remote: Sequence[tuple[str, Value]],
    sources: Sequence[KeyedSource | StepInput],
    target: Target,
) -> CacheKey:
    below = step_input(parent)
    return copykeys.key(
        strength, operation, parent=below, sources=sources, target=target, remote=remote, epoch=inputs.epoch
    )


def _target(operation: Copy, parent: StepResult, session: Session, *, by_content: bool) -> Target:
    branches: tuple[str, ...] = ()
    if parent.chain_id is not None and copykeys.looks_at_target(operation, by_content=by_content):
        session.ensure_unpacked(parent.layers)
        branches = session.snapshotter.directories(ChainId(Digest(parent.chain_id)))
    return copykeys.look_at(operation, branches)


def guess_keys(
    step: Step, results: Mapping[StepId, StepResult], inputs: KeyInputs, remote: Sequence[tuple[str, Value]] = ()
) -> tuple[StepKeys, ...]:
    """The keys that ``step`` may have, where telling which takes files of the step below that are not unpacked.

    One of them are its keys, and of the others there are no records; none where `create_keys` can tell at once.
    """
    operation, parent = step.operation, EMPTY if step.base is None else results[step.base]
    if not isinstance(operation, Copy) or operation.from_step is not None or not copykeys.guessable(operation):
        return ()
    if not copykeys.looks_at_target(operation, by_content=True) or inputs.session.is_unpacked(parent.layers):
        return ()
    sources = copykeys.keyed_sources(operation, inputs.context_of(operation.context), inputs.session.cache.files)
    return tuple(_copy_of_context(operation, parent, inputs, remote, sources, guess) for guess in copykeys.GUESSES)


@contextmanager
def open_source(operation: Copy, results: Mapping[StepId, StepResult], inputs: KeyInputs) -> Generator[SourceTree]:
    """The tree that ``operation`` takes files from."""
    if operation.from_step is None:
        yield inputs.context_of(operation.context)
        return
    from builder.rootfs import open_root
    from builder.stagefiles import StageFiles

    with open_root(branches_of(results[operation.from_step], inputs.session)) as root:
        yield StageFiles(root)


def branches_of(result: StepResult, session: Session) -> tuple[Path, ...]:
    """The branch directories of a step's root, top first. Raises LayersError where they can't be made."""
    session.ensure_unpacked(result.layers)
    return () if result.chain_id is None else session.snapshotter.view(ChainId(Digest(result.chain_id)))

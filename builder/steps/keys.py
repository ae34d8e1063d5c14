"""The keys of steps: from operations and the results they stand on to `cache.keys`.

On the cached-build path.  The table of what counts is spec'd in docs/formats, "Cache keys".
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from builder.context import BuildContext
from builder.graph import Copy, MakeDirectory, Run, Step, StepId
from builder.results import EMPTY, StepResult
from builder.selection import SourceTree
from builder.session import Session
from builder.steps import copykeys
from cache.keys import CONTENT, DEFINITION, CacheKey, KeyedSource, StepInput, directory_key, run_key
from layers.digest import ChainId, Digest
from layers.platform import Platform


class StepKeys(NamedTuple):
    """The keys of one step. ``content`` makes its key when called, since that may read files; None: there is none."""

    definition: CacheKey
    content: Callable[[], CacheKey] | None


class KeyInputs(NamedTuple):
    """What keys depend on besides steps. ``network`` is the build's own, for steps that ask for the default."""

    platform: Platform
    network: str
    extra_hosts: tuple[str, ...]
    epoch: int | None
    context: BuildContext
    session: Session


def create_keys(step: Step, results: Mapping[StepId, StepResult], inputs: KeyInputs) -> StepKeys:
    """The keys of ``step``, which is none of those without a record (a base, an empty root).

    Raises:
        BuildError: a source of COPY or ADD is wrong.
    """
    parent = EMPTY if step.base is None else results[step.base]
    operation = step.operation
    if isinstance(operation, Run):
        return StepKeys(_run(DEFINITION, operation, parent, inputs), lambda: _run(CONTENT, operation, parent, inputs))
    if isinstance(operation, MakeDirectory):
        return StepKeys(
            _directory(DEFINITION, operation, parent, inputs), lambda: _directory(CONTENT, operation, parent, inputs)
        )
    if isinstance(operation, Copy):
        return _copy(operation, parent, results, inputs)
    raise TypeError(f"step {step.title!r} has no key of its own")


def step_input(result: StepResult) -> StepInput:
    """``result`` as something another step stands on or takes files from."""
    return StepInput(result.key, result.chain_id or "")


def _run(strength: str, operation: Run, parent: StepResult, inputs: KeyInputs) -> CacheKey:
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
        network=inputs.network if operation.network == "default" else operation.network,
        security=operation.security,
        devices=operation.devices,
        epoch=inputs.epoch,
    )


def _host(entry: str) -> tuple[str, str]:
    name, _, address = entry.replace("=", ":", 1).partition(":")
    return name, address


def _directory(strength: str, operation: MakeDirectory, parent: StepResult, inputs: KeyInputs) -> CacheKey:
    return directory_key(
        strength, parent=step_input(parent), path=operation.path, user=operation.user, epoch=inputs.epoch
    )


def _copy(operation: Copy, parent: StepResult, results: Mapping[StepId, StepResult], inputs: KeyInputs) -> StepKeys:
    """The keys of COPY or ADD: what comes from a step is known by the step, what comes from the context by content."""
    branches = branches_of(parent, inputs.session)

    def make(strength: str, sources: Sequence[KeyedSource | StepInput]) -> CacheKey:
        return copykeys.key(
            strength, operation, parent=step_input(parent), sources=sources, branches=branches, epoch=inputs.epoch
        )

    def content() -> CacheKey:
        with open_source(operation, results, inputs) as tree:
            return make(CONTENT, copykeys.keyed_sources(operation, tree, inputs.session.cache.files))

    if operation.from_step is not None:
        return StepKeys(make(DEFINITION, [step_input(results[operation.from_step])]), content)
    sources = copykeys.keyed_sources(operation, inputs.context, inputs.session.cache.files)
    return StepKeys(make(DEFINITION, sources), lambda: make(CONTENT, sources))


@contextmanager
def open_source(operation: Copy, results: Mapping[StepId, StepResult], inputs: KeyInputs) -> Generator[SourceTree]:
    """The tree that ``operation`` takes files from."""
    if operation.from_step is None:
        yield inputs.context
        return
    from builder.rootfs import open_root
    from builder.stagefiles import StageFiles

    with open_root(branches_of(results[operation.from_step], inputs.session)) as root:
        yield StageFiles(root)


def branches_of(result: StepResult, session: Session) -> tuple[Path, ...]:
    """The branch directories of a step's root, top first."""
    return () if result.chain_id is None else session.snapshotter.view(ChainId(Digest(result.chain_id)))

"""Steps run as soon as what they stand on is there, independent ones at the same time.

Invariants: a step runs once, after its base and its inputs; at most ``jobs`` steps run at a time; the first failure
cancels the others, and its exception is the one that leaves. What a step still has to settle holds nobody up, is never
cancelled, and has ended, of all steps, when the graph has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import trio

from builder.graph import Graph, Step, StepId
from builder.results import StepResult
from unionfs.namedtuple import NamedTuple


async def _nothing() -> None:
    """There is nothing to be settled."""


class Finished(NamedTuple):
    """A step that others can stand on; ``settle``, to be awaited once, does the rest of its work."""

    result: StepResult
    settle: Callable[[], Awaitable[None]] = _nothing


Execute = Callable[[Step, Mapping[StepId, StepResult]], Awaitable[Finished]]


async def run_graph(
    graph: Graph, known: Mapping[StepId, StepResult], execute: Execute, *, jobs: int
) -> dict[StepId, StepResult]:
    """Results of all steps of ``graph``; those in ``known`` are taken as they are.

    Raises:
        Exception: what the first failing step raised.
    """
    results = dict(known)
    finished = {step.id: trio.Event() for step in graph.steps}
    for step_id in known:
        finished[step_id].set()
    slots = trio.CapacityLimiter(jobs)
    failure: list[Exception] = []

    async def run_step(step: Step, cancel: trio.CancelScope) -> None:
        for needed in required_steps(step):
            await finished[needed].wait()
        try:
            async with slots:
                done = await execute(step, results)
            results[step.id] = done.result
            finished[step.id].set()
            await done.settle()
        except Exception as error:  # noqa: BLE001 - kept, and raised below without a group around it
            if not failure:
                failure.append(error)
            cancel.cancel()

    async with trio.open_nursery() as nursery:
        for step in graph.steps:
            if step.id not in known:
                nursery.start_soon(run_step, step, nursery.cancel_scope)
    if failure:
        raise failure[0]
    return results


def required_steps(step: Step) -> tuple[StepId, ...]:
    """What must have finished before ``step`` can start."""
    return step.inputs if step.base is None else (step.base, *step.inputs)

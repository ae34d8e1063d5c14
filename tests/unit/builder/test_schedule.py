"""Order, parallelism and failure of steps; what a step does is a function given by the test."""

import pytest
import trio
import trio.lowlevel
import trio.testing

from builder.dockerfile.source import SourceRange
from builder.graph import Graph, Scratch, Step, StepId
from builder.results import StepResult
from builder.schedule import Finished, run_graph
from layers.config import ImageConfig

LINE = SourceRange("Dockerfile", 1, 1)


def make_graph(*needs: tuple[int, ...]) -> Graph:
    """Step n needs the steps of the n-th tuple."""
    steps = tuple(
        Step(StepId(n), Scratch(), None, tuple(StepId(one) for one in inputs), LINE, f"step {n}", "")
        for n, inputs in enumerate(needs)
    )
    return Graph(steps, None, ImageConfig(), ())


def result(step: Step) -> StepResult:
    return StepResult(f"key {step.id}", ())


def run(graph, execute, *, jobs=4, known=None):
    async def main():
        return await run_graph(graph, known or {}, execute, jobs=jobs)

    return trio.run(main)


def test_a_step_runs_once_after_what_it_needs():
    order = []

    async def execute(step, results):
        assert all(one in results for one in step.inputs)
        await trio.lowlevel.checkpoint()
        order.append(int(step.id))
        return Finished(result(step))

    results = run(make_graph((), (0,), (0,), (1, 2)), execute)
    assert sorted(order) == [0, 1, 2, 3]
    assert order[0] == 0
    assert order[-1] == 3
    assert results[StepId(3)] == StepResult("key 3", ())


def test_independent_steps_run_at_the_same_time():
    async def execute(step, results):
        running.append(step.id)
        while len(running) < 2:
            await trio.lowlevel.checkpoint()
        return Finished(result(step))

    running: list[StepId] = []
    assert len(run(make_graph((), ()), execute)) == 2


def test_no_more_than_jobs_run_at_a_time():
    running = most = 0

    async def execute(step, results):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.testing.wait_all_tasks_blocked()
        running -= 1
        return Finished(result(step))

    run(make_graph(*[()] * 10), execute, jobs=3)
    assert most == 3


def test_known_results_are_not_made_again():
    async def execute(step, results):
        assert step.id == 1
        return Finished(result(step))

    known = {StepId(0): StepResult("before", ())}
    assert run(make_graph((), (0,)), execute, known=known)[StepId(0)].key == "before"


def test_the_first_failure_cancels_the_others_and_leaves_as_it_is():
    cancelled = []

    async def execute(step, results):
        if step.id == 0:
            raise ValueError("broken")
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(int(step.id))
            raise

    with pytest.raises(ValueError, match="broken"):
        run(make_graph((), (), (), (1, 2)), execute)
    assert set(cancelled) <= {1, 2}


def test_a_failure_while_cancelling_does_not_hide_the_first():
    async def execute(step, results):
        if step.id == 0:
            await trio.testing.wait_all_tasks_blocked()
            raise ValueError("first")
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("second")

    with pytest.raises(ValueError, match="first"):
        run(make_graph((), ()), execute)


def test_steps_do_not_wait_for_what_another_has_still_to_settle():
    order: list[str] = []

    async def execute(step, results):
        order.append(f"run {step.id}")

        async def settle():
            await trio.testing.wait_all_tasks_blocked()
            order.append(f"settle {step.id}")

        return Finished(result(step), settle)

    run(make_graph((), (0,)), execute, jobs=1)
    assert order[:2] == ["run 0", "run 1"]
    assert sorted(order[2:]) == ["settle 0", "settle 1"]


def test_what_is_to_be_settled_is_settled_although_another_step_fails():
    settled = []

    async def execute(step, results):
        if step.id == 1:
            raise ValueError("broken")

        async def settle():
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            settled.append(int(step.id))

        return Finished(result(step), settle)

    with pytest.raises(ValueError, match="broken"):
        run(make_graph((), (0,)), execute)
    assert settled == [0]


def test_a_step_that_cannot_be_settled_ends_the_graph():
    async def execute(step, results):
        async def settle():
            raise OSError("disk full")

        if step.id == 1:
            await trio.sleep_forever()
        return Finished(result(step), settle)

    with pytest.raises(OSError, match="disk full"):
        run(make_graph((), (0,)), execute)

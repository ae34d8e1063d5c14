"""The graphs of several platforms as one, so that all steps share the slots they run in.

::

    linux/amd64   0 FROM a@x   1 RUN tool   2 FROM b@y   3 COPY        0  1  2  3
    linux/arm64   0 FROM a@x   1 RUN tool   2 FROM b@z   3 COPY        0  1  4  5      the numbers in the whole

Invariants: pure; steps of a stage that is the same for several platforms (``FROM --platform=$BUILDPLATFORM``) are one
step of the whole; one graph alone is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from builder.graph import BindMount, CacheMount, Copy, Graph, Mount, Operation, Pull, Run, Step, StepId
from layers.platform import Platform
from unionfs.namedtuple import NamedTuple

T = TypeVar("T")


class Place(NamedTuple):
    """Where a step of the whole comes from: the number of a graph, and the step's number in that."""

    graph: int
    step: StepId


class Whole(NamedTuple):
    """``graph`` has the steps of all graphs.

    ``places`` says of each step where it comes from, ``numbers`` which steps of the whole those of each graph are.
    """

    graph: Graph
    places: tuple[Place, ...]
    numbers: tuple[tuple[StepId, ...], ...]

    def gather(self, known: Sequence[Mapping[StepId, T]]) -> dict[StepId, T]:
        """By the numbers of the whole what is known by those of each graph."""
        return {
            numbers[step]: value
            for numbers, own in zip(self.numbers, known, strict=True)
            for step, value in own.items()
        }

    def own(self, graph: int, results: Mapping[StepId, T]) -> dict[StepId, T]:
        """By the numbers of one graph what is known by those of the whole."""
        return {StepId(own): results[step] for own, step in enumerate(self.numbers[graph]) if step in results}


def merge(graphs: Sequence[Graph]) -> Whole:
    """The steps of ``graphs``, those that are equal once, in topological order."""
    steps: list[Step] = []
    places: list[Place] = []
    numbers: list[tuple[StepId, ...]] = []
    known: dict[tuple[object, ...], StepId] = {}
    for number, graph in enumerate(graphs):
        own: list[StepId] = []
        for step in graph.steps:
            moved = _renumber(step, own)
            key = (type(moved.operation), moved.operation, moved.base, step.title, step.id in graph.anew)
            if key not in known:
                known[key] = StepId(len(steps))
                steps.append(moved._replace(id=known[key]))
                places.append(Place(number, step.id))
            own.append(known[key])
        numbers.append(tuple(own))
    return Whole(graphs[0]._replace(steps=tuple(steps)), tuple(places), tuple(numbers))


def _renumber(step: Step, numbers: Sequence[StepId]) -> Step:
    """The step with ``numbers`` in place of those of the steps before it."""
    return step._replace(
        operation=_renumber_operation(step.operation, numbers),
        base=None if step.base is None else numbers[step.base],
        inputs=tuple(numbers[each] for each in step.inputs),
    )


def _renumber_operation(operation: Operation, numbers: Sequence[StepId]) -> Operation:
    if isinstance(operation, Copy) and operation.from_step is not None:
        return operation._replace(from_step=numbers[operation.from_step])
    if isinstance(operation, Run):
        return operation._replace(mounts=tuple(_renumber_mount(mount, numbers) for mount in operation.mounts))
    return operation


def _renumber_mount(mount: Mount, numbers: Sequence[StepId]) -> Mount:
    if isinstance(mount, BindMount | CacheMount) and mount.from_step is not None:
        return mount._replace(from_step=numbers[mount.from_step])
    return mount


def root_platforms(graph: Graph, platform: Platform) -> tuple[Platform, ...]:
    """For each step the platform its root is for: that of the image at its bottom, ``platform`` without one."""
    found: list[Platform] = []
    for step in graph.steps:
        if isinstance(step.operation, Pull):
            found.append(step.operation.platform)
        else:
            found.append(platform if step.base is None else found[step.base])
    return tuple(found)


def label(graph: Graph, platforms: Sequence[Platform]) -> Graph:
    """The graph whose titles say the platform: ``[linux/arm64 build 2/4] RUN make``."""
    steps = tuple(
        step._replace(title=_label(step.title, platform)) for step, platform in zip(graph.steps, platforms, strict=True)
    )
    return graph._replace(steps=steps)


def _label(title: str, platform: Platform) -> str:
    return f"[{platform} {title.removeprefix('[')}" if title.startswith("[") else f"[{platform}] {title}"

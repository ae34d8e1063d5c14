"""What happens during a build, as values; renderers (`builder.progress`) and metadata files are made of them.

::

    StepStarted  (StepOutput | StepProgress)*  StepFinished          for each step, in this order
    Finding                                                          for each thing a rule found in the Dockerfile
    Notice                                                           for any other warning

Invariants: a step that has started finishes exactly once, also when it fails or is cancelled; times are monotonic
nanoseconds of the building process.  On the cached-build path: nothing heavy is imported.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TypeAlias

from builder.dockerfile.source import Finding
from unionfs.namedtuple import NamedTuple


class Outcome(enum.Enum):
    """How a step ended."""

    DONE = "done"
    CACHED = "cached"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Usage(NamedTuple):
    """What the processes of one step used; None where the machine cannot tell."""

    cpu_user_ns: int | None = None
    cpu_system_ns: int | None = None
    memory_peak_bytes: int | None = None
    pids_peak: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None


class StepStarted(NamedTuple):
    """The step begins; ``number`` counts from 1 in the order of starting."""

    number: int
    title: str
    time_ns: int


class StepOutput(NamedTuple):
    """Bytes the step wrote; ``stream`` is 1 for stdout, 2 for stderr."""

    number: int
    stream: int
    data: bytes
    time_ns: int


class StepProgress(NamedTuple):
    """``current`` of ``total`` bytes of the part ``name`` are done; ``total`` is None when unknown."""

    number: int
    name: str
    current: int
    total: int | None
    time_ns: int


class StepFinished(NamedTuple):
    """The step has ended; ``error`` is one line, and there when the outcome is FAILED."""

    number: int
    outcome: Outcome
    time_ns: int
    error: str | None = None
    usage: Usage | None = None


class Notice(NamedTuple):
    """A warning that belongs to the build and not to a step."""

    text: str


Event: TypeAlias = StepStarted | StepOutput | StepProgress | StepFinished | Finding | Notice
Emit: TypeAlias = Callable[[Event], None]


class Journal:
    """Numbers the steps and stamps the events of one build on their way to ``emit``.

    Events may come from several threads; ``emit`` is called by one at a time only when the caller of the journal
    sees to it (the scheduler does: all its events are made on the trio thread or through its token).
    """

    def __init__(self, emit: Emit, clock_ns: Callable[[], int]) -> None:
        self._emit = emit
        self._clock_ns = clock_ns
        self._last_number = 0

    def start(self, title: str, started_ns: int | None = None) -> StepJournal:
        """A step has started, now or when it says; its number is the next one."""
        self._last_number += 1
        number = self._last_number
        self._emit(StepStarted(number, title, self._clock_ns() if started_ns is None else started_ns))
        return StepJournal(number, self._emit, self._clock_ns)

    def find(self, finding: Finding) -> None:
        """What a rule found is on its way to the user."""
        self._emit(finding)

    def notice(self, text: str) -> None:
        """A warning is on its way to the user."""
        self._emit(Notice(text))


class StepJournal:
    """The events of one started step."""

    __slots__ = ("_clock_ns", "_emit", "number")

    def __init__(self, number: int, emit: Emit, clock_ns: Callable[[], int]) -> None:
        self.number = number
        self._emit = emit
        self._clock_ns = clock_ns

    def relayed(self, call: Callable[[Emit, Event], object]) -> StepJournal:
        """The same step for another thread: its events are given to ``call`` together with where they go."""

        def relay(event: Event) -> None:
            call(self._emit, event)

        return StepJournal(self.number, relay, self._clock_ns)

    def output(self, stream: int, data: bytes) -> None:
        """The step wrote ``data``."""
        self._emit(StepOutput(self.number, stream, data, self._clock_ns()))

    def progress(self, name: str, current: int, total: int | None) -> None:
        """A part of the step has come to ``current`` bytes."""
        self._emit(StepProgress(self.number, name, current, total, self._clock_ns()))

    def finish(self, outcome: Outcome, error: str | None = None, usage: Usage | None = None) -> None:
        """The step has ended."""
        self._emit(StepFinished(self.number, outcome, self._clock_ns(), error, usage))

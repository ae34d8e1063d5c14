"""``--report``: what each step used, as a table below the progress, also of a build that failed.

Invariants: every event goes on to the rendering it is put around; steps of the Dockerfile are in the table, what the
builder does beside is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from builder.columns import table_lines
from builder.events import Event, Outcome, StepFinished, StepStarted, Usage
from builder.progress import Progress
from builder.progress.plain import TextOutput, format_bytes

_SECOND_NS = 1_000_000_000
_TITLE_COLUMNS = 50
_HEAD = ("STEP", "RESULT", "TIME", "CPU", "MEMORY", "PROCESSES", "READ", "WRITTEN")


class ReportingProgress:
    """Progress with a table at its end."""

    def __init__(self, shown: Progress, out: TextOutput) -> None:
        self._shown = shown
        self._out = out
        self._started: dict[int, StepStarted] = {}
        self._finished: list[tuple[StepStarted, StepFinished]] = []

    def __call__(self, event: Event) -> None:
        """``event`` is shown, and counted when a step ends with it."""
        match event:
            case StepStarted() if event.title.startswith("[") and not event.title.startswith("[internal]"):
                self._started[event.number] = event
            case StepFinished() if event.number in self._started:
                self._finished.append((self._started.pop(event.number), event))
            case _:
                pass
        self._shown(event)

    def tick(self) -> None:
        """As the rendering it is around."""
        self._shown.tick()

    def close(self) -> None:
        """The table is there."""
        self._shown.close()
        rows = [_row(*pair) for pair in self._finished]
        if rows:
            self._out.write("".join(f"{line}\n" for line in table_lines(_HEAD, [*rows, _total(self._finished)])))
            self._out.flush()
        self._finished.clear()


def _row(started: StepStarted, finished: StepFinished) -> Sequence[str]:
    usage = finished.usage or Usage()
    word = "failed" if finished.outcome is Outcome.FAILED else finished.outcome.name.lower()
    title = started.title if len(started.title) <= _TITLE_COLUMNS else started.title[: _TITLE_COLUMNS - 1] + "…"
    return (title, word, _seconds(finished.time_ns - started.time_ns), *_used(usage))


def _total(finished: Sequence[tuple[StepStarted, StepFinished]]) -> Sequence[str]:
    usages = [end.usage for _, end in finished if end.usage is not None]

    def combined(name: str, combine: Callable[[list[int]], int]) -> int | None:
        counted = [value for value in (getattr(usage, name) for usage in usages) if value is not None]
        return combine(counted) if counted else None

    whole = Usage(
        cpu_user_ns=combined("cpu_user_ns", sum),
        cpu_system_ns=combined("cpu_system_ns", sum),
        memory_peak_bytes=combined("memory_peak_bytes", max),
        pids_peak=combined("pids_peak", max),
        read_bytes=combined("read_bytes", sum),
        written_bytes=combined("written_bytes", sum),
    )
    first = min(start.time_ns for start, _ in finished)
    return (
        "all (memory, processes: most)",
        "",
        _seconds(max(end.time_ns for _, end in finished) - first),
        *_used(whole),
    )


def _used(usage: Usage) -> Sequence[str]:
    """What was counted; a dash for the rest."""
    has_cpu = usage.cpu_user_ns is not None and usage.cpu_system_ns is not None
    return (
        _seconds((usage.cpu_user_ns or 0) + (usage.cpu_system_ns or 0)) if has_cpu else "-",
        _bytes(usage.memory_peak_bytes),
        "-" if usage.pids_peak is None else str(usage.pids_peak),
        _bytes(usage.read_bytes),
        _bytes(usage.written_bytes),
    )


def _seconds(time_ns: int) -> str:
    return f"{time_ns / _SECOND_NS:.2f}s"


def _bytes(count: int | None) -> str:
    return "-" if count is None else format_bytes(count)

"""Progress on a terminal: finished steps scroll away, running ones live in a few lines that are redrawn.

::

     => [2/4] RUN make       1.1s cpu 40.20MB  1.2s       finished, written once: what it used, how long it took
     => CACHED [3/4] COPY . /src              0.0s
     => [4/4] RUN make test                   3.4s        running, redrawn
     => => # the last lines of its output

Invariants: the live block never is taller than the window; the cursor is visible again after ``close``; text of a
step cannot reach the terminal as control sequences (`visible_text`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

from builder.dockerfile.source import Finding
from builder.events import Event, Notice, Outcome, StepFinished, StepOutput, StepProgress, StepStarted
from builder.progress.findings import summary_of
from builder.progress.plain import TextOutput, format_bytes, visible_text

_SECOND_NS = 1_000_000_000
_REDRAW_INTERVAL_NS = 80_000_000
_TAIL_LINES = 5
_WIDE_COLUMNS = 70
_BLUE, _RED, _YELLOW, _RESET = "\x1b[34m", "\x1b[31m", "\x1b[33m", "\x1b[0m"


def width_of(text: str) -> int:
    """How many columns of a terminal ``text`` takes: wide characters take two, those that combine none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def clip(text: str, columns: int) -> str:
    """As much of ``text`` as ``columns`` take."""
    if text.isascii():
        return text[: max(columns, 0)]
    kept = text[: max(columns, 0)]
    while width_of(kept) > columns:
        kept = kept[:-1]
    return kept


class _Live:
    """One running step."""

    __slots__ = ("partial", "parts", "started_ns", "tail", "title")

    def __init__(self, title: str, started_ns: int) -> None:
        self.title = title
        self.started_ns = started_ns
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.partial = ""
        self.parts: dict[str, str] = {}

    def take(self, data: bytes) -> None:
        """The step's output has grown by ``data``."""
        lines = (self.partial + data.decode("utf-8", "replace")).split("\n")
        self.partial = lines.pop()[-4096:]
        self.tail.extend(visible_text(line) for line in lines)


class TtyProgress:
    """Draws the events of one build; ``tick`` redraws the elapsed times."""

    def __init__(self, out: TextOutput, clock_ns: Callable[[], int], *, colour: bool = True) -> None:
        self._out = out
        self._clock_ns = clock_ns
        self._colour = colour
        self._live: dict[int, _Live] = {}
        self._findings: list[Finding] = []
        self._drawn_lines = 0
        self._drawn_ns = 0

    def __call__(self, event: Event) -> None:
        """The screen shows ``event``, at once or with the next redraw."""
        match event:
            case StepStarted():
                self._live[event.number] = _Live(event.title, event.time_ns)
            case StepOutput():
                self._live[event.number].take(event.data)
            case StepProgress():
                total = "" if event.total is None else f" / {format_bytes(event.total)}"
                self._live[event.number].parts[event.name] = f"{event.name} {format_bytes(event.current)}{total}"
            case StepFinished():
                self._finish(event)
                return
            case Finding():
                self._findings.append(event)
                return
            case Notice():
                self._scroll([self._paint(_YELLOW, f" WARN: {event.text}")])
                return
        if self._clock_ns() - self._drawn_ns >= _REDRAW_INTERVAL_NS:
            self.tick()

    def tick(self) -> None:
        """The live block is redrawn with the time of now."""
        self._scroll([])

    def close(self) -> None:
        """The live block is gone; what the rules found is told last."""
        self._live.clear()
        self._scroll([self._paint(_YELLOW, line) for line in summary_of(self._findings)])
        self._findings.clear()

    def _finish(self, event: StepFinished) -> None:
        live = self._live.pop(event.number)
        seconds = (event.time_ns - live.started_ns) / _SECOND_NS
        word = {Outcome.CACHED: "CACHED ", Outcome.FAILED: "ERROR ", Outcome.CANCELLED: "CANCELED "}.get(
            event.outcome, ""
        )
        used = ""
        if event.usage is not None:
            from builder.progress.usage import describe_briefly

            used = describe_briefly(event.usage) + "  "
        line = self._step_line(f"{word}{live.title}", seconds, used)
        colour = {Outcome.FAILED: _RED, Outcome.CANCELLED: _YELLOW}.get(event.outcome, _BLUE)
        self._scroll([self._paint(colour, line)])

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._colour else text

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(2)
        except OSError:
            return 80, 24
        return size.columns or 80, max(size.lines, 4)

    def _step_line(self, title: str, seconds: float, used: str = "") -> str:
        columns, _ = self._size()
        stamp = f"{used if columns >= _WIDE_COLUMNS else ''}{seconds:.1f}s"
        room = max(columns - len(stamp) - 6, 1)
        text = title if clip(title, room) == title else clip(title, room - 1) + "…"
        return clip(f" => {text}{' ' * (room - width_of(text))} {stamp}", max(columns - 1, 1))

    def _scroll(self, lines: list[str]) -> None:
        """``lines`` stand above the live block, which is drawn anew."""
        erase = f"\x1b[{self._drawn_lines}F\x1b[J" if self._drawn_lines else ""
        block = self._block()
        text = erase + "".join(line + "\n" for line in lines) + "".join(line + "\n" for line in block)
        if text:
            self._out.write(text)
            self._out.flush()
        self._drawn_lines = len(block)
        self._drawn_ns = self._clock_ns()

    def _block(self) -> list[str]:
        columns, rows = self._size()
        now_ns = self._clock_ns()
        lines: list[str] = []
        for live in self._live.values():
            lines.append(self._step_line(live.title, (now_ns - live.started_ns) / _SECOND_NS))
            details = [*live.parts.values()][-_TAIL_LINES:] + [f"# {line}" for line in live.tail]
            lines.extend(clip(f" => => {detail}", columns) for detail in details)
        return lines[-(rows - 1) :]

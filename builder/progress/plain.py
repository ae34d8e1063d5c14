"""Progress as plain lines, in the form people's log readers know from BuildKit.

::

    #5 [build 2/4] RUN make
    #5 0.118 text the step wrote
    #5 used 0.10s cpu (0.07s user, 0.03s system), 12.30MB memory, 4 processes, 0B read, 1.20MB written
    #5 DONE 0.2s | CACHED | ERROR: … | CANCELED

Lines of one step carry its number; when another step speaks in between, a blank line and the title come first.
"""

from __future__ import annotations

from typing import Protocol

from builder.dockerfile.source import Finding
from builder.events import Event, Notice, Outcome, StepFinished, StepOutput, StepProgress, StepStarted

_SECOND_NS = 1_000_000_000
_PROGRESS_INTERVAL_NS = 2 * _SECOND_NS


class TextOutput(Protocol):
    """The part of a text stream that a renderer needs."""

    def write(self, text: str, /) -> object:
        """``text`` is on its way."""
        ...

    def flush(self) -> object:
        """What was written has left the process."""
        ...


class PlainProgress:
    """Writes each event as lines; use an instance as the ``emit`` of one build."""

    def __init__(self, out: TextOutput) -> None:
        self._out = out
        self._titles: dict[int, str] = {}
        self._started_ns: dict[int, int] = {}
        self._partial: dict[int, str] = {}
        self._reported: dict[tuple[int, str], int] = {}
        self._speaker: int | None = None
        self._findings: list[Finding] = []

    def __call__(self, event: Event) -> None:
        """The lines of ``event`` are written and flushed."""
        match event:
            case StepStarted():
                self._titles[event.number] = event.title
                self._started_ns[event.number] = event.time_ns
                self._speak(event.number)
            case StepOutput():
                self._output(event)
            case StepProgress():
                self._progress(event)
            case StepFinished():
                self._finish(event)
            case Finding():
                self._findings.append(event)
            case Notice():
                self._line(None, f"WARN: {event.text}")
        self._out.flush()

    def tick(self) -> None:
        """No running time is shown."""

    def close(self) -> None:
        """Nothing is held back; what the rules found is told last."""
        if self._findings:
            from builder.progress.findings import summary_of

            self._out.write("\n" + "\n".join(summary_of(self._findings)) + "\n")
            self._findings.clear()
        self._out.flush()

    def _speak(self, number: int) -> None:
        if self._speaker == number:
            return
        if self._speaker is not None:
            self._out.write("\n")
        self._speaker = number
        self._out.write(f"#{number} {self._titles[number]}\n")

    def _line(self, number: int | None, text: str) -> None:
        if number is None:
            self._out.write(text + "\n")
            return
        self._speak(number)
        self._out.write(f"#{number} {text}\n")

    def _output(self, event: StepOutput) -> None:
        stamp = f"{(event.time_ns - self._started_ns[event.number]) / _SECOND_NS:.3f}"
        text = self._partial.pop(event.number, "") + event.data.decode("utf-8", "replace")
        lines = text.split("\n")
        if lines[-1]:
            self._partial[event.number] = lines[-1]
        for line in lines[:-1]:
            self._line(event.number, f"{stamp} {visible_text(line)}")

    def _progress(self, event: StepProgress) -> None:
        part = (event.number, event.name)
        complete = event.total is not None and event.current >= event.total
        last_ns = self._reported.get(part)
        if last_ns is not None and not complete and event.time_ns - last_ns < _PROGRESS_INTERVAL_NS:
            return
        self._reported[part] = event.time_ns
        total = "" if event.total is None else f" / {format_bytes(event.total)}"
        done = " done" if complete else ""
        self._line(event.number, f"{event.name} {format_bytes(event.current)}{total}{done}")

    def _finish(self, event: StepFinished) -> None:
        seconds = (event.time_ns - self._started_ns[event.number]) / _SECOND_NS
        rest = self._partial.pop(event.number, "")
        if rest:
            self._line(event.number, f"{seconds:.3f} {visible_text(rest)}")
        if event.usage is not None:
            from builder.progress.usage import describe

            self._line(event.number, f"used {describe(event.usage)}")
        match event.outcome:
            case Outcome.DONE:
                self._line(event.number, f"DONE {seconds:.1f}s")
            case Outcome.CACHED:
                self._line(event.number, "CACHED")
            case Outcome.CANCELLED:
                self._line(event.number, "CANCELED")
            case Outcome.FAILED:
                self._line(event.number, f"ERROR: {event.error}")


def visible_text(line: str) -> str:
    """``line`` as a terminal would end up showing it: the last of what carriage returns overwrite, no controls.

    A build's output must not be able to move the cursor or change the colours of the reader's terminal.
    """
    last = line.rstrip("\r").rpartition("\r")[2]
    if last.isprintable():
        return last
    return _strip_controls(last)


def _strip_controls(text: str) -> str:
    import re

    text = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])", "", text)
    return "".join(char if char.isprintable() or char == "\t" else "�" if char >= "\x80" else "" for char in text)


def format_bytes(count: int) -> str:
    """``count`` bytes for people: ``512B``, ``1.50MB`` (powers of 1000, as docker shows them)."""
    if count < 1000:  # noqa: PLR2004 - the unit itself
        return f"{count}B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 1000:  # noqa: PLR2004 - the unit itself
            return f"{value:.2f}{unit}"
    return f"{value / 1000:.2f}PB"

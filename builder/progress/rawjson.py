"""Progress for programs: one JSON object a line, in the shape of BuildKit's ``SolveStatus``.

Source of the fields: ``docker buildx build --progress=rawjson``: ``vertexes``, ``statuses``, ``logs`` (data in
base64), ``warnings``.  Times are seconds since the build began.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from builder.dockerfile.source import Finding
from builder.events import Event, Notice, Outcome, StepFinished, StepOutput, StepProgress, StepStarted
from builder.progress.plain import TextOutput

_SECOND_NS = 1_000_000_000


class JsonProgress:
    """Writes each event as one line of JSON."""

    def __init__(self, out: TextOutput) -> None:
        self._out = out
        self._origin_ns: int | None = None
        self._vertexes: dict[int, dict[str, Any]] = {}

    def __call__(self, event: Event) -> None:
        """The object of ``event`` is written and flushed."""
        self._out.write(json.dumps(self._status(event), ensure_ascii=False) + "\n")
        self._out.flush()

    def tick(self) -> None:
        """No running time is shown."""

    def close(self) -> None:
        """Nothing is held back."""
        self._out.flush()

    def _status(self, event: Event) -> dict[str, Any]:
        if isinstance(event, Notice):
            return {"warnings": [{"short": event.text}]}
        if isinstance(event, Finding):
            return {"warnings": [_warning(event)]}
        if self._origin_ns is None:
            self._origin_ns = event.time_ns
        seconds = (event.time_ns - self._origin_ns) / _SECOND_NS
        match event:
            case StepStarted():
                vertex = {"digest": str(event.number), "name": event.title, "started": seconds}
                self._vertexes[event.number] = vertex
                return {"vertexes": [vertex]}
            case StepOutput():
                data = base64.b64encode(event.data).decode("ascii")
                log = {"vertex": str(event.number), "stream": event.stream, "data": data, "timestamp": seconds}
                return {"logs": [log]}
            case StepProgress():
                status = {"id": event.name, "vertex": str(event.number), "name": event.name}
                return {"statuses": [{**status, "current": event.current, "total": event.total, "timestamp": seconds}]}
            case StepFinished():
                return {"vertexes": [self._finished(event, seconds)]}

    def _finished(self, event: StepFinished, seconds: float) -> dict[str, Any]:
        vertex = self._vertexes[event.number] | {"completed": seconds}
        if event.outcome is Outcome.CACHED:
            vertex["cached"] = True
        if event.outcome is Outcome.CANCELLED:
            vertex["error"] = "canceled"
        if event.error is not None:
            vertex["error"] = event.error
        if event.usage is not None:
            vertex["usage"] = event.usage._asdict()
        return vertex


def _warning(finding: Finding) -> dict[str, Any]:
    warning: dict[str, Any] = {"level": 1, "short": f"{finding.rule}: {finding.message}"}
    if finding.source is not None:
        lines = {"start": {"line": finding.source.start}, "end": {"line": finding.source.end}}
        warning |= {"sourceInfo": {"filename": finding.source.file}, "range": [lines]}
    return warning

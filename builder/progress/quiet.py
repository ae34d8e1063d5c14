"""Progress for nobody: only warnings are shown."""

from __future__ import annotations

from builder.events import Event, Notice
from builder.progress.plain import TextOutput


class QuietProgress:
    """Writes notices and nothing else."""

    def __init__(self, out: TextOutput) -> None:
        self._out = out

    def __call__(self, event: Event) -> None:
        """A notice is written; other events pass."""
        if isinstance(event, Notice):
            self._out.write(f"WARN: {event.text}\n")
            self._out.flush()

    def tick(self) -> None:
        """No running time is shown."""

    def close(self) -> None:
        """There is nothing to end."""

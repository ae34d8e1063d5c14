"""Renderings of the event stream; only the one that is used is imported."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol, TextIO

from builder.events import Event


class Progress(Protocol):
    """A rendering: call it with each event, ``tick`` it now and then, ``close`` it at the end."""

    def __call__(self, event: Event) -> None:
        """``event`` is shown."""

    def tick(self) -> None:
        """Times that run are shown anew."""

    def close(self) -> None:
        """Nothing is held back, and the terminal is as it was."""


def create_progress(mode: str, out: TextIO, clock_ns: Callable[[], int]) -> Progress:
    """The rendering called ``mode`` (``auto``, ``tty``, ``plain``, ``rawjson``, ``quiet`` or ``none``) on ``out``.

    ``auto`` is ``tty`` on a terminal and ``plain`` elsewhere.
    """
    if mode == "auto":
        mode = "tty" if out.isatty() and os.environ.get("TERM", "dumb") != "dumb" else "plain"
    if mode == "tty":
        from builder.progress.tty import TtyProgress

        return TtyProgress(out, clock_ns, colour="NO_COLOR" not in os.environ)
    if mode == "rawjson":
        from builder.progress.rawjson import JsonProgress

        return JsonProgress(out)
    if mode in {"quiet", "none"}:
        from builder.progress.quiet import QuietProgress

        return QuietProgress(out)
    from builder.progress.plain import PlainProgress

    return PlainProgress(out)
